"""Fetches and collates whole batches, in this process or in DataLoader workers."""

from collections.abc import Callable
from typing import Any

from torch.utils.data import (
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
    default_collate,
    default_convert,
    get_worker_info,
)

from descent.batches.data_attributes import Watch
from descent.batches.seeding import Generator, generators_in, seeded


class Fetch(Dataset[Any]):
    """A dataset of whole batches, each fetched and collated with its own random numbers."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.dataset: Any = loader.dataset
        self.collate_fn: Any = loader.collate_fn
        self.is_batched = loader.batch_sampler is not None
        source = self.dataset
        while type(source) is Subset:
            source = source.dataset
        self.draws = type(source) is not TensorDataset or self.collate_fn not in (default_collate, default_convert)
        # both made on first use, after worker_init_fn has run
        self.generators: list[Generator] | None = None
        self.watch: Watch | None = None
        self.fetched = 0

    def __getitem__(self, item: tuple[int, Any]) -> Any:
        """The batch; in a worker, with the attributes that have changed."""
        if get_worker_info() is None:
            return self._keyed(*item)
        self.watch = self.watch or Watch(self)
        return self._keyed(*item), self.watch.changed()

    def _keyed(self, key: int, index: Any) -> Any:
        if not self.draws:
            return self._fetch(index)
        if self.generators is None:
            self.generators = generators_in(self.dataset, self.collate_fn)
        with seeded(key, self.generators):
            batch = self._fetch(index)
        self.fetched += 1
        if self.fetched & (self.fetched - 1):  # looks after batch 1, 2, 4, 8 ..., so that it costs little
            return batch
        before, self.generators = self.generators, generators_in(self.dataset, self.collate_fn)
        if len(self.generators) > len(before):  # a row has made one, unseeded: fetches the batch again
            with seeded(key, self.generators):
                batch = self._fetch(index)
        return batch

    def _fetch(self, index: Any) -> Any:
        if not self.is_batched:
            return self.collate_fn(self.dataset[index])
        if getattr(self.dataset, "__getitems__", None):
            return self.collate_fn(self.dataset.__getitems__(index))
        return self.collate_fn([self.dataset[row] for row in index])


class Init:
    """Starts a worker, with the user's own dataset in ``get_worker_info``."""

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        info: Any = get_worker_info()
        object.__setattr__(info, "dataset", info.dataset.dataset)  # WorkerInfo forbids setting it
        if self.init is not None:
            self.init(worker)


def unchanged(batch: Any) -> Any:
    return batch
