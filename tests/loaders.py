"""Loaders as users write them, each with another source of random numbers, to test ``exact``."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
    random_split,
)

from descent.batches.exact import exact
from descent.batches.in_memory import InMemoryBatches

ROWS = 22
# Advice of Lightning and torch
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def drawn() -> float:
    """The sum of a number from each of the three global generators."""
    return float(torch.rand(())) + float(np.random.rand()) + random.random()


class Rows(Dataset[Tensor]):
    """Rows of their index and a random number; records which rows were loaded."""

    def __init__(self, noise: Callable[[], float] = lambda: 0.0) -> None:
        self.noise, self.loaded = noise, list[int]()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> Tensor:
        self.loaded.append(row)
        return torch.tensor([row, self.noise()])


class AtOnce(Rows):
    def __getitems__(self, rows: list[int]) -> list[Tensor]:
        return [self[row] + drawn() for row in rows]


class Owner(Rows):
    """Owns generators, one of them inside its transform."""

    def __init__(self) -> None:
        super().__init__(partial(self.draw, {"rng": random.Random(1)}))
        self.numpy, self.torch = np.random.default_rng(2), torch.Generator().manual_seed(3)

    def draw(self, more: dict[str, random.Random]) -> float:
        mine = float(self.numpy.normal()) + float(torch.rand((), generator=self.torch))
        return mine + more["rng"].random()


class Lazy(Rows):
    """Makes its generator with its first row."""

    rng: Any = None

    def __getitem__(self, row: int) -> Tensor:
        if self.rng is None:
            self.rng = np.random.default_rng(torch.initial_seed())
        return torch.tensor([row, float(self.rng.random())])


module_generator = np.random.default_rng(4)


class ClassOwner(Rows):
    """Draws from a generator of the class and from a generator of this module."""

    generator = random.Random(5)

    def __init__(self) -> None:
        super().__init__(float)  # not a function of this module

    def __getitem__(self, row: int) -> Tensor:
        return torch.tensor([row, self.generator.random() + float(module_generator.random())])


class Stream(IterableDataset[Tensor]):
    """Each worker yields its share, in random order and with noise."""

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for row in np.random.permutation(ROWS)[first::step]:
            yield torch.tensor([float(row), drawn()])


class SizedStream(Stream):
    def __len__(self) -> int:
        return ROWS


class Endless:
    """A sampler without end or length."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield int(torch.randint(ROWS, ()))


class Buckets:
    """A user's batch sampler with its own generator and batches of different sizes."""

    epoch = 0

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(ROWS, generator=self.generator).tolist()
        random.shuffle(order)
        for number in range(5):
            yield order[number * 4 : number * 4 + 2 + (number + self.epoch) % 3]


class Stateful:
    """A loader that keeps its own position."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[Tensor]:
        for number in range(self.position + 1, 7):
            self.position = number
            yield torch.full((2, 2), float(number))
        self.position = 0

    def __len__(self) -> int:
        return 6

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def padded(rows: list[Tensor]) -> Tensor:
    """A collate function that crops sequences to random lengths and pads the shorter ones."""
    length = random.randint(1, 2)
    return nn.utils.rnn.pad_sequence([row[: random.randint(1, length)] for row in rows], batch_first=True)


weights = torch.arange(1.0, ROWS + 1)
LOADERS: dict[str, Callable[[], Any]] = {
    "shuffle": lambda: DataLoader(Rows(drawn), 4, shuffle=True),
    "in order": lambda: DataLoader(Rows(drawn), 4),
    "drop_last": lambda: DataLoader(Rows(drawn), 4, shuffle=True, drop_last=True),
    "__getitems__": lambda: DataLoader(AtOnce(drawn), 4, shuffle=True),
    "own generators": lambda: DataLoader(Owner(), 4, shuffle=True, generator=torch.Generator()),
    "a class's and a module's generators": lambda: DataLoader(ClassOwner(), 4, shuffle=True),
    "a generator made with the first row": lambda: DataLoader(Lazy(), 4, shuffle=True),
    "batch_size=None": lambda: DataLoader(Rows(drawn), batch_size=None, shuffle=True),
    "a user's batch_sampler": lambda: DataLoader(Rows(drawn), batch_sampler=Buckets()),
    "weighted": lambda: DataLoader(Rows(), 4, sampler=WeightedRandomSampler(weights.tolist(), 18)),
    "replacement": lambda: DataLoader(Rows(), 4, sampler=RandomSampler(range(ROWS), True, 18)),
    "subset": lambda: DataLoader(Rows(), 4, sampler=SubsetRandomSampler(range(3, ROWS))),
    "split": lambda: DataLoader(random_split(Rows(drawn), [20, 2], torch.Generator())[0], 4, shuffle=True),
    "an endless sampler": lambda: DataLoader(Rows(drawn), 4, sampler=Endless()),
    "collate": lambda: DataLoader(Rows(drawn), 4, shuffle=True, collate_fn=padded),
    "tensors": lambda: DataLoader(TensorDataset(torch.arange(ROWS)), 4, shuffle=True),
    "stream": lambda: DataLoader(Stream(), 4),
    "stream with a length": lambda: DataLoader(SizedStream(), 4),
}
LEFT_AS_THEY_ARE: dict[str, Callable[[], Any]] = {
    "in memory": lambda: InMemoryBatches(torch.rand(ROWS, 2, generator=torch.Generator()), size=4, shuffle=True),
    "stateful": Stateful,
}
WITH_WORKERS: dict[str, Callable[[], Any]] = {
    "2 workers": lambda: DataLoader(Rows(drawn), 4, shuffle=True, num_workers=2, multiprocessing_context="fork"),
    "2 workers that make a generator": lambda: DataLoader(Lazy(), 4, num_workers=2, multiprocessing_context="fork"),
    "persistent workers": lambda: DataLoader(
        Owner(),
        batch_sampler=Buckets(),
        num_workers=2,
        persistent_workers=True,
        prefetch_factor=1,
        multiprocessing_context="fork",
    ),
    "stream of 2 workers": lambda: DataLoader(
        Stream(), 4, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    ),
}


def disturb() -> None:
    """Reseeds at random: what ran before must not matter."""
    seed = random.randrange(2**31)
    torch.manual_seed(seed)
    np.random.seed(seed)


def batches(loader: Any, epoch: int, position: int = 0, seed: int = 1, count: int = 7) -> list[Any]:
    disturb()
    loader, _ = exact(loader, seed)
    if position:
        loader.load_state_dict({"epoch": epoch, "position": position})
    loader.sampler.set_epoch(epoch)
    given = []
    for batch in islice(loader, count):
        given.append(batch)
        drawn()
    return given


def same(a: list[Any], b: list[Any]) -> bool:
    def flat(batch: Any) -> list[Tensor]:
        return list(batch) if isinstance(batch, list) else [batch]

    pairs = [pair for x, y in zip(a, b, strict=True) for pair in zip(flat(x), flat(y), strict=True)]
    return bool(pairs) and all(torch.equal(x, y) for x, y in pairs)
