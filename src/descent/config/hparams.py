"""Hyperparameters as one flat table: for HParams in TensorBoard, ``result.json`` and comparisons."""

from dataclasses import asdict
from typing import Any

from descent.config.schema import Config

GROUPS = ("data", "model", "optimizer", "scheduler", "batch", "clip", "stopping", "trainer")


def flat_hparams(config: Config) -> dict[str, Any]:
    """``{"seed": 0, "optimizer": "adam", "optimizer.lr": 0.01, ...}``.

    A group's own name holds the option chosen for it.
    """
    flat: dict[str, Any] = {"seed": config.seed}
    tree = asdict(config)
    for group in GROUPS:
        if group in config.choices:
            flat[group] = config.choices[group]
        flat |= {f"{group}.{k}": v for k, v in tree[group].items()}
    for group in ("experiment", "debug"):
        if group in config.choices:
            flat[group] = config.choices[group]
    return flat
