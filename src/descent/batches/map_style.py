"""Makes a DataLoader over a map-style dataset start at any position, with separate random numbers for each batch."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
)

from descent.batches.fetching import Fetch, Init, unchanged
from descent.batches.position import ExactLoader, has_length, tell_epoch
from descent.batches.seeding import first_key, generators_in, in_keyed_steps, seeded
from descent.batches.share import Share

log = logging.getLogger(__name__)

ORDER, BATCH, WORKER, LOADER = 2, 3, 4, 5  # the purpose of a key


class MapStyleLoader(ExactLoader):
    """Replaces a DataLoader over a map-style dataset. To resume, it reloads nothing that was seen.

    While a batch is fetched and collated, torch, NumPy, ``random`` and the generators owned by the dataset, its
    transforms and the collate function are seeded by (seed, epoch, batch number), with or without workers.

    Attributes:
        share: this process's part of each batch, if several processes train one model; the run sets it. The random
            numbers then depend on the process too.
    """

    share: Share | None = None

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        super().__init__(loader, seed)
        self._plan = _Plan()
        self._rows: deque[int] = deque()  # of each batch that is planned but not yet returned
        self._is_noted = False  # that a sampler keeps its own count
        self._noted = set[str]()  # the attributes that workers change

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        key = first_key(self.seed, epoch, BATCH, self.repeat)
        if self.share is not None and self.share.rank:
            key = first_key(key, self.share.rank, BATCH)
        self._plan.items = ((key + number, index) for number, index in enumerate(self._own(epoch, first), first))
        self._rows.clear()
        if self._iterator is None or not self.loader.persistent_workers:
            self._iterator = None  # ends its workers before new ones start
            self._keyed = self._keyed_loader()
        # persistent workers start with the same seed in a resumed run, whatever its first epoch
        started = (0, WORKER) if self.loader.persistent_workers else (epoch, WORKER, self.repeat)
        self._keyed.generator = torch.Generator().manual_seed(first_key(self.seed, *started))
        self._iterator = iter(self._keyed)
        for fetched in self._iterator:
            batch, changed = fetched if self.loader.num_workers else (fetched, [])
            self._note(changed)
            if self.share is not None:
                self.share.count(self._rows.popleft())
            yield batch

    def _note(self, changed: list[str]) -> None:
        if new := [name for name in changed if name not in self._noted]:
            self._noted.update(new)
            log.warning(
                "note: a run resumed within an epoch may differ, because fetching changes %s in DataLoader workers, "
                "which no checkpoint contains; use the row's index or random numbers instead",
                ", ".join(new),
            )

    def _own(self, epoch: int, first: int) -> Iterator[Any]:
        """The index or indices to fetch for each batch, or for this process's part of it."""
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
            Fetch(loader),
            batch_size=None,
            sampler=self._plan,
            collate_fn=unchanged,
            worker_init_fn=Init(loader.worker_init_fn),
            **{name: getattr(loader, name) for name in (*names, "persistent_workers", "pin_memory_device")},
        )

    def _indices(self, epoch: int, first: int) -> Iterator[Any]:
        """The indices of each batch: a list of rows, or one row if the loader does not batch."""
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
        """The indices from any other sampler: drawn all at once if it has a length, otherwise one by one."""
        counted = _counters(source)
        with seeded(key, generators_in(self.loader.generator, source)):
            iterator = iter(source)
            drawn = list(islice(iterator, len(source))) if has_length(source) else None
        changed = [name for name, value in _counters(source).items() if value != counted.get(name)]
        if changed and not self._is_noted:
            log.warning(
                "note: a resumed run may read the rows in another order, because %s changes from epoch to epoch and is "
                "not in the checkpoint; give the sampler a set_epoch(epoch) instead",
                changed[0],
            )
            self._is_noted = True
        return in_keyed_steps(iterator, key + 1) if drawn is None else iter(drawn)


def _counters(source: Any) -> dict[str, float]:
    """The numbers that a sampler, or the sampler of a batch sampler, stores as attributes."""
    return {
        f"{type(sampler).__name__}.{name}": value
        for sampler in (source, getattr(source, "sampler", None))
        for name, value in getattr(sampler, "__dict__", {}).items()
        if isinstance(value, int | float)
    }


class _Plan:
    """The sampler of the inner loader: a key and an index for each remaining batch of the epoch."""

    items: Iterable[tuple[int, Any]] = ()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return iter(self.items)
