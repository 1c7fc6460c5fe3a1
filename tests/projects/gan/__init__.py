"""Points on a ring, by two networks against each other."""
