"""Finds the attributes of datasets, samplers and transforms that fetching changes."""

from collections import ChainMap
from collections.abc import Container, Iterable
from contextlib import suppress
from typing import Any

from lightning.pytorch import LightningModule
from torch.utils.data import Dataset, Sampler
from torchmetrics import Metric

from descent.batches.fingerprint import UNKNOWN, declared_by_libraries, fingerprint, is_library, is_of_library
from descent.batches.seeding import Generator

PARTS = ("dataset", "batch_sampler", "sampler", "collate_fn")


def attributes(owner: Any, known: Iterable[str] = (), depth: int = 1, saved: Container[int] = ()) -> dict[str, Any]:
    """The fingerprints of an object's own attributes and of its classes' defaults, by name.

    Args:
        known: names to leave out.
        depth, saved: see ``fingerprint``.
    """
    left_out = {*known, *declared_by_libraries(Metric if isinstance(owner, Metric) else type(owner))}
    defaults = (dict(vars(kind)) for kind in type(owner).__mro__ if not is_library(kind))
    found = {
        name: fingerprint(value, depth, saved)
        for name, value in ChainMap(vars(owner), *defaults).items()
        if name not in left_out and not name.startswith("__")
    }
    return {name: value for name, value in found.items() if value is not UNKNOWN}


def attributes_of_data(owner: Any, saved: Container[int] = ()) -> dict[str, Any]:
    """The same, without generators, because each batch seeds those of its loader."""
    found = attributes(owner, depth=0, saved=saved)
    return {name: value for name, value in found.items() if not isinstance(getattr(owner, name), Generator)}


def data_objects(*loaders: Any) -> list[Any]:
    """The project's own datasets, samplers, collate functions and transforms, including nested ones, each once."""
    waiting, seen = list(loaders), dict[int, Any]()
    while waiting:
        owner = waiting.pop()
        if owner is not None and id(owner) not in seen:
            seen[id(owner)] = owner
            with suppress(Exception):  # from its own __getattr__
                waiting += [getattr(owner, name, None) for name in PARTS]
                waiting += [*getattr(owner, "datasets", []), *getattr(owner, "transforms", [])]
                waiting += [part for part in vars(owner).values() if _is_data_object(part)]
    return [owner for owner in seen.values() if hasattr(owner, "__dict__") and not is_of_library(owner)]


def _is_data_object(part: Any) -> bool:
    """Whether it is a dataset or sampler, or may be a transform."""
    return isinstance(part, Dataset | Sampler) or (callable(part) and not isinstance(part, LightningModule))


class Watch:
    """Compares the attributes of a loader's copy in a DataLoader worker with those before its first batch."""

    def __init__(self, *loaders: Any) -> None:
        self.before = [(owner, attributes_of_data(owner)) for owner in data_objects(*loaders)]
        self.batches = 0

    def changed(self) -> list[str]:
        """The attributes that have changed, looked for after batch 1, 2, 4, 8 ..., so that it costs little."""
        self.batches += 1
        if self.batches & (self.batches - 1):
            return []
        return [
            f"{name} of {type(owner).__name__}"
            for owner, before in self.before
            for name, value in attributes_of_data(owner).items()
            if before.get(name, value) != value
        ]
