"""Sequences of different lengths, by an LSTM."""
