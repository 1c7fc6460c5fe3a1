"""Classifies scikit-learn's digits with a convolutional network."""
