"""Runs training steps without Lightning's overhead, and holds all code that uses Lightning's private API."""
