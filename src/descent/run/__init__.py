"""Runs training, evaluation and prediction: directories, results, console output."""
