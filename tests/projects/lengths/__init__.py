"""Predicts the mean of sequences of different lengths with an LSTM."""
