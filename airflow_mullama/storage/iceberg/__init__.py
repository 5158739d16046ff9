"""Tables of Iceberg, by the package pyiceberg."""
