"""The ``mullama`` connection."""
