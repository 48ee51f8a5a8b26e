"""Measurements against other people's software, side by side on the same machine."""
