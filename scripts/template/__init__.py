"""What ``new_project.py`` does: a project of one's own from this template, and newer machinery for it later."""
