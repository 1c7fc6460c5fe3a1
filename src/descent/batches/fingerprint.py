"""Takes fingerprints of attributes, to see later whether they have changed."""

import random
from collections import deque
from collections.abc import Container, Iterator
from dataclasses import fields, is_dataclass
from inspect import GEN_CREATED, get_annotations, getgeneratorstate
from io import IOBase
from itertools import chain
from types import GeneratorType
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

LIBRARIES = {"torch", "lightning", "torchmetrics", "descent", "numpy", "builtins"}
CACHING = {"transformers", "tokenizers", "datasets"}  # training changes only caches in their objects, not in modules
DEEPEST = 5  # levels of nested containers
MOST_ENTRIES = 10_000  # of all containers in a fingerprint; of those beyond, only the length counts
MOST_BYTES = 10_000_000  # of all its arrays, tensors and strings; of those beyond, only the identity counts

GENERATORS = torch.Generator, np.random.Generator, np.random.RandomState, random.Random
UNKNOWN = object()


def is_of_library(value: Any) -> bool:
    kind = type(value)
    return is_library(kind) or (package_of(kind) in CACHING and not isinstance(value, nn.Module))


def declared_by_libraries(kind: type) -> set[str]:
    """The attributes that library classes among the bases of ``kind`` declare."""
    bases = [base for base in kind.__mro__ if is_library(base)]
    return {name for base in bases for name in (*vars(base), *get_annotations(base))}


def is_library(kind: type) -> bool:
    return package_of(kind) in LIBRARIES


def package_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def fingerprint(value: Any, depth: int = 1, saved: Container[int] = ()) -> Any:
    """A value that stays equal while ``value`` does not change; ``UNKNOWN`` if it cannot be compared.

    Most library objects and tensors that require gradients are ``UNKNOWN``; steps leave such tensors for hooks.

    Args:
        depth: how many levels of nested objects to look into.
        saved: ids of modules, their tensors, optimizers and schedulers that checkpoints contain: ``UNKNOWN`` too.
    """
    return _Reader(saved).read(value, depth)


class _Reader:
    """Reads a value up to ``MOST_ENTRIES`` and ``MOST_BYTES``, so that a fingerprint costs milliseconds."""

    def __init__(self, saved: Container[int]) -> None:
        self.saved = saved
        self.entries, self.bytes = MOST_ENTRIES, MOST_BYTES  # that are left

    def read(self, value: Any, depth: int) -> Any:
        try:
            return UNKNOWN if id(value) in self.saved else self._found(value, depth)
        except Exception:  # objects can raise anything when inspected, and must not end the run
            return UNKNOWN

    def _found(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float | np.generic):
            return repr(value)  # nan equals nan
        if isinstance(value, str | bytes | bytearray):
            if not self._may_read(len(value)):
                return id(value)
            return len(value), hash(value) if isinstance(value, str) else crc32(value)
        if isinstance(value, Tensor):
            return UNKNOWN if value.requires_grad else self._tensor(value)
        if isinstance(value, np.ndarray):
            return value.shape, crc32(value.tobytes()) if self._may_read(value.nbytes) else id(value)
        if isinstance(value, GENERATORS):
            return _state_of(value)
        if isinstance(value, list | tuple | deque | set | frozenset | dict):
            return self._container(value, depth)
        if isinstance(value, Iterator) and not isinstance(value, IOBase):
            return self._iterator(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Optimizer | LRScheduler):
            return self.read(value.state_dict(), depth=1)
        if depth > 0 and not is_of_library(value):
            return self._attributes(value, depth)
        return UNKNOWN

    def _attributes(self, value: Any, depth: int) -> Any:
        slots = [part.name for part in fields(value)] if is_dataclass(value) and not hasattr(value, "__dict__") else []
        named = {name: getattr(value, name) for name in slots} or vars(value)
        parts = ((name, self.read(part, depth - 1)) for name, part in named.items())
        return {name: found for name, found in parts if found is not UNKNOWN}

    def _may_read(self, size: int) -> bool:
        self.bytes -= size
        return self.bytes >= 0

    def _module(self, module: nn.Module) -> Any:
        """Of its parameters, buffers and metric states; ``UNKNOWN`` if it has none that are not in ``saved``."""
        tensors = chain(module.named_parameters(), module.named_buffers())
        found = {name: self._tensor(tensor) for name, tensor in tensors if id(tensor) not in self.saved}
        for name, part in module.named_modules():
            if isinstance(part, Metric) and id(part) not in self.saved:
                found[f"{name}.metric"] = part.update_count, self.read(part.metric_state, depth=1)
        return found or UNKNOWN

    def _tensor(self, value: Tensor) -> Any:
        if value.layout != torch.strided or not self._may_read(value.nbytes):
            return id(value), value._version
        return value.shape, crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    def _container(self, value: Any, depth: int) -> Any:
        self.entries -= len(value)
        if self.entries < 0 or depth <= -DEEPEST:
            return len(value)
        if isinstance(value, set | frozenset):
            return hash(frozenset(value))
        entries = value.items() if isinstance(value, dict) else value
        found = [self.read(entry, depth - 1) for entry in entries]
        return [entry if entry is not UNKNOWN else None for entry in found]

    def _iterator(self, value: Any) -> Any:
        """Its position if that can be read, else an object that is never equal; ``UNKNOWN`` if it is of C code."""
        if isinstance(value, GeneratorType) and getgeneratorstate(value) == GEN_CREATED:
            return GEN_CREATED
        if hasattr(value, "__length_hint__"):
            return value.__length_hint__()
        if hasattr(value, "__dict__"):
            return self._attributes(value, depth=1)
        return object() if is_of_library(value) or type(value).__module__ == "itertools" else UNKNOWN


def _state_of(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return crc32(generator.get_state().numpy().tobytes())
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    return repr(generator.get_state()) if isinstance(generator, np.random.RandomState) else hash(generator.getstate())
