"""A project for runs with several processes."""
