"""The project's own: its model and its data."""
