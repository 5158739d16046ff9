"""Frozen, validated descriptions of the work."""
