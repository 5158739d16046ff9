"""Outputs with a row for each chunk of a document instead of one for each row of the input."""
