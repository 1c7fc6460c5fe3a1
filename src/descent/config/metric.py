"""Names and modes of metrics, as results give them."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

SPLITS = ("train", "val", "test")


class Metric(NamedTuple):
    """The name that a metric was logged with, and whether its ``min`` or its ``max`` is best."""

    name: str
    mode: str

    def merit(self, value: float) -> float:
        """``value``, negated where smaller is better."""
        return value if self.mode == "max" else -value


def without_split(name: str) -> str:
    """``acc`` for ``val/acc``; its mode is the same in every split."""
    split, _, rest = name.partition("/")
    return rest if rest and split in SPLITS else name


def in_split(split: str, name: str) -> str:
    """The metric in another split: ``test/acc`` for ``val/acc``."""
    return f"{split}/{without_split(name)}"


def quantities_of(results: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    """The quantities that a metric measures in these runs, where known. Values of different ones do not compare."""
    given = (result.get("quantities", {}).get(without_split(name)) for result in results)
    return sorted({quantity for quantity in given if quantity is not None})


def monitors_of(results: Iterable[Mapping[str, Any]], logged: Collection[str]) -> list[Metric]:
    """The metrics that these runs monitored, usually one.

    Older results do not name it; they monitored the loss.
    """
    given = [result["monitor"] for result in results if result.get("monitor")]
    found = {Metric(monitor["metric"], monitor["mode"]) for monitor in given}
    return sorted(found) or [Metric("val/loss" if "val/loss" in logged else "train/loss", "min")]
