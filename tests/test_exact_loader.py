"""Tests that any loader gives the same batches for a seed and epoch, from any position and with any workers."""

import random
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from loaders import (
    LEFT_AS_THEY_ARE,
    LOADERS,
    ROWS,
    WITH_WORKERS,
    Buckets,
    Owner,
    Rows,
    Stateful,
    Stream,
    batches,
    drawn,
    quiet,
    same,
    weights,
)
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    get_worker_info,
)

from descent.batches.exact import exact
from descent.batches.in_memory import InMemoryBatches
from descent.training.random_state import random_state


@pytest.mark.parametrize("name", LOADERS)
def test_batches_depend_only_on_seed_epoch_and_position(name: str) -> None:
    make = LOADERS[name]
    whole = batches(make(), 3)
    assert same(batches(make(), 3), whole)
    assert same(batches(make(), 3, position=2, count=len(whole) - 2), whole[2:])
    used = make()
    batches(used, 0)
    assert same(batches(used, 3), whole)
    if name != "in order":
        assert not same(batches(make(), 3, seed=2), whole)
    assert not same(batches(make(), 4, count=len(whole)), whole) or name == "in order"


def test_after_a_partial_epoch_the_next_epoch_starts_at_its_beginning() -> None:
    def two_epochs(loader: Any, first: int) -> list[Any]:
        given = []
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)
            given = list(islice(loader, first if epoch == 0 else None))
        return given

    x = torch.arange(float(ROWS))
    for make in (
        lambda: exact(DataLoader(Rows(drawn), 4, shuffle=True), 1)[0],
        lambda: exact(DataLoader(Stream(), 4), 1)[0],
        lambda: InMemoryBatches(x, size=4, shuffle=True),
    ):
        assert len(two_epochs(make(), 2)) == 6
        assert all(torch.equal(a[0], b[0]) for a, b in zip(two_epochs(make(), 2), two_epochs(make(), 6), strict=True))


def test_each_epoch_has_every_row_once_and_the_rest_in_the_last_batch() -> None:
    for make, rows, sizes in (
        (LOADERS["shuffle"], ROWS, [4] * 5 + [2]),
        (LOADERS["drop_last"], 20, [4] * 5),
        (LOADERS["stream"], ROWS, [4] * 5 + [2]),
    ):
        given = batches(make(), 1)
        assert [len(batch) for batch in given] == sizes
        assert len({int(row) for batch in given for row in batch[:, 0]}) == rows
    alone = [int(row[0]) for row in batches(LOADERS["batch_size=None"](), 1, count=ROWS + 1)]
    assert sorted(alone) == list(range(ROWS))
    assert alone == [int(row) for batch in batches(LOADERS["shuffle"](), 1) for row in batch[:, 0]]


@quiet
def test_loaders_of_equal_length_are_shuffled_independently() -> None:
    combined, _ = exact([DataLoader(Rows(drawn), ROWS, shuffle=True) for _ in range(2)], 9)
    (((a, b), _, _),) = combined
    assert a[:, 0].tolist() == np.random.default_rng((9, 0, 2)).permutation(ROWS).tolist()
    assert a[:, 0].tolist() != b[:, 0].tolist() and sorted(b[:, 0].tolist()) == list(range(ROWS))
    assert not set(a[:, 1].tolist()) & set(b[:, 1].tolist())  # their noise differs too
    combined, _ = exact([InMemoryBatches(torch.arange(ROWS), size=11, shuffle=True) for _ in range(2)], 9)
    assert all(pair[0][0].tolist() != pair[1][0].tolist() for pair, _, _ in combined)


@pytest.mark.parametrize("make", [lambda: DataLoader(Rows(drawn), 4, shuffle=True), LOADERS["weighted"]])
def test_iterating_an_epoch_again_draws_a_new_order(make: Any) -> None:
    loader, _ = exact(make(), 1)
    loader.set_epoch(3)
    first, again = list(loader), list(loader)
    assert loader.state_dict() == {"epoch": 4, "position": 0, "repeat": 0}
    assert len(first) == len(again) and not same(first, again)
    assert same(first, batches(make(), 3))
    resumed, _ = exact(make(), 1)
    resumed.load_state_dict({"epoch": 3, "position": 2, "repeat": 1})
    assert same(list(resumed), again[2:])
    resumed.set_epoch(4)
    assert same(list(resumed), batches(make(), 4))


def test_a_shuffled_loader_uses_numpys_permutation_of_seed_and_epoch() -> None:
    given = batches(DataLoader(Rows(), 4, shuffle=True), 5, seed=9)
    order = np.random.default_rng((9, 5, 2)).permutation(ROWS)
    assert [int(row) for batch in given for row in batch[:, 0]] == order.tolist()


def test_a_weighted_sampler_draws_in_proportion_to_its_weights() -> None:
    loader, _ = exact(LOADERS["weighted"](), 0)
    counts = np.zeros(ROWS)
    for epoch in range(300):
        loader.set_epoch(epoch)
        for batch in loader:
            np.add.at(counts, batch[:, 0].int().numpy(), 1)
    expected = 300 * 18 * weights.numpy() / weights.sum().item()
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_random_numbers_differ_between_rows_batches_epochs_and_generators() -> None:
    class Three(Rows):
        def __getitem__(self, row: int) -> Tensor:
            return torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()])

    loader, _ = exact(DataLoader(Three(), 4), 0)
    numbers = []
    for epoch in range(50):
        loader.set_epoch(epoch)
        numbers += list(loader)
    noise = torch.cat(numbers)
    assert len(set(noise.flatten().tolist())) == noise.numel()
    assert (torch.corrcoef(noise.T) - torch.eye(3)).abs().max() < 5 / len(noise) ** 0.5
    assert (noise.mean(dim=0) - 0.5).abs().max() < 5 * (1 / 12 / len(noise)) ** 0.5


@pytest.mark.parametrize("name", [*LOADERS, "2 workers"])
def test_fetching_does_not_change_the_random_states_of_the_process(name: str) -> None:
    loader, _ = exact((LOADERS | WITH_WORKERS)[name](), 1)
    np.random.standard_normal()  # NumPy draws two and keeps the second
    before = random_state()
    given = list(islice(loader, 3))
    after = random_state()
    assert len(given) == 3
    assert torch.equal(before["torch"], after["torch"])
    assert before["python"] == after["python"]
    assert torch.equal(before["numpy"]["state"].pop("key"), after["numpy"]["state"].pop("key"))
    assert before["numpy"] == after["numpy"]


def test_rows_before_the_position_are_not_loaded_again() -> None:
    rows = Rows(drawn)
    batches(DataLoader(rows, 4, shuffle=True), 2, position=4)
    assert rows.loaded == np.random.default_rng((1, 2, 2)).permutation(ROWS)[16:].tolist()


@quiet
def test_workers_give_the_same_batches_as_no_workers() -> None:
    def init(worker: int) -> None:
        info = get_worker_info()
        assert info is not None
        info.dataset.noise = info.dataset.draw_more  # torch documents info.dataset as the user's own dataset

    class Started(Owner):
        def draw_more(self) -> float:
            return self.draw({"rng": random.Random(0)}) + drawn() + 100

    alone, started = Owner(), Started()
    started.noise = started.draw_more
    in_order = {"multiprocessing_context": "fork", "in_order": False}
    for a, b in (
        (DataLoader(alone, 4, shuffle=True), DataLoader(Owner(), 4, shuffle=True, num_workers=2, **in_order)),
        (DataLoader(started, 4), DataLoader(Started(), 4, num_workers=2, worker_init_fn=init, **in_order)),
    ):
        assert same(batches(a, 1), batches(b, 1))
        assert same(batches(a, 2, position=3), batches(b, 2, position=3))
    loader, _ = exact(WITH_WORKERS["persistent workers"](), 1)
    for epoch in (0, 1, 2):
        loader.set_epoch(epoch)
        expected = batches(DataLoader(Owner(), batch_sampler=Buckets()), epoch)
        if epoch == 1:
            assert same(list(islice(loader, 2)), expected[:2])  # the epoch is left early
        else:
            assert same(list(loader), expected)


def test_persistent_workers_start_the_same_in_a_resumed_run() -> None:
    def init(worker: int) -> None:
        info, number = get_worker_info(), drawn()
        assert info is not None
        info.dataset.noise = lambda: number

    def make() -> DataLoader[Tensor]:
        return DataLoader(
            Rows(), 4, num_workers=1, persistent_workers=True, worker_init_fn=init, multiprocessing_context="fork"
        )

    loader, _ = exact(make(), 1)
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        given = list(loader)
    assert same(given, batches(make(), 1))


def test_a_stream_keeps_the_worker_order_when_one_worker_is_slow() -> None:
    class FirstIsSlow(Stream):
        def __iter__(self) -> Iterator[Tensor]:
            worker = get_worker_info()
            assert worker is not None
            if worker.id == 0:
                time.sleep(0.3)
            yield torch.tensor(worker.id)

    loader, _ = exact(DataLoader(FirstIsSlow(), 1, num_workers=2, multiprocessing_context="fork", in_order=False), 1)
    assert [int(batch) for batch in loader] == [0, 1]


@quiet
def test_notes_name_what_is_not_exact_and_the_remedy() -> None:
    class OwnWay(DataLoader[Tensor]):
        def __iter__(self) -> Any:
            return iter([torch.ones(1)])

    endless_state = type("EndlessState", (Stateful,), {"__len__": None})
    for name, make in LOADERS.items():
        note = exact(make(), 0)[1]
        assert (note is None) == ("stream" not in name), name
    for loader, words in (
        (DataLoader(Stream()), ("Stream", "reloads", "state_dict")),
        (OwnWay(Rows()), ("OwnWay", "reloads", "state_dict")),
        (endless_state(), ("EndlessState", "misses a batch", "__len__")),
        ([DataLoader(Stream()), DataLoader(Rows())], ("Stream", "not all have a length")),
        (CombinedLoader([Stateful(), DataLoader(Rows(), 2)], "max_size"), ("max_size_cycle", "mode")),
    ):
        note = exact(loader, 0)[1] or ""
        assert all(word in note for word in words), note


def test_a_sampler_that_counts_its_own_epochs_is_noted_once(caplog: pytest.LogCaptureFixture) -> None:
    class Counting:
        epoch = 0

        def __len__(self) -> int:
            return ROWS

        def __iter__(self) -> Iterator[int]:
            self.epoch += 1
            return iter(torch.randperm(ROWS, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    for given in (DataLoader(Rows(), 4, sampler=Counting()), DataLoader(Rows(), batch_sampler=Buckets())):
        loader, _ = exact(given, 1)
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            list(loader)
    (note,) = caplog.messages
    assert "note: a resumed run may read the rows in another order, because Counting.epoch changes" in note
    assert note.endswith("not in the checkpoint; give the sampler a set_epoch(epoch) instead")


def test_loaders_with_their_own_state_are_not_replaced() -> None:
    for make in LEFT_AS_THEY_ARE.values():
        loader = make()
        assert exact(loader, 0) == (loader, None)


def test_a_replaced_loader_keeps_the_attributes_of_the_original() -> None:
    stock = DataLoader(Rows(), 4)
    loader, _ = exact(stock, 0)
    assert loader.dataset is stock.dataset
    assert (len(loader), loader.batch_size) == (6, 4)
    assert not hasattr(loader, "nothing")


def test_in_memory_batches_take_the_same_rows_of_every_tensor() -> None:
    x = torch.arange(10.0)
    loader = InMemoryBatches(x, -x, x.unsqueeze(1) * 2, size=4, shuffle=True, seed=3)
    order = torch.from_numpy(np.random.default_rng((3, 0, 2)).permutation(10))
    for (a, b, c), rows in zip(loader, torch.split(order, 4), strict=True):
        assert torch.equal(a, x[rows])
        assert torch.equal(b, -x[rows])
        assert torch.equal(c[:, 0], 2 * x[rows])
    assert all(a is b for a, b in zip(loader.all(), loader.tensors, strict=True))
    with pytest.raises(ValueError, match="the same number of rows"):
        InMemoryBatches(x, x[1:])
