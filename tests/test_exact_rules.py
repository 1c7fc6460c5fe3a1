"""Tests which loaders become exact, the full notes, and where generators are searched."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from loaders import ROWS, Endless, Rows, Stateful, Stream, quiet
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from descent.batches.exact import exact, load_positions
from descent.batches.in_memory import InMemoryBatches
from descent.batches.position import ExactLoader, has_length
from descent.batches.seeding import generators_in, seeded
from descent.training.random_state import random_state

X = torch.arange(float(ROWS))


def test_a_loader_keeps_its_seed_or_gets_the_runs() -> None:
    own, runs = InMemoryBatches(X, seed=5), InMemoryBatches(X)
    zero = InMemoryBatches(X, seed=0)
    for loader in (own, runs, zero):
        assert exact(loader, 1) == (loader, None)
    assert (own.seed, runs.seed, zero.seed) == (5, 1, 0)


def test_exact_loaders_and_other_objects_are_not_replaced() -> None:
    made, _ = exact(DataLoader(Rows()), 1)
    for loader in (made, None, 5):
        assert exact(loader, 2) == (loader, None)
    assert made.seed == 1


STREAM = (
    "a run resumed in the middle of an epoch reloads the batches of Stream that it has seen, and is exact only if "
    "they depend only on the generators of torch, NumPy and random; use a loader with state_dict and load_state_dict "
    "(torchdata's StatefulDataLoader) to fix this"
)
NO_LENGTH = "a run resumed in the middle of an epoch misses a batch of some loaders, because not all have a length"
LENGTHS = (
    "loaders of different lengths that keep their own position resume exactly if the mode of their "
    'CombinedLoader is "max_size_cycle" or "min_size", but not if it is "max_size"'
)
ENDLESS = (
    "a run resumed in the middle of an epoch misses a batch, because Lightning prefetches one from Unsized, which "
    "has no length; add __len__ to fix this"
)
Unsized = type("Unsized", (Stateful,), {"__len__": None})


@quiet
@pytest.mark.parametrize(
    ("make", "note"),
    [
        (lambda: DataLoader(Stream()), STREAM),
        (lambda: [DataLoader(Stream())], STREAM),
        (lambda: [DataLoader(Stream()), DataLoader(Stream())], f"{STREAM}; {NO_LENGTH}"),
        (lambda: {"a": DataLoader(Rows()), "b": DataLoader(Rows(), sampler=Endless())}, NO_LENGTH),
        (lambda: (DataLoader(Rows()), DataLoader(Rows(), 2)), None),
        (lambda: CombinedLoader([DataLoader(Rows()), Stateful()], "max_size"), LENGTHS),
        (lambda: CombinedLoader([DataLoader(Rows()), DataLoader(Rows(), 2)], "max_size"), None),
        (lambda: CombinedLoader([DataLoader(Rows()), DataLoader(Rows())], "max_size"), None),
        (Unsized, ENDLESS),
        (Stateful, None),
    ],
)
def test_a_note_is_given_once_in_full(make: Callable[[], Any], note: str | None) -> None:
    assert exact(make(), 0)[1] == note


@quiet
def test_the_users_own_loader_is_not_changed() -> None:
    stock = DataLoader(Stream(), num_workers=1, persistent_workers=True, in_order=False)
    loader, _ = exact(stock, 1)
    assert (stock.persistent_workers, stock.in_order) == (True, False)
    assert (loader.persistent_workers, loader.in_order) == (False, True)
    for options in ({"num_workers": 1}, {}):
        stock = DataLoader(Stream(), **options)
        assert exact(stock, 1)[0].loader is stock


@quiet
def test_saved_positions_are_loaded_and_those_of_other_loaders_only_within_an_epoch() -> None:
    for started, processed, position in ((3, 2, 4), (3, 3, 0)):
        stock, memory, mine = Stateful(), InMemoryBatches(X, size=4), exact(DataLoader(Rows(), 4), 1)[0]
        progress = {"current": {"started": started, "processed": processed}}
        states = [{"position": 4}, {"epoch": 2, "position": 3}, {"epoch": 2, "position": 5, "repeat": 1}]
        saved = {"epoch_progress": progress, "state_dict": {"combined_loader": states}}
        combined = CombinedLoader([stock, DataLoader(Rows()), memory, mine])
        load_positions(combined, {"loops": {"fit_loop": saved}})
        assert stock.position == position
        assert memory.state_dict() == states[1] and mine.state_dict() == states[2]
        load_positions(DataLoader(Rows()), {"loops": {"fit_loop": saved | {"state_dict": {}}}})
        states.append({"position": 1})
        with pytest.raises(ValueError, match="zip"):
            load_positions(combined, {"loops": {"fit_loop": saved}})


def test_setting_the_epoch_after_a_batch_was_fetched_is_refused() -> None:
    loader, _ = exact(DataLoader(Stream(), 4), 0)
    given = iter(loader)
    next(given)
    loader.set_epoch(1)
    with pytest.raises(RuntimeError) as raised:
        next(given)
    assert str(raised.value) == (
        "The epoch and the position of a loader without a length must be loaded before its first batch is fetched."
    )


def test_a_missing_attribute_is_named_with_the_class() -> None:
    loader, _ = exact(DataLoader(Rows(), 4), 0)
    with pytest.raises(AttributeError, match=r"^MapStyleLoader has no _nothing$"):
        _ = loader._nothing
    assert not hasattr(ExactLoader.__new__(ExactLoader), "dataset")  # not initialised, as during copying
    with pytest.raises(NotImplementedError):
        list(ExactLoader([1], 0))


def test_has_length_depends_on_whether_len_works() -> None:
    class Unknown:
        def __len__(self) -> int:
            raise NotImplementedError

    class Broken:
        def __len__(self) -> int:
            raise OSError

    assert [has_length(thing) for thing in ([], [1], 5, Unknown())] == [True, True, False, False]
    with pytest.raises(OSError):
        has_length(Broken())


def test_a_nested_sampler_that_counts_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Counting:
        times = 0

        def __init__(self) -> None:
            self.seen, self.name = 0, "a"

        def __iter__(self) -> Iterator[int]:
            self.seen, self.name = self.seen + 1, self.name + "a"
            return iter(range(ROWS))

        def __len__(self) -> int:
            return ROWS

    list(exact(DataLoader(Rows(), batch_sampler=BatchSampler(Counting(), 4, False)), 1)[0])
    assert caplog.messages == [
        "note: a resumed run may read the rows in another order, because Counting.seen changes from epoch to epoch "
        "and is not in the checkpoint; give the sampler a set_epoch(epoch) instead"
    ]


def test_the_random_states_of_the_process_are_restored_after_an_error() -> None:
    before = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index, union-attr]
    for error in (KeyError, KeyboardInterrupt):
        with pytest.raises(error), seeded(1):
            (random.random(), np.random.rand(), torch.rand(()))
            raise error
    after = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index, union-attr]
    assert before == after and random_state()["python"][1] == list(before[0][1])


A, B, C, D = (random.Random(), np.random.default_rng(), torch.Generator(), np.random.RandomState())
in_module = random.Random()


class Holder:
    shared = B

    def __init__(self, *held: Any) -> None:
        self.held = held

    def method(self) -> None:
        pass


class Slotted:
    __slots__ = ("a",)
    of_class = D


def closing(thing: Any) -> Any:
    return lambda: thing


def unbound() -> Any:
    inner: Any = lambda: later  # noqa: E731
    if inner is None:
        later = 1
    return inner


def function(generator: Any = None) -> None:
    pass


HERE = [A, B, C, D, in_module]  # the generators that a function of this module may use


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ((A, B, C, D), [A, B, C, D]),
        ((A, A), [A]),
        ((None, 3, "a", torch.zeros(2), random, Holder), []),
        (([0] * 99 + [A],), [A]),
        (([0] * 100 + [A],), []),
        (({**dict.fromkeys(range(99)), "a": A},), [A]),
        (({**dict.fromkeys(range(100)), "a": A},), []),
        ((((A,), [{"b": [C]}]),), [C, A]),
        ((SimpleNamespace(a=SimpleNamespace(b=D)),), [D]),
        ((Slotted(),), [D]),
        ((partial(int, A, base=C),), [C, A]),
        ((partial(partial(int, D)),), [D]),
    ],
)
def test_generators_are_found_wherever_they_are_held(owners: Any, expected: list[Any]) -> None:
    assert list(map(id, generators_in(*owners))) == list(map(id, expected))


def test_torchs_default_generator_does_not_count_as_a_datasets_own() -> None:
    assert generators_in([TensorDataset(torch.zeros(2)), {"a": torch.default_generator}]) == []


@pytest.mark.parametrize(
    ("owner", "more"),
    [(function, []), (closing(own := random.Random()), [own]), (unbound(), []), (partial(function, own), [own])],
)
def test_a_function_has_the_generators_of_its_module_and_its_closure(owner: Any, more: list[Any]) -> None:
    assert {*map(id, generators_in(owner))} == {*map(id, [*HERE, own, *more])}


def test_a_method_has_the_generators_of_its_object_and_its_class() -> None:
    own, circle = random.Random(), Holder()
    circle.held = (circle, own)
    for owner in (circle, circle.method):
        assert {*map(id, generators_in(owner))} >= {id(own), id(B)}
