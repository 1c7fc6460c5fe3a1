"""Draws random numbers that depend only on a key, without changing the global generators."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import get_worker_info

Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
LARGE = 100  # a longer list or dict is data, and is not searched


def first_key(seed: int, epoch: int, purpose: int, repeat: int = 0) -> int:
    """The key of the first batch of an epoch, or of a repeat within it. Later batches count up from it."""
    return int(np.random.SeedSequence((seed, epoch, purpose, repeat)).generate_state(1, np.uint64)[0] >> np.uint64(2))


@contextmanager
def seeded(key: int, generators: Sequence[Generator] = ()) -> Iterator[None]:
    """Seeds torch (CPU), NumPy, ``random`` and ``generators`` from ``key`` within the context.

    Restores the three global states afterwards, except in a DataLoader worker, where nothing else uses them.
    """
    saved = None
    if get_worker_info() is None:
        saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    random.seed(key)
    # not the key itself, for which NumPy and torch would draw the same numbers
    torch.default_generator.manual_seed(random.getrandbits(63))
    np.random.seed(random.getrandbits(32))
    for generator in generators:
        _reseed(generator, random.getrandbits(32))
    try:
        yield
    finally:
        if saved is not None:
            torch.set_rng_state(saved[0])
            np.random.set_state(saved[1])
            random.setstate(saved[2])


def in_keyed_steps(iterator: Iterator[Any], key: int) -> Iterator[Any]:
    """Iterates with step n seeded by ``key + n``."""
    for step in count(key):
        with seeded(step):
            try:
                thing = next(iterator)
            except StopIteration:
                return
        yield thing


def _reseed(generator: Generator, key: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(key)
    elif isinstance(generator, np.random.Generator):
        bits: Any = generator.bit_generator
        bits.state = type(bits)(key).state
    else:
        generator.seed(key)


def generators_in(*owners: Any) -> list[Generator]:
    """Finds the generators that datasets, transforms and samplers may draw from, in their attributes at any depth.

    Includes those of their classes and of the modules that define the classes, but not of imported modules.
    """
    found: list[Generator] = []
    left, seen = list(reversed(owners)), set[int]()
    while left and len(seen) < LARGE**2:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if thing is torch.default_generator:  # torch's Dataset refers to it; it is seeded separately
            continue
        if isinstance(thing, Generator):
            found.append(thing)
        elif isinstance(thing, dict):
            left += thing.values() if len(thing) <= LARGE else ()
        elif isinstance(thing, list | tuple):
            left += thing if len(thing) <= LARGE else ()
        elif isinstance(thing, partial):
            left += (thing.func, thing.args, thing.keywords)
        elif isinstance(thing, MethodType):
            left.append(thing.__self__)
        elif isinstance(thing, FunctionType):
            left += [value for value in thing.__globals__.values() if isinstance(value, Generator)]
            for cell in thing.__closure__ or ():
                with suppress(ValueError):  # an empty cell
                    left.append(cell.cell_contents)
        elif not isinstance(thing, type | ModuleType | torch.Tensor | Trainer):
            left += getattr(thing, "__dict__", {}).values()
            shared = [value for kind in type(thing).__mro__ for value in vars(kind).values()]
            left += [value for value in shared if isinstance(value, Generator | FunctionType)]
    return found
