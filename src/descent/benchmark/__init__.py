"""How long this project takes, beside a plain loop, the usual Lightning way, and compiled code."""
