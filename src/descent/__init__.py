"""The machinery of a PyTorch Lightning and Hydra project, for any LightningModule and LightningDataModule.

Importing this package imports no torch, so that ``--help`` and every config error answer at once;
``descent.run.train`` is where torch comes in.
"""

__version__ = "0.1.0"
