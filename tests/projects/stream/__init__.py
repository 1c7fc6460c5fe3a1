"""Rows that come from a stream without a length."""
