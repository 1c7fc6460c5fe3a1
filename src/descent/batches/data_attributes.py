"""Finds the attributes of datasets, samplers and transforms that fetching changes."""

from collections import ChainMap
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import Dataset, Sampler
from torchmetrics import Metric

from descent.batches.fingerprint import (
    UNKNOWN,
    declared_by_libraries,
    fingerprint,
    is_library,
    is_of_library,
    package_of,
)
from descent.batches.seeding import Generator

NONE = fingerprint(None)
MOST_OBJECTS = 1_000  # of a loader, so that looking at them costs milliseconds


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
    generators = [name for name, value in vars(owner).items() if isinstance(value, Generator)]
    return attributes(owner, generators, depth=0, saved=saved)


def data_objects(*loaders: Any) -> list[Any]:
    """The project's own datasets, samplers, collate functions and transforms, including nested ones, each once."""
    waiting, seen = list(loaders), dict[int, Any]()
    while waiting and len(seen) < MOST_OBJECTS:
        owner = waiting.pop()
        if id(owner) not in seen and not isinstance(owner, type | LightningModule | LightningDataModule):
            seen[id(owner)] = owner
            waiting += _parts(owner)
    return [owner for owner in seen.values() if hasattr(owner, "__dict__") and not is_of_library(owner)]


def _parts(owner: Any) -> Iterator[Any]:
    """Its datasets, samplers, possible transforms, also those in containers, and objects of its own package."""
    with suppress(Exception):  # from its own properties
        for value in vars(owner).values():
            if isinstance(value, dict | list | tuple):
                entries = value.values() if isinstance(value, dict) else value
                yield from filter(_is_data_object, islice(entries, MOST_OBJECTS))
            elif _is_data_object(value) or package_of(type(value)) == package_of(type(owner)):
                yield value


def _is_data_object(value: Any) -> bool:
    return isinstance(value, Dataset | Sampler) or callable(value)


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
        found = []
        for owner, before in self.before:
            for name, value in attributes_of_data(owner).items():
                if self.batches == 1 and before.get(name) == NONE:  # opened or loaded by the first row
                    before[name] = value
                elif before.get(name, value) != value:
                    found.append(f"{name} of {type(owner).__name__}")
        return found
