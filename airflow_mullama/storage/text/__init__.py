"""JSON Lines and CSV, read as rows of one schema."""
