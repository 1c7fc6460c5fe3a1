"""Found by Hydra."""
