"""Batches with a reproducible order and an exact position."""
