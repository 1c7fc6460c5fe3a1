"""Tracks a loader's position: the epoch and the number of its batches trained on."""

from collections.abc import Iterator
from typing import Any

TOO_LATE = "The epoch and the position of a loader without a length must be loaded before its first batch is fetched."


class ExactLoader:
    """Replaces a loader: gives the same batches for the same seed and epoch, from any position.

    Other attributes, such as ``dataset``, are those of the loader.

    Lightning prefetches one batch if there is no length, the first before it calls ``set_epoch``. So a resumed run
    loads the state before training starts (``load_positions``), and the prefetched batch does not count as trained on.

    Args:
        loader: the loader to replace.
        seed: for its order and its random numbers.
    """

    batch_sampler = None  # Lightning reads it if there is a sampler
    _iterator: Any = None  # where Lightning looks for workers to shut down

    def __init__(self, loader: Any, seed: int) -> None:
        self.loader, self.seed = loader, seed
        self.epoch, self.position = 0, 0  # the position counts the batches returned
        self.repeat = 0  # how often the epoch's batches were used up before, next to a longer loader
        self._resumed = False  # whether the next iteration starts at the position
        self._is_set, self._is_over = False, False  # whether an epoch was set; whether all its batches were returned
        self._ahead = 0  # batches returned but not yet trained on

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        """The batches of ``epoch`` from number ``first`` on. Subclasses implement it."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "loader":
            raise AttributeError(f"{type(self).__name__} has no {name}")
        return getattr(self.loader, name)

    @property
    def sampler(self) -> "ExactLoader":
        """Where Lightning looks for ``set_epoch``."""
        return self

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """The epoch's batches; the first time after a state was loaded, those that are left."""
        if self.position and not (self._resumed or self._is_over) and self._is_set:
            yield from self.batches(self.epoch, 0)  # during training, or after an iteration that was abandoned
            return
        epoch, first = self.epoch, self.position if self._resumed else 0
        if self._is_over:  # iterated again within the epoch
            self.repeat, first = self.repeat + 1, 0
        if not self._is_set and not has_length(self):
            self._ahead = 1
        self._resumed = self._is_over = False
        self.position = first
        for number, batch in enumerate(self.batches(epoch, first), first + 1):
            if self.epoch != epoch:
                raise RuntimeError(TOO_LATE)
            self.position = number
            yield batch
        self._is_over = True

    def set_epoch(self, epoch: int) -> None:
        if self._resumed and epoch == self.epoch - 1 and has_length(self):
            self.epoch, self.position = epoch, len(self)  # its batches ran out before those of a longer loader
        if epoch != self.epoch:
            self.position, self.repeat, self._is_over, self._resumed = 0, 0, False, False
        self.epoch, self._is_set = epoch, True

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches trained on."""
        if self._is_over:
            return {"epoch": self.epoch + 1, "position": 0, "repeat": 0}
        return {"epoch": self.epoch, "position": self._trained(), "repeat": self.repeat}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        position, epoch = state_dict["position"], state_dict["epoch"]
        if self._ahead and not self._is_set and not self._resumed:
            if (epoch, position) != (self.epoch, self._trained()):
                raise RuntimeError(TOO_LATE)
            return
        self.position, self.epoch = position, epoch
        self.repeat = state_dict.get("repeat", 0)  # missing in states of earlier versions
        self._resumed, self._is_over = True, False

    def _trained(self) -> int:
        return self.position if self._resumed else max(0, self.position - self._ahead)


def has_length(loader: Any) -> bool:
    try:
        len(loader)
    except (TypeError, NotImplementedError):
        return False
    return True


def tell_epoch(epoch: int, *listeners: Any) -> None:
    """Calls ``set_epoch`` once on each listener that has it."""
    for listener in {id(listener): listener for listener in listeners}.values():
        if callable(set_epoch := getattr(listener, "set_epoch", None)):
            set_epoch(epoch)
