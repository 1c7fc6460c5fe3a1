"""What the keys of ``hydra.sweeper`` may be."""

from collections.abc import Mapping
from typing import Annotated, Any

from descent.config.schema import Mode
from descent.config.types import OrNull, PositiveInteger, Rule, Text, check

NODE = Annotated[Annotated[Mapping[str, Any], Rule("keys with their values")] | None, OrNull("none")]


def check_keys(max_batch_size: Any, nodes: Mapping[str, Any], choose_by: Any, mode: Any) -> None:
    """Raises an error for the first that is not what it must be."""
    kinds: dict[str, tuple[Any, Any]] = {
        "max_batch_size": (Annotated[PositiveInteger | None, OrNull("all at once")], max_batch_size),
        **{key: (NODE, value) for key, value in nodes.items()},
        "choose_by": (Annotated[Text | None, OrNull("monitor.metric")], choose_by),
        "mode": (Annotated[Mode | None, OrNull("monitor.mode")], mode),
    }
    for key, (kind, value) in kinds.items():
        check(kind, value, f"hydra.sweeper.{key}")
