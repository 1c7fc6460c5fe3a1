"""The data module's loaders as a run takes them: in an exact order, and as the config says."""

import logging
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from descent.batches.exact import exact, is_shuffled, load_positions, parts
from descent.config.schema import Config
from descent.errors import UserError, invalid

log = logging.getLogger(__name__)


def make_exact(data: LightningDataModule, config: Config, checkpoint: dict[str, Any] | None, trainer: Any) -> None:
    """Training batches in an order of the seed's and the epoch's, from the position in the checkpoint on.

    Each loader is checked as it is made.
    """
    # Lightning has limited its loops by it, and would now put a DataLoader of its own in the place of an exact one
    overfits, trainer.overfit_batches = trainer.overfit_batches > 0, 0.0
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if is_overridden(name, data):
            is_fit = name != "test_dataloader"
            setattr(data, name, _checked(getattr(data, name), name, config, overfits and is_fit))
    given: Callable[[], Any] = data.train_dataloader
    notes, positions = set[str](), [checkpoint]

    def train_dataloader() -> Any:
        loader, note = exact(given(), config.seed)
        if note and note not in notes:
            log.warning("note: %s", note)
            notes.add(note)
        if positions and (loaded := positions.pop()):
            load_positions(loader, loaded)
        return loader

    data.train_dataloader = train_dataloader  # type: ignore[method-assign]


def _checked(given: Callable[[], Any], name: str, config: Config, overfits: bool) -> Callable[[], Any]:
    sizes = [key for key, source in config.links.items() if source in ("batch", "batch.size")]
    is_whole = config.batch.size is None and any(key.startswith("data.") for key in sizes)
    is_noted = name != "train_dataloader"  # once is enough

    def checked() -> Any:
        nonlocal is_noted
        loader = given()
        if overfits and is_shuffled(loader):
            where = "" if name == "train_dataloader" else f" in {name}"
            raise UserError(
                f"trainer.overfit_batches needs the same batches in every epoch: shuffle must be false{where}"
            )
        for part in parts(loader) if is_whole else []:
            if not isinstance(part, DataLoader) or part.batch_sampler is not None:
                continue
            if isinstance(part.dataset, IterableDataset):
                if not is_noted:
                    said = (
                        "note: batch.size is null, with which the DataLoader of %s has batch_size=None: a batch is what"
                    )
                    log.warning(f"{said} %s yields, be it a single row", name, type(part.dataset).__name__)
                is_noted = True
            elif isinstance(part.sampler, SequentialSampler | RandomSampler) and len(part) > 1:
                raise invalid(
                    "batch.size",
                    f"a positive integer with these data: with null the DataLoader of {name} has batch_size=None, which"
                    " gives single rows and not all of them (batch_size=len(dataset) would)",
                    None,
                )
        return loader

    return checked
