"""The schema: what each config key is and which values it may take. What it is set to stands in ``conf/``.

``parse`` turns the composed config into these plain, typed objects. Nothing here imports torch.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from descent.errors import UserError, must
from descent.hyperparameters import check_spec
from descent.rules import (
    AT_LEAST_ONE,
    BELOW_ONE,
    BOOLEAN,
    FRACTION,
    NAME,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    POSITIVE_INTEGER,
    ROWS,
    SEED,
    SOME_NUMBERS,
    SOME_ROWS,
    TEXT,
    TEXTS,
    key,
    one_of,
    or_null,
)


@dataclass(frozen=True)
class DataConfig:
    """What every source of data has in common."""

    source: str = key(TEXT)
    val_fraction: float = key(BELOW_ONE)  # of all rows; 0: no validation, monitors use the training loss
    test_fraction: float = key(BELOW_ONE)
    standardize: bool = key(BOOLEAN)
    seed: int = key(SEED)  # of the split, and of what is drawn
    max_rows: int | None = key(or_null(POSITIVE_INTEGER, "all of them"))


@dataclass(frozen=True)
class SyntheticData(DataConfig):
    """Normally distributed features, a linear target, noise; see ``descent.data.sources.synthetic``."""

    num_samples: int = key(POSITIVE_INTEGER)
    num_features: int = key(POSITIVE_INTEGER)
    noise_std: float = key(NOT_NEGATIVE)
    condition_number: float = key(AT_LEAST_ONE)
    outlier_fraction: float = key(FRACTION)


@dataclass(frozen=True)
class RowsData(DataConfig):
    """Rows that are written out in the config itself."""

    inputs: list[list[float]] = key(SOME_ROWS)
    targets: list[float] = key(SOME_NUMBERS)


@dataclass(frozen=True)
class DiabetesData(DataConfig):
    """scikit-learn's diabetes data: 442 rows, 10 features."""


@dataclass(frozen=True)
class TableData(DataConfig):
    """The user's own CSV or Parquet file."""

    path: str = key(TEXT)
    target: str = key(TEXT)
    features: list[str] | None = key(or_null(TEXTS, "every numeric column but the target"))


SOURCES: dict[str, type[DataConfig]] = {
    "synthetic": SyntheticData,
    "rows": RowsData,
    "diabetes": DiabetesData,
    "table": TableData,
}


@dataclass(frozen=True)
class ModelConfig:
    bias: bool = key(BOOLEAN)
    init_weight: float | None = key(or_null(NUMBER, "torch's default initialisation"))
    init_bias: float | None = key(or_null(NUMBER, "torch's default initialisation"))


@dataclass(frozen=True)
class BatchConfig:
    size: int | None = key(or_null(POSITIVE_INTEGER, "the whole training set"))
    shuffle: bool = key(BOOLEAN)


@dataclass(frozen=True)
class ClipConfig:
    gradient_clip_val: float | None = key(or_null(POSITIVE, "no clipping"))
    gradient_clip_algorithm: str | None = key(or_null(one_of("norm", "value"), "no clipping"))


@dataclass(frozen=True)
class StoppingConfig:
    """When to stop before the last epoch. Every rule that is not null is in force."""

    max_epochs: int = key(POSITIVE_INTEGER)  # what trainer.max_epochs is unless set itself
    patience: int | None = key(or_null(POSITIVE_INTEGER, "off"))  # validations without improvement
    min_delta: float = key(NOT_NEGATIVE)  # an improvement is more than this
    monitor: str = key(TEXT)
    gradient_norm: float | None = key(or_null(POSITIVE, "off"))  # of the full gradient
    loss_change: float | None = key(or_null(POSITIVE, "off"))  # relative, from epoch to epoch
    diverged_above: float = key(POSITIVE)  # times the first training loss: the run ends as diverged


@dataclass(frozen=True)
class TrainerConfig:
    """Lightning's own names. One device: the batches are in memory and not shared out."""

    accelerator: str = key(one_of("auto", "cpu", "gpu", "cuda", "mps"))
    precision: str = key(one_of("32-true", "64-true", "16-mixed", "bf16-mixed"))
    max_epochs: int = key(POSITIVE_INTEGER)
    max_steps: int | None = key(or_null(POSITIVE_INTEGER, "no limit"))
    log_every_n_steps: int = key(POSITIVE_INTEGER)
    check_val_every_n_epoch: int = key(POSITIVE_INTEGER)
    deterministic: bool = key(BOOLEAN)
    fast_dev_run: bool = key(BOOLEAN)
    profiler: str | None = key(or_null(one_of("simple", "advanced", "pytorch"), "off"))
    enable_progress_bar: bool = key(BOOLEAN)


@dataclass(frozen=True)
class Config:
    """A whole run. ``optimizer`` and ``scheduler`` hold ``_target_`` and the keyword arguments it gets."""

    seed: int = key(SEED)  # of the initialisation and of the order of batches
    name: str | None = key(or_null(NAME, "named after the overrides"))
    predict_at: list[list[float]] = key(ROWS)
    data: DataConfig = field(metadata={"schema": DataConfig})
    model: ModelConfig = field(metadata={"schema": ModelConfig})
    optimizer: dict[str, Any] = field(metadata={"open": True})
    scheduler: dict[str, Any] = field(metadata={"open": True})
    batch: BatchConfig = field(metadata={"schema": BatchConfig})
    clip: ClipConfig = field(metadata={"schema": ClipConfig})
    stopping: StoppingConfig = field(metadata={"schema": StoppingConfig})
    trainer: TrainerConfig = field(metadata={"schema": TrainerConfig})
    choices: dict[str, str] = field(default_factory=dict)  # config group -> the option chosen


def parse(tree: Mapping[str, Any], choices: Mapping[str, str] | None = None) -> Config:
    """Checks a composed config and returns it typed.

    Args:
        tree: plain nested dictionaries, interpolations resolved.
        choices: which option each config group was given; only recorded, with the hyperparameters.

    Raises:
        UserError: a key is missing or unknown, or a value breaks its rule.
    """
    chosen = dict(choices or {})
    config = _typed(Config, {**tree, "choices": chosen}, "")
    check_spec(config.optimizer, "optimizer", chosen.get("optimizer"))
    if "_target_" in config.scheduler:
        check_spec(config.scheduler, "scheduler", chosen.get("scheduler"))
    elif config.scheduler:
        raise must("scheduler", "empty, or have a _target_", config.scheduler)
    _check_together(config)
    return config


T = TypeVar("T")


def _typed(schema: type[T], node: Any, path: str) -> T:
    """``node`` as an object of the dataclass ``schema``, each value checked; ``path`` ends in a dot."""
    if not isinstance(node, Mapping):
        raise must(path.rstrip("."), "a group of keys", node)
    if schema is DataConfig:
        source = node.get("source")
        if source not in SOURCES:
            raise must(f"{path}source", one_of(*SOURCES).text, source)
        schema = cast(type[T], SOURCES[source])
    known = {entry.name: entry for entry in fields(cast(Any, schema))}
    for name in node:
        if name not in known:
            raise unknown_key(f"{path}{name}", [f"{path}{k}" for k in known])
    values: dict[str, Any] = {}
    for name, entry in known.items():
        where = f"{path}{name}"
        if name not in node:
            raise UserError(f"{where} is missing")
        value = node[name]
        if "schema" in entry.metadata:
            value = _typed(entry.metadata["schema"], value, f"{where}.")
        elif "rule" in entry.metadata and not entry.metadata["rule"].accepts(value):
            raise must(where, entry.metadata["rule"].text, value)
        elif "open" in entry.metadata:
            if not isinstance(value, Mapping):
                raise must(where, "a group of keys", value)
            value = dict(value)
        values[name] = value
    return schema(**values)


def unknown_key(where: str, known: list[str]) -> UserError:
    close = difflib.get_close_matches(where, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the keys here are {', '.join(known)}"
    return UserError(f"{where} is not a key: {hint}")


def _check_together(config: Config) -> None:
    """Rules that need more than one key."""
    data, clip, batch = config.data, config.clip, config.batch
    if data.val_fraction + data.test_fraction >= 1:
        raise must(
            "data.val_fraction + data.test_fraction",
            "below 1, to leave training rows",
            data.val_fraction + data.test_fraction,
        )
    if isinstance(data, RowsData) and len(data.inputs) != len(data.targets):
        raise must("data.targets", f"as many as data.inputs ({len(data.inputs)})", data.targets)
    if isinstance(data, TableData):
        _check_table(data)
    if (clip.gradient_clip_val is None) != (clip.gradient_clip_algorithm is None):
        raise UserError(
            "clip.gradient_clip_val and clip.gradient_clip_algorithm must be set together (clip=norm sets both),"
            f" got {clip.gradient_clip_val} and {clip.gradient_clip_algorithm}"
        )
    if config.optimizer.get("full_batch_only") and batch.size is not None:
        raise must(
            "batch.size",
            f"null (batch=full) with optimizer={config.choices.get('optimizer', config.optimizer['_target_'])},"
            " which compares successive gradients of one and the same loss",
            batch.size,
        )
    if not config.model.bias and config.model.init_bias is not None:
        raise must("model.init_bias", "null when model.bias is false", config.model.init_bias)


def _check_table(data: TableData) -> None:
    path = Path(data.path)
    if not path.is_file():
        raise must("data.path", "a CSV or Parquet file", data.path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise must("data.path", "a file named .csv or .parquet", data.path)
    if data.features is not None and data.target in data.features:
        raise must("data.features", f"without the target '{data.target}'", data.features)
