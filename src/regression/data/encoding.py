"""Turns the columns of a table into the features of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from descent.config.types import check
from descent.errors import UserError
from regression.data.rows import Array

Missing = Literal["error", "drop", "mean"]


class Feature(NamedTuple):
    """The numbers of a column; with ``category`` 1 where its text is that category, and 0 where it is another."""

    column: str
    category: str | None = None

    @property
    def name(self) -> str:
        return self.column if self.category is None else f"{self.column}={self.category}"


@dataclass(frozen=True)
class Encoding:
    """How training, evaluation and prediction encode the cells of a table.

    Attributes:
        features: in the order of the weights.
        missing: how missing cells are treated.
        means: the mean of each feature over the training rows, in its own units; empty unless ``missing`` is ``mean``.
    """

    features: list[Feature]
    missing: Missing = "error"
    means: list[float] = field(default_factory=list)

    @classmethod
    def fit(cls, features: list[Feature], missing: Missing, train: Array) -> "Encoding":
        """The encoding for training rows (rows, features), with nan for missing cells.

        Raises:
            UserError: a column that needs a mean has no number in any training row.
        """
        means = []
        for feature, cells in zip(features, train.T, strict=True):
            known = cells[~np.isnan(cells)] if missing == "mean" else cells
            if not len(known):
                raise UserError(f"column {feature.column} must have a value in at least one training row")
            means.append(float(known.mean()))
        return cls(features, missing, means if missing == "mean" else [])

    @classmethod
    def of_run(cls, result: Mapping[str, Any], state: Mapping[str, Any]) -> "Encoding":
        """A run's encoding, from the state of its data module, or else for the plain columns that its result names.

        Raises:
            UserError: the state is damaged, or its features are not those that the result names.
        """
        names, _ = column_names(result)
        if "encoding" not in state:
            return cls([Feature(name) for name in names])
        found: Encoding = check(cls, state["encoding"], "encoding of the checkpoint's data")
        if [feature.name for feature in found.features] != names or len(found.means) not in (0, len(names)):
            raise UserError("the checkpoint's data must have the features that result.json names; they differ")
        return found

    def state(self) -> dict[str, Any]:
        """The encoding as plain values, for a checkpoint."""
        return {"features": [[*feature] for feature in self.features], "missing": self.missing, "means": self.means}

    def fill(self, inputs: Array) -> None:
        """Replaces nan in inputs (rows, features) by the feature's mean, if there is one."""
        for cells, mean in zip(inputs.T, self.means, strict=bool(self.means)):
            cells[np.isnan(cells)] = mean


def column_names(result: Mapping[str, Any]) -> tuple[list[str], str]:
    """The features and the target of a run, from its ``result.json``.

    Raises:
        UserError: they are missing.
    """
    features, target = result.get("features"), result.get("target")
    if not (isinstance(features, list) and features and isinstance(target, str)):
        raise UserError(
            "result.json must have the run's features and target, which callbacks=regression adds; it has none"
        )
    return features, target
