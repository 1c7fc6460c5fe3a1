"""The worked example: linear regression by gradient descent. A project of your own takes its place."""
