"""Training steps without Lightning's overhead."""
