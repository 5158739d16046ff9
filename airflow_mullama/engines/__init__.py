"""Engines: what turns requests into outcomes. ``base`` is the seam, ``registry`` the list."""
