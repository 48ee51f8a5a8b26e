"""What commands and functions take where nothing else is said; light, because `--help` shows it."""

LEASE_S = 120.0
"""A claim that was not touched for so long is of a process that died."""
MAX_DAYS = 45
"""So far apart may the acquisitions of one sample be."""
