"""Where rows come from, one function a source. NumPy and float64 here; torch begins in the data module."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from descent.config.schema import DataConfig, DiabetesData, RowsData, SyntheticData, TableData
from descent.errors import UserError, must
from regression.data.size import check_size
from regression.data.table import LARGEST, Array, read_table


@dataclass(frozen=True)
class Rows:
    """Inputs and targets in the data's own units, and what is known of them."""

    inputs: Array  # (rows, features)
    targets: Array  # (rows,)
    feature_names: tuple[str, ...]
    target_name: str = "y"
    true_weight: tuple[float, ...] | None = None  # of the process that made the data, where it is known
    true_bias: float | None = None


def synthetic(config: SyntheticData) -> Rows:
    """A linear model with Gaussian noise, ``y = w x + b + noise_std * e``.

    The features are normal with covariance ``Q diag(v) Q^T``: ``v`` rises geometrically, its last over its
    first is ``condition_number`` and its mean is 1; ``Q`` is a random rotation. So the condition number changes
    the shape of the loss, not its scale. ``w``, ``b`` and ``e`` are standard normal. A fraction of the targets,
    ``outlier_fraction``, is moved by ten standard deviations of the target, up or down.
    """
    check_size(config)
    rng = np.random.default_rng(config.seed)
    n, d = config.num_samples, config.num_features
    weight, bias = rng.standard_normal(d), rng.standard_normal()
    variances = np.geomspace(1.0, config.condition_number, d)
    rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
    scales = np.sqrt(variances / variances.mean())
    inputs = rng.standard_normal((n, d))
    inputs *= scales  # in place: a large table is in memory only once more
    inputs = inputs @ rotation.T
    clean = inputs @ weight + bias
    targets = clean + config.noise_std * rng.standard_normal(n)
    outliers = rng.permutation(n)[: round(config.outlier_fraction * n)]
    targets[outliers] += 10 * clean.std() * rng.choice([-1.0, 1.0], size=len(outliers))
    return Rows(inputs, targets, numbered(d), true_weight=tuple(map(float, weight)), true_bias=float(bias))


def rows(config: RowsData) -> Rows:
    """The rows that the config writes out."""
    inputs = np.array(config.inputs, dtype=np.float64)
    return Rows(inputs, np.array(config.targets, dtype=np.float64), numbered(inputs.shape[1]))


def diabetes(config: DiabetesData) -> Rows:
    """scikit-learn's diabetes data in its original units."""
    from sklearn.datasets import load_diabetes  # a second, needed here alone

    bunch: Any = load_diabetes(scaled=False)
    return Rows(
        np.asarray(bunch.data, dtype=np.float64),
        np.asarray(bunch.target, dtype=np.float64),
        tuple(bunch.feature_names),
        "progression",
    )


def table(config: TableData) -> Rows:
    """A CSV or Parquet file: the target column, and the feature columns named or found."""
    inputs, targets, names = read_table(config.file, config.target, config.features)
    return Rows(inputs, targets, names, config.target)


def numbered(num_features: int) -> tuple[str, ...]:
    """Names for features that have none: ``x_1``, ``x_2``, ..."""
    return tuple(f"x_{i}" for i in range(1, num_features + 1))


LOADERS: dict[type[DataConfig], Callable[[Any], Rows]] = {
    SyntheticData: synthetic,
    RowsData: rows,
    DiabetesData: diabetes,
    TableData: table,
}


def load(config: DataConfig) -> Rows:
    """The rows of any source, the first ``max_rows`` of them.

    Raises:
        UserError: a table cannot be used, or a number is too large to be squared.
    """
    try:
        found = LOADERS[type(config)](config)
    except MemoryError:
        raise UserError(f"data={config.source} must fit into the memory of this machine; it does not") from None
    for name, cells in [*zip(found.feature_names, found.inputs.T, strict=True), (found.target_name, found.targets)]:
        largest = float(np.abs(cells).max())
        if not largest <= LARGEST:  # true for nan as well
            raise must(f"column {name}", f"numbers up to {LARGEST:g}, whose squares can be summed", largest)
    limit = config.max_rows
    if limit is None or limit >= len(found.targets):
        return found
    return replace(found, inputs=found.inputs[:limit], targets=found.targets[:limit])
