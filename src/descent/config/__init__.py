"""The config: its schema, its checks and their one-line messages. Does not import torch."""
