"""Where a loader stands: the epoch and how many of its batches were trained on."""

from collections.abc import Iterator
from typing import Any

TOO_LATE = "The epoch and the position of a loader without a length must be loaded before its first batch is fetched."


class ExactLoader:
    """What Lightning trains with in place of a loader: the same batches for the same seed and epoch, from any position.

    What it does not have itself, ``dataset`` for example, is the loader's.

    Lightning fetches one batch ahead where there is no length, the first of them before it has set an epoch. So a
    run that is resumed loads the state before training starts (``load_positions``), and the batch ahead does not
    count as trained on.

    Args:
        loader: the one that is replaced.
        seed: of its order and of its random numbers.
    """

    batch_sampler = None  # Lightning asks for it wherever there is a sampler
    _iterator: Any = None  # where Lightning looks for workers to be ended

    def __init__(self, loader: Any, seed: int) -> None:
        self.loader, self.seed = loader, seed
        self.epoch, self.position = 0, 0  # the position counts the batches that were handed out
        self.repeat = 0  # how often the epoch's batches were gone through before, beside a longer loader
        self._resumed = False  # whether the next iteration starts at the position
        self._is_set, self._is_over = False, False  # an epoch was set; its batches are all handed out
        self._ahead = 0  # batches that were handed out and not trained on

    def batches(self, epoch: int, first: int) -> Iterator[Any]:
        """Those of an epoch from one on, to be had from the subclass."""
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
        """The epoch's batches; those that are left of it, the first time after a state was loaded."""
        if self.position and not (self._resumed or self._is_over) and self._is_set:
            yield from self.batches(self.epoch, 0)  # beside training, or after an iteration that was left
            return
        epoch, first = self.epoch, self.position if self._resumed else 0
        if self._is_over:  # and started again within the epoch
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
            self.epoch, self.position = epoch, len(self)  # they have ended before those of a longer loader
        if epoch != self.epoch:
            self.position, self.repeat, self._is_over, self._resumed = 0, 0, False, False
        self.epoch, self._is_set = epoch, True

    def state_dict(self) -> dict[str, int]:
        """The position among the batches of an epoch that were trained on."""
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
        self.repeat = state_dict.get("repeat", 0)  # of an earlier version none
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
    """Calls ``set_epoch`` of those that have it, once each."""
    for listener in {id(listener): listener for listener in listeners}.values():
        if callable(set_epoch := getattr(listener, "set_epoch", None)):
            set_epoch(epoch)
