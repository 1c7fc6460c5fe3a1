"""Sweeps that resume, tune and search."""
