"""Makes the data module's loaders exact, checks them against the config, and splits their batches across processes."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from descent.batches.exact import exact, is_shuffled, load_positions, parts
from descent.batches.map_style import MapStyleLoader
from descent.batches.position import has_length
from descent.batches.seeding import first_key, seeded
from descent.batches.share import Share
from descent.config.schema import Config
from descent.errors import UserError, invalid

log = logging.getLogger(__name__)

MADE = 8  # the purpose of a random key; descent.batches.map_style has others
SEVERAL = "several devices (trainer.devices, trainer.num_nodes) need"


def make_exact(data: LightningDataModule, config: Config, checkpoint: dict[str, Any] | None, trainer: Any) -> None:
    """Makes the order of training batches depend on seed and epoch alone, and starts at the checkpoint's position.

    Each loader is checked when it is made.
    """
    # Lightning has already limited its loops, and would now replace an exact loader with a DataLoader
    overfits, trainer.overfit_batches = trainer.overfit_batches > 0, 0.0
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if is_overridden(name, data):
            is_fit = name != "test_dataloader"
            checked = _checked(getattr(data, name), name, config, overfits and is_fit)
            setattr(data, name, checked if name == "train_dataloader" else _shared(checked, name, config, trainer))
    again = trainer.reload_dataloaders_every_n_epochs
    if again > 1:
        log.warning(
            "note: a resumed run is exact only if train_dataloader returns the same loader each time, because it is"
            " called in other epochs; trainer.reload_dataloaders_every_n_epochs=1 makes it exact"
        )
    given: Callable[[], Any] = data.train_dataloader
    notes, positions = set[str](), [checkpoint]

    def train_dataloader() -> Any:
        # a resumed run makes its first loader in this epoch, without having made those of earlier epochs
        with seeded(first_key(config.seed, trainer.current_epoch, MADE)) if again else nullcontext():
            loader, note = exact(given(), config.seed)
        if note and note not in notes:
            log.warning("note: %s", note)
            notes.add(note)
        if positions and (loaded := positions.pop()):
            load_positions(loader, loaded)
        return loader

    own = _shared(train_dataloader, "train_dataloader", config, trainer)
    data.train_dataloader = own  # type: ignore[method-assign]


def _checked(given: Callable[[], Any], name: str, config: Config, overfits: bool) -> Callable[[], Any]:
    sizes = [key for key, source in config.links.items() if source in ("batch", "batch.size")]
    is_whole = config.batch.size is None and any(key.startswith("data.") for key in sizes)
    is_noted = name != "train_dataloader"  # noted once, for training

    def checked() -> Any:
        nonlocal is_noted
        loader = given()
        if overfits and is_shuffled(loader):
            where = "" if name == "train_dataloader" else f" in {name}"
            raise UserError(
                "trainer.overfit_batches needs the same batches in every epoch: shuffle must be false and no sampler"
                f" random{where}"
            )
        for part in parts(loader) if name == "val_dataloader" else []:
            if isinstance(part, DataLoader) and part.persistent_workers and part.generator is None:
                # persistent workers draw a random number when they start, and a resumed run starts them again
                part.generator = torch.Generator().manual_seed(config.seed)
        for part in parts(loader) if is_whole else []:
            if not isinstance(part, DataLoader) or part.batch_sampler is not None:
                continue
            if isinstance(part.dataset, IterableDataset):
                if not is_noted:
                    said = "note: batch.size is null, so the DataLoader of %s has batch_size=None: a batch is what"
                    log.warning(f"{said} %s yields, even a single row", name, type(part.dataset).__name__)
                is_noted = True
            elif isinstance(part.sampler, SequentialSampler | RandomSampler) and len(part) > 1:
                raise invalid(
                    "batch.size",
                    f"a positive integer with this data: null gives the DataLoader of {name} batch_size=None, which"
                    " yields single rows, not all rows (batch_size=len(dataset) would)",
                    None,
                )
        return loader

    return checked


def _shared(given: Callable[[], Any], name: str, config: Config, trainer: Any) -> Callable[[], Any]:
    """Splits the batches of a loader across the processes of the run, if there are several."""

    def share_out(loader: Any) -> Any:
        if isinstance(loader, Mapping):
            return {key: share_out(part) for key, part in loader.items()}
        if isinstance(loader, list | tuple):
            return [share_out(part) for part in loader]
        if isinstance(loader, CombinedLoader):
            loader.flattened = [share_out(part) for part in loader.flattened]
            return loader
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            loader = MapStyleLoader(loader, config.seed)
        _check_shareable(loader, name)
        loader.share = Share(trainer.global_rank, trainer.world_size)
        return loader

    def shared() -> Any:
        loader = given()
        if trainer.world_size == 1:
            return loader
        if name == "train_dataloader" and not any(part is loader for part in parts(loader)):
            raise UserError(f"{SEVERAL} a {name} that returns one loader: a loss over several has no single weight")
        return share_out(loader)

    return shared


def _check_shareable(loader: Any, name: str) -> None:
    """Raises an error if the rows of a batch cannot be known."""
    inner = getattr(loader, "loader", loader)
    kind = " of ".join(type(thing).__name__ for thing in (inner, getattr(inner, "dataset", None)) if thing is not None)
    if not hasattr(type(loader), "share") or not has_length(loader):
        raise UserError(
            f"{SEVERAL} loaders whose batches can be split, with indices and a length; {name} returns a {kind}"
        )
    if getattr(loader, "batch_sampler", None) is None and isinstance(inner, DataLoader) and inner.batch_sampler is None:
        raise UserError(f"{SEVERAL} batches of several rows: the DataLoader of {name} has batch_size=None")
    samplers = (getattr(inner, "sampler", None), getattr(getattr(inner, "batch_sampler", None), "sampler", None))
    if any(isinstance(sampler, DistributedSampler) for sampler in samplers):
        raise UserError(f"{SEVERAL} a {name} without DistributedSampler: the run splits each batch itself")
