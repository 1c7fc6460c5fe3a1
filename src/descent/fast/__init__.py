"""Training steps without Lightning's overhead, and the rest of what needs private parts of Lightning."""
