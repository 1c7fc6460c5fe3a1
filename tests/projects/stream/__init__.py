"""Trains on rows from a stream without a length."""
