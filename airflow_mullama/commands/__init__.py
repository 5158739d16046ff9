"""The command line: the same jobs from a shell, ``tune``, ``doctor`` and ``demo``."""
