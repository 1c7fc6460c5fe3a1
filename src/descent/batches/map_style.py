"""A DataLoader over rows that have indices, from any position and with random numbers of each batch's own."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
    get_worker_info,
)

from descent.batches.position import ExactLoader, has_length, tell_epoch
from descent.batches.seeding import Generator, first_key, generators_in, in_keyed_steps, seeded
from descent.batches.share import Share

log = logging.getLogger(__name__)

ORDER, BATCH, WORKER, LOADER = 2, 3, 4, 5  # what a key is for


class MapStyleLoader(ExactLoader):
    """In place of a DataLoader whose rows have indices; nothing that was seen is loaded again.

    Each batch is fetched and collated with torch, NumPy, ``random`` and the generators that the dataset, its
    transforms and the collate function own seeded by (seed, epoch, number of the batch), in a worker or not.

    Attributes:
        share: of this process, where several train one model; the run sets it. The random numbers are then the
            process's own, too.
    """

    share: Share | None = None

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        super().__init__(loader, seed)
        self._plan = _Plan()
        self._rows: deque[int] = deque()  # of the batches that are planned and were not handed out
        self._is_noted = False  # that a sampler counts for itself

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        key = first_key(self.seed, epoch, BATCH, self.repeat)
        if self.share is not None and self.share.rank:
            key = first_key(key, self.share.rank, BATCH)
        self._plan.items = ((key + number, index) for number, index in enumerate(self._own(epoch, first), first))
        self._rows.clear()
        if self._iterator is None or not self.loader.persistent_workers:
            self._iterator = None  # its workers end before others start
            self._keyed = self._keyed_loader()
        # workers that live on from epoch to epoch start alike in a resumed run, whatever its first epoch
        started = (0, WORKER) if self.loader.persistent_workers else (epoch, WORKER, self.repeat)
        self._keyed.generator = torch.Generator().manual_seed(first_key(self.seed, *started))
        self._iterator = iter(self._keyed)
        for batch in self._iterator:
            if self.share is not None:
                self.share.count(self._rows.popleft())
            yield batch

    def _own(self, epoch: int, first: int) -> Iterator[Any]:
        """What each batch, or the part of it that is this process's, is fetched with."""
        for index in self._indices(epoch, first):
            if self.share is None:
                yield index
            else:
                rows = index if isinstance(index, list) else list(index)
                self._rows.append(len(rows))
                yield self.share.of(rows)

    def _keyed_loader(self) -> DataLoader[Any]:
        loader = self.loader
        names = ("num_workers", "pin_memory", "timeout", "multiprocessing_context", "prefetch_factor")
        return DataLoader(
            _Fetch(loader),
            batch_size=None,
            sampler=self._plan,
            collate_fn=_unchanged,
            worker_init_fn=_Init(loader.worker_init_fn),
            **{name: getattr(loader, name) for name in (*names, "persistent_workers", "pin_memory_device")},
        )

    def _indices(self, epoch: int, first: int) -> Iterator[Any]:
        """What each batch is fetched with: a list of rows, or one row where the loader does not collate."""
        sampler, batch_sampler = self.loader.sampler, self.loader.batch_sampler
        tell_epoch(epoch, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
        rows: Any = None
        if type(sampler) is SequentialSampler:
            rows = np.arange(len(sampler))
        elif type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(sampler.data_source):
            rows = np.random.default_rng((self.seed, epoch, ORDER, self.repeat)).permutation(len(sampler))
        if rows is not None and batch_sampler is None:
            return (int(row) for row in rows[first:])
        if rows is not None and type(batch_sampler) is BatchSampler and batch_sampler.sampler is sampler:
            size = batch_sampler.batch_size
            return (rows[n * size : (n + 1) * size].tolist() for n in range(first, len(batch_sampler)))
        source = sampler if batch_sampler is None else batch_sampler
        return islice(self._drawn(source, first_key(self.seed, epoch, ORDER, self.repeat)), first, None)

    def _drawn(self, source: Any, key: int) -> Iterator[Any]:
        """The indices of any other sampler: all at once if it has a length, or else one by one."""
        counted = _counters(source)
        with seeded(key, generators_in(self.loader.generator, source)):
            iterator = iter(source)
            drawn = list(islice(iterator, len(source))) if has_length(source) else None
        changed = [name for name, value in _counters(source).items() if value != counted.get(name)]
        if changed and not self._is_noted:
            log.warning(
                "note: a resumed run may have another order of rows, because %s changes from epoch to epoch and is in "
                "no checkpoint; a sampler's set_epoch(epoch) in its place would cure it",
                changed[0],
            )
            self._is_noted = True
        return in_keyed_steps(iterator, key + 1) if drawn is None else iter(drawn)


def _counters(source: Any) -> dict[str, float]:
    """The numbers that a sampler, or the one within a batch sampler, keeps."""
    return {
        f"{type(sampler).__name__}.{name}": value
        for sampler in (source, getattr(source, "sampler", None))
        for name, value in getattr(sampler, "__dict__", {}).items()
        if isinstance(value, int | float)
    }


class _Plan:
    """The sampler of the loader within: a key and an index for each batch that is left of the epoch."""

    items: Iterable[tuple[int, Any]] = ()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return iter(self.items)


class _Fetch(Dataset[Any]):
    """A dataset of whole batches, each fetched and collated with random numbers of its own."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.dataset: Any = loader.dataset
        self.collate_fn: Any = loader.collate_fn
        self.is_batched = loader.batch_sampler is not None
        source = self.dataset
        while type(source) is Subset:
            source = source.dataset
        self.draws = type(source) is not TensorDataset or self.collate_fn not in (default_collate, default_convert)
        self.generators: list[Generator] | None = None  # looked for where they are used, after worker_init_fn

    def __getitem__(self, item: tuple[int, Any]) -> Any:
        key, index = item
        if not self.draws:
            return self._fetch(index)
        if self.generators is None:
            self.generators = generators_in(self.dataset, self.collate_fn)
        with seeded(key, self.generators):
            return self._fetch(index)

    def _fetch(self, index: Any) -> Any:
        if not self.is_batched:
            return self.collate_fn(self.dataset[index])
        if getattr(self.dataset, "__getitems__", None):
            return self.collate_fn(self.dataset.__getitems__(index))
        return self.collate_fn([self.dataset[row] for row in index])


class _Init:
    """A worker's start, where ``get_worker_info`` has the user's own dataset."""

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        info: Any = get_worker_info()
        object.__setattr__(info, "dataset", info.dataset.dataset)  # it refuses to have it set
        if self.init is not None:
            self.init(worker)


def _unchanged(batch: Any) -> Any:
    return batch
