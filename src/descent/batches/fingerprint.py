"""Takes fingerprints of attributes, to see later whether they have changed."""

import random
from collections import deque
from inspect import get_annotations
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

LIBRARIES = {"torch", "lightning", "torchmetrics", "descent", "numpy", "builtins"}
LONGEST = 1000  # entries of a container; of a longer one only the length counts
DEEPEST = 5  # levels of nested containers
LARGEST = 100_000  # bytes of an array or tensor; the content of a larger one is not read

UNKNOWN = object()


def is_of_library(value: Any) -> bool:
    return is_library(type(value))


def declared_by_libraries(kind: type) -> set[str]:
    """The attributes that library classes among the bases of ``kind`` declare."""
    bases = [base for base in kind.__mro__ if is_library(base)]
    return {name for base in bases for name in (*vars(base), *get_annotations(base))}


def is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in LIBRARIES


def fingerprint(value: Any, depth: int = 1) -> Any:
    """A value that stays equal while ``value`` does not change; ``UNKNOWN`` if it cannot be compared.

    Modules, library objects and tensors that require gradients are ``UNKNOWN``; steps leave such tensors for hooks.

    Args:
        depth: how many levels of nested objects to look into.
    """
    try:
        return _found(value, depth)
    except Exception:  # objects can raise anything when inspected, and must not end the run
        return UNKNOWN


def _found(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic):
        return repr(value)  # nan equals nan
    if isinstance(value, Tensor):
        return UNKNOWN if value.requires_grad else _tensor(value)
    if isinstance(value, np.ndarray):
        return value.shape, crc32(value.tobytes()) if value.nbytes <= LARGEST else id(value)
    if isinstance(value, torch.Generator):
        return crc32(value.get_state().numpy().tobytes())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return hash(value.getstate())
    if isinstance(value, list | tuple | deque | set | frozenset | dict):
        return _container(value, depth)
    if depth > 0 and not (isinstance(value, nn.Module) or is_of_library(value)) and hasattr(value, "__dict__"):
        return {name: found for name, part in vars(value).items() if (found := fingerprint(part, depth - 1)) != UNKNOWN}
    return UNKNOWN


def _tensor(value: Tensor) -> Any:
    if value.layout != torch.strided or value.nbytes > LARGEST:
        return id(value), value._version
    return value.shape, crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _container(value: Any, depth: int) -> Any:
    if len(value) > LONGEST or depth <= -DEEPEST or isinstance(value, set | frozenset):
        return len(value)
    entries = value.items() if isinstance(value, dict) else value
    found = [fingerprint(entry, depth - 1) for entry in entries]
    return [entry if entry is not UNKNOWN else None for entry in found]
