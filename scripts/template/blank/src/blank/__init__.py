"""The project's model and data."""
