"""Runs training steps without Lightning's overhead, and holds the code that uses its private API."""
