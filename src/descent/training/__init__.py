"""Builds the Trainer, with checkpoints, stopping rules and curves."""
