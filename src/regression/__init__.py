"""The worked example: linear regression by gradient descent. Replace it with your own project."""
