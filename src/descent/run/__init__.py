"""A run: its directory, lock, signals, result and console."""
