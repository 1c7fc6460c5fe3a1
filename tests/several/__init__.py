"""What a project may bring to a run of several processes."""
