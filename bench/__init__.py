"""Measurements against other implementations, side by side in one run: `python -m bench`."""
