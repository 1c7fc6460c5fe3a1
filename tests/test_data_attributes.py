"""Tests which objects of a loader are looked at for changes, and which changes count in a worker."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
from torch.utils.data import ConcatDataset, DataLoader, Dataset, StackDataset, Subset

from descent.batches.data_attributes import MOST_OBJECTS, Watch, attributes_of_data, data_objects


class Part:
    def __init__(self) -> None:
        self.calls = 0


class Rows(Dataset[int]):
    def __init__(self, **given: Any) -> None:
        vars(self).update(given)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return index


class Endless:
    """Has every attribute and endless entries."""

    def __getattr__(self, name: str) -> Any:
        return Endless()

    def __getitem__(self, index: int) -> Any:
        return Endless()

    def __call__(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    "loader",
    [
        lambda part: DataLoader(Rows(helper=part)),
        lambda part: DataLoader(Rows(parts=[1, part])),
        lambda part: DataLoader(Subset(Rows(parts={"a": part}), [1])),
        lambda part: DataLoader(ConcatDataset([Rows(), Rows(part=part)])),
        lambda part: DataLoader(StackDataset(a=Rows(), b=Rows(part=part))),
        lambda part: DataLoader(Rows(), collate_fn=part),
    ],
)
def test_the_parts_of_a_loader_are_found_however_they_are_held(loader: Callable[[Any], Any]) -> None:
    class Callback(Part):
        def __call__(self, rows: Any) -> Any:
            return rows

    part = Callback()
    assert part in data_objects(loader(part))


def test_an_object_with_every_attribute_ends_the_search() -> None:
    assert len(data_objects(DataLoader(Rows(part=Endless(), parts=[Part() for _ in range(5000)])))) <= MOST_OBJECTS


def test_iterators_are_not_consumed() -> None:
    numbers = iter([1, 2])
    data_objects(DataLoader(Rows(transforms=numbers, datasets=numbers)))
    assert [*numbers] == [1, 2]


def test_a_property_that_raises_does_not_hide_the_other_attributes() -> None:
    class Broken(Rows):
        @property
        def a(self) -> Any:
            raise RuntimeError

    rows = Broken(a=1, b=2, rng=np.random.default_rng(0))
    assert {"a", "b"} <= attributes_of_data(rows).keys() and "rng" not in attributes_of_data(rows)


def counted(start: Any, then: Callable[[int], Any]) -> Iterator[list[str]]:
    rows = Rows(state=start)
    watch = Watch(rows)
    for batch in count(1):
        vars(rows)["state"] = then(batch)
        yield watch.changed()


def test_what_the_first_row_opens_or_loads_is_not_a_change() -> None:
    opened = counted(None, lambda batch: np.ones(3))
    assert [next(opened) for _ in range(4)] == [[]] * 4
    changes = counted(None, lambda batch: batch)
    assert [next(changes) for _ in range(4)] == [[], ["state of Rows"], [], ["state of Rows"]]
    at_once = counted(0, lambda batch: batch)
    assert next(at_once) == ["state of Rows"]
