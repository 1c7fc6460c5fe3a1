"""Checkpoint files that are whole or not there, and that load nothing but plain values and tensors."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from descent.errors import UserError
from descent.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file, flushes to the disk, and renames: a kill, a full disk or a crash leaves the old file.

    Lightning writes to the system's temporary directory and moves, which between file systems is a copy that can
    be cut off.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomically(Path(path), buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Loads a checkpoint; one that would run code is refused.

    Raises:
        UserError: there is no such file, it is damaged, or it holds more than plain values and tensors.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} must be a whole checkpoint of plain values and tensors alone; it is not, and was not loaded"
        ) from error
    return checkpoint
