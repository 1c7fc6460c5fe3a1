"""Writes checkpoint files atomically, and loads only plain values and tensors."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from descent.errors import UserError, invalid
from descent.files import atomic_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file beside the old one, flushes and renames it: a kill, crash or full disk keeps the old.

    Lightning moves a file from the system's temporary directory; between file systems that is a copy, which can be
    cut off. ``storage_options`` of ``trainer.save_checkpoint`` are entries that replace the Trainer's.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        replaced = dict(storage_options or {})
        if "loops" in replaced:
            replaced["loops"] = checkpoint["loops"] | replaced["loops"]
        with atomic_file(Path(path)) as file:
            torch.save(checkpoint | replaced, file)

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Loads a checkpoint; refuses one that would run code.

    Returns:
        at least ``state_dict``, tensors by name, and ``global_step``, an integer.

    Raises:
        UserError: the file does not exist, is damaged, or is not a checkpoint of plain values and tensors.
    """
    try:
        checkpoint: Any = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except Exception as error:  # torch raises nearly anything if a file is not a checkpoint
        raise UserError(
            f"{path} must be a whole checkpoint of plain values and tensors only; it is not, and was not loaded"
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} must be a checkpoint dictionary, got a {type(checkpoint).__name__}")
    weights, step = checkpoint.get("state_dict"), checkpoint.get("global_step")
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise UserError(f"{path} must be a checkpoint with a state_dict of tensors; it has none")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise invalid(f"global_step of the checkpoint {path}", "an integer, 0 or more", step)
    return checkpoint
