"""Batches in a reproducible order, with an exact position."""
