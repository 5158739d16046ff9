"""Where a partition's output grows until it is published whole."""
