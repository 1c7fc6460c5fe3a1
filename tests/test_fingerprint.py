"""Tests which changes of an attribute a fingerprint detects, and what it does not compare."""

import random
import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import CatMetric, MeanMetric, MetricCollection

from descent.batches.fingerprint import UNKNOWN, fingerprint


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(slots=True)
class Slots:
    value: int


CHANGED: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (lambda: None, lambda value: 1.0),
    (lambda: 1, lambda value: 2),
    (lambda: "a", lambda value: "b"),
    (lambda: torch.ones(2), lambda value: value * 0.9),
    (lambda: torch.ones(2), lambda value: value.mul_(2)),
    (lambda: torch.ones(2, dtype=torch.bfloat16), lambda value: value + 1),
    (lambda: torch.tensor(1), lambda value: value + 1),
    (lambda: torch.ones(600_000), lambda value: value.mul_(2)),
    (lambda: np.ones(2), lambda value: value + 1),
    (lambda: deque([1.0, 2.0], maxlen=2), lambda value: value.append(3.0)),
    (lambda: {"a": 1.0}, lambda value: value.update(a=2.0)),
    (lambda: {1, 2}, lambda value: value.add(3)),
    (lambda: {1, 2}, lambda value: {1, 3}),
    (lambda: [0] * 20_000, lambda value: value.append(1)),
    (lambda: dict.fromkeys(range(3000), 1), lambda value: value.update({2999: 2})),
    (lambda: np.ones(200_000), lambda value: value.__imul__(2)),
    (lambda: bytearray(2), lambda value: value.__setitem__(1, 1)),
    (lambda: "a" * 20_000_000, lambda value: value + "b"),
    (lambda: iter([1, 2]), lambda value: next(value) and None),
    (lambda: (n for n in (1, 2)), lambda value: next(value) and None),
    (lambda: iter(DataLoader(TensorDataset(torch.ones(2)))), lambda value: next(value) is None or None),
    (lambda: Slots(1), lambda value: setattr(value, "value", 2)),
    (lambda: [torch.ones(1)], lambda value: value[0].add_(1)),
    (torch.Generator, lambda value: value.manual_seed(3)),
    (lambda: np.random.default_rng(0), lambda value: value.random() and None),
    (lambda: np.random.RandomState(0), lambda value: value.random() and None),
    (lambda: random.Random(0), lambda value: value.random() and None),
    (lambda: Plain(1), lambda value: setattr(value, "value", 2)),
    (lambda: Plain([1]), lambda value: value.value.append(2)),
    (lambda: torch.nn.Linear(1, 1), lambda value: torch.nn.init.constant_(value.weight, 3.0) and None),
    (lambda: torch.nn.BatchNorm1d(2), lambda value: value(torch.ones(2, 2)) is None or None),
    (MeanMetric, lambda value: value.update(1.0)),
    (lambda: {"a": [MetricCollection([CatMetric()])]}, lambda value: value["a"][0].update(1.0)),
    (lambda: Adam([torch.ones(1)]), lambda value: value.param_groups[0].update(lr=0.5)),
    (lambda: StepLR(SGD([torch.ones(1)]), 1), lambda value: value.optimizer.step() or value.step()),
]


@pytest.mark.parametrize(("make", "change"), CHANGED)
def test_a_change_is_detected_and_an_unchanged_value_is_equal(
    make: Callable[[], Any], change: Callable[[Any], Any]
) -> None:
    value = make()
    before = fingerprint(value)
    assert before is not UNKNOWN and fingerprint(value) == before
    changed = change(value)
    assert fingerprint(value if changed is None else changed) != before


def test_nan_equals_itself() -> None:
    assert fingerprint(float("nan")) == fingerprint(float("nan"))
    assert fingerprint([float("nan")]) == fingerprint([float("nan")])


@pytest.mark.parametrize(
    "value",
    [torch.ones(2, requires_grad=True) * 2, torch.nn.ReLU(), lambda: None, Plain(Plain(Plain(1))).value.__init__],
)
def test_tensors_in_a_graph_modules_without_state_and_functions_are_not_compared(value: Any) -> None:
    assert fingerprint(value) is UNKNOWN
    assert fingerprint([value]) == [None]


def test_modules_and_tensors_that_are_saved_are_not_compared() -> None:
    layer, optimizer = torch.nn.Linear(1, 1), SGD([torch.ones(1)])
    for saved in ({id(layer)}, {*map(id, layer.parameters())}):
        assert fingerprint(layer, saved=saved) is UNKNOWN
        assert fingerprint(torch.nn.Sequential(layer), saved={*map(id, layer.parameters())}) is UNKNOWN
        assert fingerprint({1: [layer]}, saved=saved) == [["1", [None]]]
    assert [*fingerprint(layer, saved={id(layer.weight)})] == ["bias"]
    assert fingerprint(Plain(optimizer), saved={id(optimizer)}) == {}


class Broken:
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError


def test_values_that_cannot_be_read_are_unknown() -> None:
    with torch.inference_mode():
        made = torch.ones(3_000_000)  # 12 MB
    for value in (made, torch.ones(2, device="meta"), random.SystemRandom(), Broken()):
        assert fingerprint(value) is UNKNOWN


def test_an_iterator_whose_position_cannot_be_read_never_equals_itself() -> None:
    others = cycle([1])
    assert fingerprint(others) != fingerprint(others)
    assert fingerprint(sqlite3.connect(":memory:").cursor()) is UNKNOWN  # may well be unused


def test_only_the_first_entries_and_bytes_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[int]()

    def counting(content: bytes) -> int:
        read.append(len(content))
        return 0

    monkeypatch.setattr("descent.batches.fingerprint.crc32", counting)
    fingerprint([np.zeros(1_000_000, np.uint8) for _ in range(20)])
    assert read == [1_000_000] * 10
    nested = [[float(n)] * 1000 for n in range(1000)]
    found = fingerprint(nested)
    assert sum(isinstance(part, list) for part in found) < 10 and found[-1] == 1000


def test_a_container_that_holds_itself_can_be_compared() -> None:
    itself: list[Any] = [1]
    itself.append(itself)
    before = fingerprint(itself)
    assert before == fingerprint(itself)
    itself[0] = 2
    assert before != fingerprint(itself)


def test_attributes_of_a_nested_object_are_not_compared() -> None:
    outer = Plain(Plain(1))
    before = fingerprint(outer)
    outer.value.value = 2
    assert fingerprint(outer) == before == {}
    assert fingerprint(outer, depth=2) == {"value": {"value": "2"}}
