"""Defines the sources of rows, one class each."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

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
from descent.errors import UserError, extra, invalid
from regression.data.encoding import Encoding, Missing
from regression.data.memory import check_size
from regression.data.module import RegressionData
from regression.data.part import Part
from regression.data.rows import Rows, numbered
from regression.data.streamed import StreamableData

log = logging.getLogger(__name__)


class SyntheticData(RegressionData):
    """A linear model with Gaussian noise, ``y = w x + b + noise_std * e``.

    The features are normal with covariance ``Q diag(v) Q^T``. ``v`` is a geometric sequence with mean 1, whose last
    value is ``condition_number`` times its first; ``Q`` is a random rotation. So the condition number changes the shape
    of the loss, but not its scale. ``w``, ``b`` and ``e`` are standard normal. ``outlier_fraction`` of the targets are
    moved up or down by ten standard deviations of the target.
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
        inputs *= scales  # in place, so that a large table is in memory only once more
        inputs = inputs @ rotation.T
        clean = inputs @ weight + bias
        targets = clean + self.noise_std * rng.standard_normal(n)
        outliers = rng.permutation(n)[: round(self.outlier_fraction * n)]
        targets[outliers] += 10 * clean.std() * rng.choice([-1.0, 1.0], size=len(outliers))
        return Rows(inputs, targets, numbered(d), true_weight=tuple(map(float, weight)), true_bias=float(bias))


class ListedData(RegressionData):
    """Rows that are listed in the config."""

    def __init__(self, inputs: SomeRows, targets: Row, **common: Any) -> None:
        super().__init__(**common)
        if len(inputs) != len(targets):
            raise invalid("data.targets", f"as long as data.inputs ({len(inputs)})", targets)
        self.inputs, self.targets = inputs, targets

    def load(self) -> Rows:
        inputs = np.array(self.inputs, dtype=np.float64)
        return Rows(inputs, np.array(self.targets, dtype=np.float64), numbered(inputs.shape[1]))


class DiabetesData(RegressionData):
    """scikit-learn's diabetes data in its original units: 442 rows, 10 features."""

    def load(self) -> Rows:
        with extra("diabetes", "data=diabetes"):
            from sklearn.datasets import load_diabetes  # takes a second, and only this needs it

        bunch: Any = load_diabetes(scaled=False)
        return Rows(
            np.asarray(bunch.data, dtype=np.float64),
            np.asarray(bunch.target, dtype=np.float64),
            tuple(bunch.feature_names),
            "progression",
        )


class TableData(StreamableData):
    """The user's own CSV or Parquet file.

    With ``categorical=onehot`` a column of text becomes one feature for each category of the training rows: 1 if the
    cell is that category, otherwise 0. No category is dropped, although with a bias one follows from the others: so all
    are treated alike, and a row whose category no training row has is 0 in all of them. The least-squares solution is
    then not unique; the one nearest to 0 is reported.

    Args:
        path: of the file.
        target: the column to predict.
        features: the columns to predict it from; ``None``: all other numeric columns, and those of text if encoded.
        exclude: columns that are not features; only without ``features``.
        missing: rows with a missing cell raise an ``error``, are left out (``drop``), or get the feature's mean over
            the training rows (``mean``; for a category this is its fraction). Missing targets are never filled.
        categorical: how columns of text become features; ``None``: they are left out.
    """

    def __init__(
        self,
        path: Path,
        target: Text,
        features: Annotated[Texts | None, OrNull("every numeric column but the target")] = None,
        exclude: Annotated[Texts | None, OrNull("none is left out")] = None,
        missing: Missing = "error",
        categorical: Annotated[Literal["onehot"] | None, OrNull("columns of text are left out")] = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.path, self.target, self.features = Path(path), target, features
        self.exclude, self.missing, self.categorical = exclude or [], missing, categorical
        if self.streaming:
            self._check_streamed()
        elif not is_file(self.path):
            raise invalid("data.path", "an existing CSV or Parquet file", str(path))
        elif self.path.suffix.lower() not in (".csv", ".parquet"):
            raise invalid("data.path", "a file named .csv or .parquet", str(path))
        if features is not None and target in features:
            raise invalid("data.features", f"without the target '{target}'", features)
        if features is not None and exclude is not None:
            raise invalid("data.exclude", "null if data.features is given", exclude)
        if target in self.exclude:
            raise invalid("data.exclude", f"without the target '{target}', which is not a feature", exclude)

    def _check_streamed(self) -> None:
        if self.categorical is not None:
            rule = "null with data.streaming=true: finding the categories needs all training rows"
            raise invalid("data.categorical", rule, self.categorical)
        if self.missing == "mean":
            raise invalid("data.missing", "error or drop with data.streaming=true", self.missing)

    def table(self) -> Any:
        from regression.data.streamed_table import StreamedTable

        table = StreamedTable(self.path, self.target, self.features, self.exclude, self.missing)
        self.encoding = Encoding(table.features, self.missing)
        return table

    def load(self) -> Rows:
        from regression.data.table import read_table  # only tables need polars, which takes 0.3 s to import

        onehot = self.categorical == "onehot"
        inputs, targets, self.found = read_table(
            self.path, self.target, self.features, self.exclude, self.missing, onehot
        )
        names = tuple(feature.name for feature in self.found)
        return Rows(inputs, targets, names, self.target, missing=self.missing == "mean")

    def encoded(self, parts: list[Part]) -> list[Part]:
        """Keeps only the categories of the training rows, and fills missing cells with the training means."""
        train, *others = parts
        unseen = {
            j for j, feature in enumerate(self.found) if feature.category is not None and not (train.x[:, j] == 1).any()
        }
        named = [self.found[j].name for j in sorted(unseen) if any((part.x[:, j] == 1).any() for part in others)]
        if named:
            log.warning("note: no training row has %s: rows that have it get 0 in all categories", ", ".join(named))
        if unseen:
            kept = [j for j in range(len(self.found)) if j not in unseen]
            if lost := {feature.column for feature in self.found} - {self.found[j].column for j in kept}:
                raise UserError(f"column {min(lost)} must have a value in at least one training row")
            parts = [Part(part.x[:, kept], part.y) for part in parts]
            self.found = tuple(self.found[j] for j in kept)
            self.rows = replace(
                self.rows, inputs=self.rows.inputs[:, kept], feature_names=tuple(f.name for f in self.found)
            )
        self.encoding = Encoding.fit([*self.found], self.missing, parts[0].x)
        if incomplete := sum(int(np.isnan(part.x).any(axis=1).sum()) for part in parts):
            log.warning(
                "note: %d of the %d rows have a missing cell; the training rows' mean replaces it (data.missing=mean)",
                *(incomplete, sum(len(part.x) for part in parts)),
            )
        for part in parts:
            self.encoding.fill(part.x)
        return parts

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"encoding": self.encoding.state()}
