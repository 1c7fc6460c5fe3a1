"""Scikit-learn's digits by a convolutional network."""
