"""Partitions on filesystems: finding them, streaming them in, staging chunks, publishing outputs."""
