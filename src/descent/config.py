"""The schema: what each config key is and which values it may take. What it is set to stands in ``conf/``.

``parse`` turns the composed config into these plain, typed objects. Nothing here imports torch.
"""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from descent.errors import UserError, must, show
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
    one_of,
    or_null,
)


@dataclass(frozen=True)
class DataConfig:
    """What every source of data has in common."""

    source: Annotated[str, TEXT]
    val_fraction: Annotated[float, BELOW_ONE]  # of all rows; 0: no validation, monitors use the training loss
    test_fraction: Annotated[float, BELOW_ONE]
    standardize: Annotated[bool, BOOLEAN]
    seed: Annotated[int, SEED]  # of the split, and of what is drawn
    max_rows: Annotated[int | None, or_null(POSITIVE_INTEGER, "all of them")]


@dataclass(frozen=True)
class SyntheticData(DataConfig):
    """Normally distributed features, a linear target, noise; see ``descent.data.sources.synthetic``."""

    num_samples: Annotated[int, POSITIVE_INTEGER]
    num_features: Annotated[int, POSITIVE_INTEGER]
    noise_std: Annotated[float, NOT_NEGATIVE]
    condition_number: Annotated[float, AT_LEAST_ONE]
    outlier_fraction: Annotated[float, FRACTION]


@dataclass(frozen=True)
class RowsData(DataConfig):
    """Rows that are written out in the config itself."""

    inputs: Annotated[list[list[float]], SOME_ROWS]
    targets: Annotated[list[float], SOME_NUMBERS]


@dataclass(frozen=True)
class DiabetesData(DataConfig):
    """scikit-learn's diabetes data: 442 rows, 10 features."""


@dataclass(frozen=True)
class TableData(DataConfig):
    """The user's own CSV or Parquet file."""

    path: Annotated[str, TEXT]
    target: Annotated[str, TEXT]
    features: Annotated[list[str] | None, or_null(TEXTS, "every numeric column but the target")]


SOURCES: dict[str, type[DataConfig]] = {
    "synthetic": SyntheticData,
    "rows": RowsData,
    "diabetes": DiabetesData,
    "table": TableData,
}


@dataclass(frozen=True)
class ModelConfig:
    bias: Annotated[bool, BOOLEAN]
    init_weight: Annotated[float | None, or_null(NUMBER, "torch's default initialisation")]
    init_bias: Annotated[float | None, or_null(NUMBER, "torch's default initialisation")]


@dataclass(frozen=True)
class BatchConfig:
    size: Annotated[int | None, or_null(POSITIVE_INTEGER, "the whole training set")]
    shuffle: Annotated[bool, BOOLEAN]


@dataclass(frozen=True)
class ClipConfig:
    gradient_clip_val: Annotated[float | None, or_null(POSITIVE, "no clipping")]
    gradient_clip_algorithm: Annotated[str | None, or_null(one_of("norm", "value"), "no clipping")]


@dataclass(frozen=True)
class StoppingConfig:
    """When to stop before the last epoch. Every rule that is not null is in force."""

    max_epochs: Annotated[int, POSITIVE_INTEGER]  # what trainer.max_epochs is unless set itself
    patience: Annotated[int | None, or_null(POSITIVE_INTEGER, "off")]  # validations without improvement
    min_delta: Annotated[float, NOT_NEGATIVE]  # an improvement is more than this
    monitor: Annotated[str, TEXT]
    gradient_norm: Annotated[float | None, or_null(POSITIVE, "off")]  # of the full gradient
    loss_change: Annotated[float | None, or_null(POSITIVE, "off")]  # relative, from epoch to epoch
    diverged_above: Annotated[float, POSITIVE]  # times the first training loss: the run ends as diverged


@dataclass(frozen=True)
class TrainerConfig:
    """Lightning's own names. One device: the batches are in memory and not shared out."""

    accelerator: Annotated[str, one_of("auto", "cpu", "gpu", "cuda", "mps")]
    precision: Annotated[str, one_of("32-true", "64-true", "16-mixed", "bf16-mixed")]
    max_epochs: Annotated[int, POSITIVE_INTEGER]
    max_steps: Annotated[int | None, or_null(POSITIVE_INTEGER, "no limit")]
    log_every_n_steps: Annotated[int, POSITIVE_INTEGER]
    check_val_every_n_epoch: Annotated[int, POSITIVE_INTEGER]
    deterministic: Annotated[bool, BOOLEAN]
    fast_dev_run: Annotated[bool, BOOLEAN]
    profiler: Annotated[str | None, or_null(one_of("simple", "advanced", "pytorch"), "off")]
    enable_progress_bar: Annotated[bool, BOOLEAN]


@dataclass(frozen=True)
class CheckpointConfig:
    """When to write checkpoints before the end of training: at the next safe point after either interval."""

    every_seconds: Annotated[float | None, or_null(NOT_NEGATIVE, "no such interval")]
    every_steps: Annotated[int | None, or_null(POSITIVE_INTEGER, "no such interval")]


@dataclass(frozen=True)
class Config:
    """A whole run. ``optimizer`` and ``scheduler`` hold ``_target_`` and the keyword arguments it gets."""

    seed: Annotated[int, SEED]  # of the initialisation and of the order of batches
    name: Annotated[str | None, or_null(NAME, "named after the overrides")]
    predict_at: Annotated[list[list[float]], ROWS]
    data: DataConfig
    model: ModelConfig
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    batch: BatchConfig
    clip: ClipConfig
    stopping: StoppingConfig
    trainer: TrainerConfig
    checkpoint: CheckpointConfig
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
    if isinstance(tree.get("name"), int):  # name=2024 is meant as a text
        tree = {**tree, "name": str(tree["name"])}
    config = replace(_typed(Config, tree, ""), choices=chosen)
    check_spec(config.optimizer, "optimizer", chosen.get("optimizer"))
    if "_target_" in config.scheduler:
        check_spec(config.scheduler, "scheduler", chosen.get("scheduler"))
    elif config.scheduler:
        raise must("scheduler", "empty, or have a _target_", config.scheduler)
    _check_together(config)
    return config


T = TypeVar("T")


def keys_of(schema: type) -> dict[str, Any]:
    """The keys of a dataclass that a config sets, each with its annotation: a rule, a schema, or any dict."""
    hints = get_type_hints(schema, include_extras=True)
    return {entry.name: hints[entry.name] for entry in fields(schema) if entry.default_factory is MISSING}


def _typed(schema: type[T], node: Any, path: str) -> T:
    """``node`` as an object of the dataclass ``schema``, each value checked; ``path`` ends in a dot."""
    if not isinstance(node, Mapping):
        raise must(path.rstrip("."), "a group of keys", node)
    if schema is DataConfig:
        source = node.get("source")
        if source not in SOURCES:
            raise must(f"{path}source", one_of(*SOURCES).text, source)
        schema = cast(type[T], SOURCES[source])
    known = keys_of(schema)
    for name in node:
        if name not in known:
            raise unknown_key(f"{path}{name}", [f"{path}{k}" for k in known])
    values: dict[str, Any] = {}
    for name, annotation in known.items():
        where, value = f"{path}{name}", node.get(name)
        if name not in node:
            raise UserError(f"{where} is missing")
        if value == "???":
            raise UserError(f"{where} must be given: {where}=...")
        if is_dataclass(annotation):
            value = _typed(cast(type, annotation), value, f"{where}.")
        elif rules := getattr(annotation, "__metadata__", None):
            if not rules[0].accepts(value):
                raise must(where, rules[0].text, value)
        elif not isinstance(value, dict):
            raise must(where, "a group of keys", value)
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
            f" got {show(clip.gradient_clip_val)} and {show(clip.gradient_clip_algorithm)}"
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
