"""Where rows come from: a class a source."""

import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from descent.config.types import (
    AtLeastOne,
    Fraction,
    NotNegative,
    OrNull,
    PositiveInteger,
    Row,
    SomeRows,
    Text,
    Texts,
    is_file,
)
from descent.errors import extra, invalid
from regression.data.module import RegressionData
from regression.data.rows import Rows, numbered

# The random rotation of d features is a QR decomposition of d x d numbers: 2.7 d^3 operations, minutes above this
MOST_FEATURES = 7_000
# Where the platform does not tell how much memory it has
USUAL_MEMORY = 64 * 2**30  # bytes


class SyntheticData(RegressionData):
    """A linear model with Gaussian noise, ``y = w x + b + noise_std * e``.

    The features are normal with covariance ``Q diag(v) Q^T``: ``v`` rises geometrically, its last over its
    first is ``condition_number`` and its mean is 1; ``Q`` is a random rotation. So the condition number changes
    the shape of the loss, not its scale. ``w``, ``b`` and ``e`` are standard normal. A fraction of the targets,
    ``outlier_fraction``, is moved by ten standard deviations of the target, up or down.
    """

    def __init__(
        self,
        num_samples: PositiveInteger,
        num_features: PositiveInteger,
        noise_std: NotNegative,
        condition_number: AtLeastOne,
        outlier_fraction: Fraction,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.num_samples, self.num_features = num_samples, num_features
        self.noise_std, self.condition_number, self.outlier_fraction = noise_std, condition_number, outlier_fraction

    def load(self) -> Rows:
        check_size(self.num_samples, self.num_features)
        rng = np.random.default_rng(self.seed)
        n, d = self.num_samples, self.num_features
        weight, bias = rng.standard_normal(d), rng.standard_normal()
        variances = np.geomspace(1.0, self.condition_number, d)
        rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
        scales = np.sqrt(variances / variances.mean())
        inputs = rng.standard_normal((n, d))
        inputs *= scales  # in place: a large table is in memory only once more
        inputs = inputs @ rotation.T
        clean = inputs @ weight + bias
        targets = clean + self.noise_std * rng.standard_normal(n)
        outliers = rng.permutation(n)[: round(self.outlier_fraction * n)]
        targets[outliers] += 10 * clean.std() * rng.choice([-1.0, 1.0], size=len(outliers))
        return Rows(inputs, targets, numbered(d), true_weight=tuple(map(float, weight)), true_bias=float(bias))


class ListedData(RegressionData):
    """Rows that are written out in the config itself."""

    def __init__(self, inputs: SomeRows, targets: Row, **common: Any) -> None:
        super().__init__(**common)
        if len(inputs) != len(targets):
            raise invalid("data.targets", f"as many as data.inputs ({len(inputs)})", targets)
        self.inputs, self.targets = inputs, targets

    def load(self) -> Rows:
        inputs = np.array(self.inputs, dtype=np.float64)
        return Rows(inputs, np.array(self.targets, dtype=np.float64), numbered(inputs.shape[1]))


class DiabetesData(RegressionData):
    """scikit-learn's diabetes data in its original units: 442 rows, 10 features."""

    def load(self) -> Rows:
        with extra("diabetes", "data=diabetes"):
            from sklearn.datasets import load_diabetes  # a second, needed here alone

        bunch: Any = load_diabetes(scaled=False)
        return Rows(
            np.asarray(bunch.data, dtype=np.float64),
            np.asarray(bunch.target, dtype=np.float64),
            tuple(bunch.feature_names),
            "progression",
        )


class TableData(RegressionData):
    """The user's own CSV or Parquet file.

    Args:
        path: of the file.
        target: the column to predict.
        features: the columns to predict it from; ``None``: every other numeric one.
    """

    def __init__(
        self,
        path: Path,
        target: Text,
        features: Annotated[Texts | None, OrNull("every numeric column but the target")] = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path, self.target, self.features = Path(path), target, features
        if not is_file(self.path):
            raise invalid("data.path", "a CSV or Parquet file", str(path))
        if self.path.suffix.lower() not in (".csv", ".parquet"):
            raise invalid("data.path", "a file named .csv or .parquet", str(path))
        if features is not None and target in features:
            raise invalid("data.features", f"without the target '{target}'", features)

    def load(self) -> Rows:
        from regression.data.table import read_table  # polars, a third of a second, is for tables alone

        inputs, targets, names = read_table(self.path, self.target, self.features)
        return Rows(inputs, targets, names, self.target)


def check_size(num_samples: int, num_features: int) -> None:
    """Refuses data that cannot be drawn in the memory of this machine, or not within minutes.

    Raises:
        UserError: too many features, or too many numbers.
    """
    if num_features > MOST_FEATURES:
        rule = f"at most {MOST_FEATURES}: the rotation of more features would take minutes"
        raise invalid("data.num_features", rule, num_features)
    needed, there = needed_bytes(num_samples, num_features), memory_bytes()
    if needed > there:
        rule = (
            f"such that the data fit into memory: {num_samples} x {num_features} numbers take"
            f" {needed / 2**30:.1f} GiB while they are drawn, and there are {there / 2**30:.1f} GiB"
        )
        raise invalid("data.num_samples", rule, num_samples)


def needed_bytes(num_samples: int, num_features: int) -> int:
    """At the peak: the table and its rotated copy, and four squares of the rotation, all in double precision."""
    return 8 * (2 * num_samples * (num_features + 1) + 4 * num_features**2)


def memory_bytes() -> int:
    """The physical memory of this machine; ``USUAL_MEMORY`` where the platform does not tell."""
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX platform, or one that does not tell
        return USUAL_MEMORY
    return page * pages if min(page, pages) > 0 else USUAL_MEMORY
