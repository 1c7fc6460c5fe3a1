"""Writes checkpoint files atomically, and loads only plain values, tensors and NumPy arrays."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from descent.errors import UserError, invalid
from descent.files import atomic_file

LOADED = "plain values, tensors and NumPy arrays"
# what pickle makes a NumPy array or number with; torch does not load it by default
NUMPY: list[Any] = [
    *(np.ndarray, np.dtype, np.empty(0).__reduce__()[0], np.float32(0).__reduce__()[0]),
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file beside the old one, flushes and renames it: a kill, crash or full disk keeps the old.

    Lightning moves a file from the system's temporary directory; between file systems that is a copy, which can be
    cut off. ``storage_options`` of ``trainer.save_checkpoint`` are entries that replace the Trainer's.

    Raises:
        UserError: the first checkpoint with all that a resumed run needs contains an object that cannot be loaded.
    """

    is_checked = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        replaced = dict(storage_options or {})
        if "loops" in replaced:
            replaced["loops"] = checkpoint["loops"] | replaced["loops"]
        with atomic_file(Path(path)) as file:
            torch.save(checkpoint | replaced, file)
        if "optimizer_states" in checkpoint and not self.is_checked:  # it costs a millisecond
            self.is_checked = True
            if names := _not_loaded(Path(path)):
                raise UserError(
                    f"{path} must contain {LOADED} only, or it cannot be loaded again; an on_save_checkpoint, a"
                    f" state_dict or save_hyperparameters adds {names}"
                )

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Loads a checkpoint; refuses one that would run code.

    Returns:
        at least ``state_dict``, tensors by name, and ``global_step``, an integer.

    Raises:
        UserError: the file does not exist, is damaged, or contains more than plain values, tensors and NumPy arrays.
    """
    try:
        with safe_globals(NUMPY):
            checkpoint: Any = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except Exception as error:  # torch raises nearly anything if a file is not a checkpoint
        has = f"; it has {names}" if (names := _not_loaded(path)) else ""
        raise UserError(
            f"{path} must be a whole checkpoint of {LOADED} only; it is not, and was not loaded{has}"
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} must be a checkpoint dictionary, got a {type(checkpoint).__name__}")
    weights, step = checkpoint.get("state_dict"), checkpoint.get("global_step")
    if not isinstance(weights, dict) or not all(isinstance(weight, torch.Tensor) for weight in weights.values()):
        raise UserError(f"{path} must be a checkpoint with a state_dict of tensors; it has none")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise invalid(f"global_step of the checkpoint {path}", "an integer, 0 or more", step)
    return checkpoint


def _not_loaded(path: Path) -> str:
    """The classes and functions in the file that are not loaded, such as ``collections.deque``; empty if none."""
    with suppress(Exception), safe_globals(NUMPY):  # a damaged file
        return ", ".join(sorted(get_unsafe_globals_in_checkpoint(path)))
    return ""
