"""The Trainer from the config, checkpoints, stopping and curves."""
