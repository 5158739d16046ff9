"""What tables of Iceberg and Delta Lake have in common: addresses, data files, publishing a partition."""
