"""The metric that decides, as results name it."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

SPLITS = ("train", "val", "test")


class Metric(NamedTuple):
    """A metric by the name that it was logged with, and whether its ``min`` or its ``max`` is best."""

    name: str
    mode: str

    def merit(self, value: float) -> float:
        """The larger, the better."""
        return value if self.mode == "max" else -value


def without_split(name: str) -> str:
    """``acc`` of ``val/acc``: what has one direction on all rows."""
    split, _, rest = name.partition("/")
    return rest if rest and split in SPLITS else name


def same_of(split: str, name: str) -> str:
    """``test/acc`` of ``val/acc``."""
    return f"{split}/{without_split(name)}"


def quantities_of(results: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    """What a metric is in these runs, as far as they say it: of more than one its values are not comparable."""
    given = (result.get("quantities", {}).get(without_split(name)) for result in results)
    return sorted({quantity for quantity in given if quantity is not None})


def monitors_of(results: Iterable[Mapping[str, Any]], logged: Collection[str]) -> list[Metric]:
    """The metrics that decided in these runs, most often one.

    Results from before ``monitor`` was written have none: there it was the loss.
    """
    given = [result["monitor"] for result in results if result.get("monitor")]
    found = {Metric(monitor["metric"], monitor["mode"]) for monitor in given}
    return sorted(found) or [Metric("val/loss" if "val/loss" in logged else "train/loss", "min")]
