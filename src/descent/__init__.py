"""The machinery of a PyTorch Lightning and Hydra project, for any LightningModule and LightningDataModule.

Importing this package does not import torch, so that ``--help`` and config errors appear at once.
``descent.run.train`` imports torch.
"""

__version__ = "0.1.0"
