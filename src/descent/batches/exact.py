"""Makes any training DataLoader resume bit for bit, also in the middle of an epoch."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from itertools import islice
from typing import Any

from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from descent.batches.map_style import BATCH, LOADER, MapStyleLoader
from descent.batches.position import ExactLoader, has_length, tell_epoch
from descent.batches.rows import RowBatches
from descent.batches.seeding import first_key, generators_in, in_keyed_steps, seeded


def exact(loader: Any, seed: int) -> tuple[Any, str | None]:
    """Returns a replacement that resumes exactly, and a note on what cannot be exact and how to fix it, or ``None``.

    Args:
        loader: what ``train_dataloader`` returned.
        seed: for the order of the batches and the random numbers in them.
    """
    # Lightning treats an empty collection as a single loader
    if isinstance(loader, CombinedLoader) or (isinstance(loader, Mapping | list | tuple) and loader):
        return _all_exact(loader, seed)
    if isinstance(loader, RowBatches) and loader.seed is None:
        loader.seed = seed
    if _is_exact(loader) or not hasattr(loader, "__iter__"):
        return loader, None
    name = type(loader).__name__
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        note = (
            f"a run resumed in the middle of an epoch misses a batch, because Lightning prefetches one from {name}, "
            "which has no length; add __len__ to fix this"
        )
        return loader, None if has_length(loader) else note
    if isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__:
        if not isinstance(loader.dataset, IterableDataset):
            return MapStyleLoader(loader, seed), None
        name = type(loader.dataset).__name__
    return ReplayedLoader(loader, seed), (
        f"a run resumed in the middle of an epoch reloads the batches of {name} that it has seen, and is exact only if "
        "they depend only on the generators of torch, NumPy and random; use a loader with state_dict and "
        "load_state_dict (torchdata's StatefulDataLoader) to fix this"
    )


def parts(loader: Any) -> list[Any]:
    """Lists the loaders of a collection in Lightning's order, or the single loader."""
    if isinstance(loader, CombinedLoader):
        loader = loader.flattened
    if isinstance(loader, Mapping):
        loader = [*loader.values()]
    return [part for entry in loader for part in parts(entry)] if isinstance(loader, list | tuple) else [loader]


def is_shuffled(loader: Any) -> bool:
    """Whether the order may change between epochs: true unless the sampler is known to keep one order."""
    return any(map(_is_shuffled, parts(loader)))


def _is_shuffled(loader: Any) -> bool:
    if hasattr(loader, "shuffle"):
        return bool(loader.shuffle)
    batch_sampler = getattr(loader, "batch_sampler", None)
    if isinstance(getattr(loader, "dataset", None), IterableDataset):
        return False
    if batch_sampler is not None and not type(batch_sampler).__module__.startswith(("torch.", "torchdata.")):
        return True
    sampler = getattr(batch_sampler, "sampler", getattr(loader, "sampler", None))
    return not isinstance(sampler, SequentialSampler | Sequence | None)


def load_positions(loader: Any, checkpoint: dict[str, Any]) -> None:
    """Restores the position of each loader from a Lightning checkpoint. Call it before training starts.

    Lightning itself restores positions only from checkpoints written within an epoch, and only if nothing, such as a
    scheduler, has requested the loader before.
    """
    saved = checkpoint["loops"]["fit_loop"]
    progress = saved["epoch_progress"]["current"]
    stateful = [part for part in parts(loader) if hasattr(part, "state_dict") and hasattr(part, "load_state_dict")]
    for part, state in zip(stateful, saved["state_dict"].get("combined_loader", []), strict=True):
        # the meaning of another loader's state at the end of an epoch is unknown
        if _is_exact(part) or progress["processed"] < progress["started"]:
            part.load_state_dict(state)


def _is_exact(loader: Any) -> bool:
    return isinstance(loader, RowBatches | ExactLoader)


def _all_exact(loaders: Any, seed: int) -> tuple[CombinedLoader, str | None]:
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")
    # each has its own order, as in Lightning: rows of loaders of equal length are not paired
    seeds = [seed, *(first_key(seed, number, LOADER) for number in range(1, len(combined.flattened)))]
    pairs = [exact(loader, own_seed) for loader, own_seed in zip(combined.flattened, seeds, strict=True)]
    combined.flattened = [loader for loader, _ in pairs]
    notes = dict.fromkeys(note for _, note in pairs if note)
    lengths = {len(loader) if has_length(loader) else None for loader in combined.flattened}
    if None in lengths and len(pairs) > 1:
        notes[
            "a run resumed in the middle of an epoch misses a batch of some loaders, because not all have a length"
        ] = None
    elif len(lengths) > 1 and combined is loaders and not all(map(_is_exact, combined.flattened)):
        notes[
            "loaders of different lengths that keep their own position resume exactly if the mode of their "
            'CombinedLoader is "max_size_cycle" or "min_size", but not if it is "max_size"'
        ] = None
    return combined, "; ".join(notes) or None


class ReplayedLoader(ExactLoader):
    """Replaces any other iterable. To resume, it reloads the batches already seen and discards them."""

    def __init__(self, loader: Any, seed: int) -> None:
        if isinstance(loader, DataLoader) and (loader.persistent_workers or not loader.in_order):
            loader = copy(loader)
            # only workers that start with the epoch can draw the epoch's random numbers
            vars(loader)["persistent_workers"] = False  # DataLoader forbids setting it
            loader.in_order = True  # otherwise the order of the batches depends on the workers' speed
        super().__init__(loader, seed)

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        loader = self.loader
        listeners = (getattr(loader, name, None) for name in ("dataset", "sampler", "batch_sampler"))
        tell_epoch(epoch, loader, *listeners)
        key = first_key(self.seed, epoch, BATCH, self.repeat)
        self._iterator = None  # ends its workers before new ones start
        with seeded(key, generators_in(loader)):
            self._iterator = iter(loader)  # a DataLoader draws its workers' seeds here
        return islice(in_keyed_steps(self._iterator, key + 1), first, None)
