"""Parquet itself: what a file says of its columns, read in bounded pieces, and written back as it was."""
