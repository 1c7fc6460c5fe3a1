"""Creates and upgrades projects for ``new_project.py``."""
