"""What comes from outside is made safe to show: keys blotted out, control characters made visible."""
