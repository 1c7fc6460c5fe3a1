"""Measurements for scripts/benchmark.py."""
