"""Sweeps that continue, tune and search."""
