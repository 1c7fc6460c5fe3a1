"""Generates points on a ring with a generative adversarial network."""
