"""Linear regression by gradient descent, as a PyTorch Lightning and Hydra project.

Importing this package imports no torch, so that ``--help`` and every config error answer at once;
``descent.run.train`` is where torch comes in.
"""
