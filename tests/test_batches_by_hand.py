"""Compares orders of rows and random numbers of batches with those drawn directly by NumPy, torch and ``random``."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from loaders import ROWS, Endless, Rows, disturb, drawn, quiet, same
from loaders import batches as batches_of
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from descent.batches import map_style
from descent.batches.exact import exact
from descent.batches.in_memory import InMemoryBatches

ORDER, BATCH, WORKER, LOADER = 2, 3, 4, 5  # parts of the seed; changing them changes every run


def key(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 2


class Streams:
    """A process's generators, seeded with a key."""

    def __init__(self, key: int) -> None:
        self.python = random.Random(key)
        self.torch = torch.Generator().manual_seed(self.python.getrandbits(63))
        self.numpy = np.random.RandomState(self.python.getrandbits(32))

    def draw(self) -> list[float]:
        return [torch.rand((), generator=self.torch).item(), self.numpy.rand(), self.python.random()]


def numbers() -> list[float]:
    return [torch.rand(()).item(), np.random.rand(), random.random()]


class Drawing:
    """Rows that draw from the process's generators and from four of their own; not a torch ``Dataset``."""

    def __init__(self) -> None:
        self.legacy, self.python = np.random.RandomState(9), random.Random(9)
        self.torch, self.numpy = torch.Generator(), np.random.default_rng(9)

    def __len__(self) -> int:
        return 5

    def __getitem__(self, row: int) -> Tensor:
        own = [self.numpy.random(), torch.rand((), generator=self.torch).item(), self.python.random()]
        return torch.tensor([row, *numbers(), *own, self.legacy.rand()], dtype=torch.float64)


@pytest.mark.parametrize(("epoch", "repeat"), [(0, 0), (3, 0), (3, 1)])
def test_the_numbers_of_a_batch_are_those_of_seed_epoch_repeat_and_number(epoch: int, repeat: int) -> None:
    expected = []
    for number, rows in enumerate(([0, 1], [2, 3], [4])):
        streams, batch = Streams(key(7, epoch, BATCH, repeat) + number), []
        numpy = np.random.Generator(np.random.PCG64(streams.python.getrandbits(32)))
        own = torch.Generator().manual_seed(streams.python.getrandbits(32))
        python = random.Random(streams.python.getrandbits(32))
        legacy = np.random.RandomState(streams.python.getrandbits(32))
        for row in rows:
            mine = [numpy.random(), torch.rand((), generator=own).item(), python.random(), legacy.rand()]
            batch.append([row, *streams.draw(), *mine])
        expected.append(torch.tensor(batch, dtype=torch.float64))
    for first in (0, 2):
        disturb()
        loader, _ = exact(DataLoader(Drawing(), 2), 7)
        loader.load_state_dict({"epoch": epoch, "position": first, "repeat": repeat})
        assert same(list(loader), expected[first:])


class Anything:
    """An iterable that draws numbers at its start and at each step."""

    def __init__(self) -> None:
        self.generator = random.Random(9)

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Tensor]:
        first = [*numbers(), self.generator.random()]
        return (torch.tensor([*first, *numbers()], dtype=torch.float64) for _ in range(3))


@pytest.mark.parametrize(("epoch", "repeat"), [(0, 0), (3, 0), (3, 1)])
def test_what_is_iterated_over_begins_with_one_key_and_takes_each_step_with_the_next(epoch: int, repeat: int) -> None:
    start = Streams(first := key(7, epoch, BATCH, repeat))
    own = random.Random(start.python.getrandbits(32))
    begin = [*start.draw(), own.random()]
    expected = [torch.tensor([*begin, *Streams(first + step).draw()], dtype=torch.float64) for step in (1, 2, 3)]
    disturb()
    loader, _ = exact(Anything(), 7)
    loader.set_epoch(epoch)
    for _ in range(repeat):
        list(loader)
    given = list(loader)
    assert same(given, expected)
    loader.load_state_dict({"epoch": epoch, "position": 1, "repeat": repeat})
    assert same(list(loader), expected[1:])


SAMPLERS: dict[str, Callable[[], Any]] = {
    "with replacement": lambda: RandomSampler(range(ROWS), replacement=True),
    "fewer than there are": lambda: RandomSampler(range(ROWS), num_samples=10),
    "more than there are": lambda: RandomSampler(range(ROWS), num_samples=50),
    "weighted": lambda: WeightedRandomSampler([1.0] * ROWS, 18),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("within", [False, True], ids=["sampler", "within a batch sampler"])
def test_what_another_sampler_gives_is_what_it_draws_with_the_key_of_the_order(name: str, within: bool) -> None:
    sampler = SAMPLERS[name]()
    given: Any = {"batch_sampler": BatchSampler(sampler, 4, False)} if within else {"sampler": sampler, "batch_size": 4}
    taken = batches_of(DataLoader(Rows(), **given), 3, seed=7, count=20)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.Random(key(7, 3, ORDER, 0)).getrandbits(63))
        expected = list(SAMPLERS[name]())
    assert [int(row) for batch in taken for row in batch[:, 0]] == expected
    assert [len(batch) for batch in taken[:-1]] == [4] * (len(taken) - 1)


def test_a_sampler_without_a_length_takes_each_step_with_a_key_of_its_own() -> None:
    first, expected = key(7, 3, ORDER, 0), []
    for step in (1, 2, 3):  # steps of the batch sampler, four rows each
        generator = Streams(first + step).torch
        expected.append([int(torch.randint(ROWS, (), generator=generator)) for _ in range(4)])
    for position in (0, 1):
        loader = DataLoader(Rows(), 4, sampler=Endless())
        taken = batches_of(loader, 3, position, seed=7, count=3 - position)
        assert [batch[:, 0].tolist() for batch in taken] == expected[position:]


def test_tensors_whose_collate_function_draws_have_the_batchs_numbers() -> None:
    def mixed(rows: list[Any]) -> Tensor:
        batch: Tensor = default_collate(rows)[0]
        return batch + drawn()

    def make() -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(float(ROWS))), 4, collate_fn=mixed)

    assert same(batches_of(make(), 3), batches_of(make(), 3))
    assert not same(batches_of(make(), 3), batches_of(make(), 4))


@quiet
def test_each_of_several_loaders_has_the_seed_of_its_number() -> None:
    combined, _ = exact(tuple(InMemoryBatches(torch.arange(ROWS), shuffle=True, size=12) for _ in range(3)), 9)
    ((batch, _, _), *_) = combined
    for part, seed in zip(batch, (9, key(9, 1, LOADER, 0), key(9, 2, LOADER, 0)), strict=True):
        assert part[0].tolist() == np.random.default_rng((seed, 0, 2, 0)).permutation(ROWS)[:12].tolist()


def test_the_batches_in_memory_of_a_repeat_have_an_order_of_its_number() -> None:
    x = torch.arange(10)
    loader = InMemoryBatches(x, size=4, shuffle=True, seed=3)
    loader.set_epoch(5)
    orders = [np.random.default_rng((3, 5, 2, repeat)).permutation(10).tolist() for repeat in range(3)]
    for repeat in range(2):
        assert [batch.tolist() for (batch,) in loader] == [orders[repeat][n : n + 4] for n in (0, 4, 8)]
        assert loader.state_dict() == {"epoch": 5, "position": 3 * (repeat + 1)}
    assert [batch.tolist() for (batch,) in loader.take(2)] == [orders[2][:4], orders[2][4:8]]
    resumed = InMemoryBatches(x, size=4, shuffle=True, seed=3)
    resumed.load_state_dict({"epoch": 5, "position": 4})
    resumed.set_epoch(5)  # the same epoch keeps the position
    assert resumed.state_dict() == {"epoch": 5, "position": 4}
    assert [batch.tolist() for (batch,) in resumed] == [orders[1][4:8], orders[1][8:]]
    unseeded = InMemoryBatches(x, size=10, shuffle=True)
    assert unseeded.take(3) == [unseeded.all()] * 3 and unseeded.position == 1  # order in a batch does not matter
    unseeded = InMemoryBatches(x, size=5, shuffle=True)
    assert unseeded.take(1)[0][0].tolist() == np.random.default_rng((0, 0, 2)).permutation(10)[:5].tolist()
    plain = InMemoryBatches(x, size=4)
    assert [batch.tolist() for (batch,) in plain] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(ValueError, match=r"^tensors must have the same number of rows, got \[10, 10, 9\]$"):
        InMemoryBatches(x, x, x[1:])


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_validation_of_an_epoch_sees_the_same_batches_in_memory(shuffle: bool) -> None:
    loader = InMemoryBatches(torch.arange(10), size=4, shuffle=shuffle, seed=3)
    rows = np.random.default_rng((3, 5, 2, 0)).permutation(10).tolist() if shuffle else [*range(10)]
    for limit in (2, 2, 3, 1, 3, 3):  # limit_val_batches, or none
        loader.set_epoch(5)  # Lightning does this before each epoch
        assert [batch.tolist() for (batch,) in islice(loader, limit)] == [rows[:4], rows[4:8], rows[8:]][:limit]


class Recorded(DataLoader[Any]):
    """A DataLoader that records its arguments and starts no workers."""

    made: ClassVar[list[tuple[Any, dict[str, Any]]]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made.append((self, options))

    def __iter__(self) -> Any:
        return iter(())


@quiet
@pytest.mark.parametrize("persistent", [False, True])
def test_the_loader_within_has_the_users_options_and_a_key_for_its_workers(
    persistent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_style, "DataLoader", Recorded)
    Recorded.made.clear()
    options: dict[str, Any] = {
        "num_workers": 2,
        "timeout": 3.5,
        "multiprocessing_context": "spawn",
        "prefetch_factor": 5,
    }
    options |= {"persistent_workers": persistent, "pin_memory": True}
    loader, _ = exact(DataLoader(Rows(), 4, **options), 7)
    seeds = []
    for epoch in (0, 3):
        loader.set_epoch(epoch)
        list(loader)
        list(loader)
        seeds.append(Recorded.made[-1][0].generator.initial_seed())
    assert len(Recorded.made) == (1 if persistent else 4)
    for _, given in Recorded.made:
        context = given["multiprocessing_context"]
        assert {name: given[name] for name in options} == options | {"multiprocessing_context": context}
        assert context.get_start_method() == "spawn"
        assert given["batch_size"] is None
    words = [(7, 0, WORKER), (7, 0, WORKER)] if persistent else [(7, 0, WORKER, 1), (7, 3, WORKER, 1)]
    assert seeds == [key(*word) for word in words]


class Told:
    """Records the epochs that are set."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Iterator[int]:
        return iter(range(ROWS))

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


class ToldRows(Told, IterableDataset[Any]):
    pass


class ToldLoader(Told):
    def __init__(self) -> None:
        super().__init__()
        self.sampler = self.batch_sampler = Told()
        self.dataset = object()


def test_whoever_has_a_set_epoch_is_told_once_an_epoch() -> None:
    sampler, within, rows, whole = Told(), Told(), ToldRows(), ToldLoader()
    for loader in (
        DataLoader(Rows(), 4, sampler=sampler),
        DataLoader(Rows(), batch_sampler=BatchSampler(within, 4, False)),
        DataLoader(rows, 4),
        whole,
    ):
        given, _ = exact(loader, 1)
        for epoch in (2, 3):
            given.set_epoch(epoch)
            assert list(given)
    assert [told.epochs for told in (sampler, within, rows, whole, whole.sampler)] == [[2, 3]] * 5
