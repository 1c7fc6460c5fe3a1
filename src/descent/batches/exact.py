"""Any training DataLoader, made to resume bit for bit, in the middle of an epoch too."""

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
    """What to train with in place of a loader, and a note on what cannot be exact, with its cure.

    Args:
        loader: what ``train_dataloader`` returned.
        seed: of the order of the batches and of the random numbers in them.
    """
    # an empty one is a loader of its own to Lightning
    if isinstance(loader, CombinedLoader) or (isinstance(loader, Mapping | list | tuple) and loader):
        return _all_exact(loader, seed)
    if isinstance(loader, RowBatches) and loader.seed is None:
        loader.seed = seed
    if _is_exact(loader) or not hasattr(loader, "__iter__"):
        return loader, None
    name = type(loader).__name__
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        note = (
            f"a run resumed in the middle of an epoch misses a batch, because Lightning fetches one ahead from {name}, "
            "which has no length; a __len__ would cure it"
        )
        return loader, None if has_length(loader) else note
    if isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__:
        if not isinstance(loader.dataset, IterableDataset):
            return MapStyleLoader(loader, seed), None
        name = type(loader.dataset).__name__
    return ReplayedLoader(loader, seed), (
        f"a run resumed in the middle of an epoch loads again what it has seen of {name}, and is exact only if its "
        "batches depend on torch's, NumPy's and random's numbers alone; a loader with state_dict and load_state_dict "
        "(torchdata's StatefulDataLoader) would cure it"
    )


def parts(loader: Any) -> list[Any]:
    """The loaders of a collection, as Lightning takes them, or the one."""
    if isinstance(loader, CombinedLoader):
        loader = loader.flattened
    if isinstance(loader, Mapping):
        loader = [*loader.values()]
    return [part for entry in loader for part in parts(entry)] if isinstance(loader, list | tuple) else [loader]


def is_shuffled(loader: Any) -> bool:
    """Whether a loader may draw another order in each epoch: whether its sampler is not known to keep to one."""
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
    """Goes on where a checkpoint of Lightning's was written; to be called before training starts.

    Lightning itself does so for checkpoints that were written within an epoch, and only where nothing has asked for
    the loader before, as schedulers do.
    """
    saved = checkpoint["loops"]["fit_loop"]
    progress = saved["epoch_progress"]["current"]
    stateful = [part for part in parts(loader) if hasattr(part, "state_dict") and hasattr(part, "load_state_dict")]
    for part, state in zip(stateful, saved["state_dict"].get("combined_loader", []), strict=True):
        # where another's state at the end of an epoch leads is not known
        if _is_exact(part) or progress["processed"] < progress["started"]:
            part.load_state_dict(state)


def _is_exact(loader: Any) -> bool:
    return isinstance(loader, RowBatches | ExactLoader)


def _all_exact(loaders: Any, seed: int) -> tuple[CombinedLoader, str | None]:
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, "max_size_cycle")
    # each has an order of its own, as Lightning has it: rows of equally long loaders are not paired
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
            "loaders of different lengths that keep their own position are resumed exactly where the mode of their "
            'CombinedLoader is "max_size_cycle" or "min_size", not where it is "max_size"'
        ] = None
    return combined, "; ".join(notes) or None


class ReplayedLoader(ExactLoader):
    """In place of anything else that is iterated over: what was seen is loaded again and thrown away."""

    def __init__(self, loader: Any, seed: int) -> None:
        if isinstance(loader, DataLoader) and (loader.persistent_workers or not loader.in_order):
            loader = copy(loader)
            # only workers that start with the epoch have random numbers of the epoch's own
            vars(loader)["persistent_workers"] = False  # a DataLoader refuses to have it set
            loader.in_order = True  # or the batches would come as the workers' speed has it
        super().__init__(loader, seed)

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        loader = self.loader
        listeners = (getattr(loader, name, None) for name in ("dataset", "sampler", "batch_sampler"))
        tell_epoch(epoch, loader, *listeners)
        key = first_key(self.seed, epoch, BATCH, self.repeat)
        self._iterator = None  # its workers end before others start
        with seeded(key, generators_in(loader)):
            self._iterator = iter(loader)  # a DataLoader draws its workers' seeds here
        return islice(in_keyed_steps(self._iterator, key + 1), first, None)
