"""The schema: what each config key is and which values it may take. What it is set to stands in ``conf/``.

``descent.config.parse`` turns the composed config into these plain, typed objects. Nothing here imports torch.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from descent.config.rules import (
    AT_LEAST_ONE,
    BELOW_ONE,
    BOOLEAN,
    FRACTION,
    MONITOR,
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
    """Normally distributed features, a linear target, noise; see ``regression.data.sources.synthetic``."""

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

    @property
    def file(self) -> Path:
        """``path``; a ``~`` that it begins with is the home directory."""
        return Path(os.path.expanduser(self.path))  # noqa: PTH111  # to pathlib ./~ is ~


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
    monitor: Annotated[str, MONITOR]
    gradient_norm: Annotated[float | None, or_null(POSITIVE, "off")]  # of the full gradient
    loss_change: Annotated[float | None, or_null(POSITIVE, "off")]  # relative, from epoch to epoch
    max_samples: Annotated[int | None, or_null(POSITIVE_INTEGER, "no limit")]  # rows seen, repeats counted
    max_gradient_evaluations: Annotated[int | None, or_null(POSITIVE_INTEGER, "no limit")]
    max_seconds: Annotated[float | None, or_null(POSITIVE, "no limit")]
    diverged_above: Annotated[float, POSITIVE]  # times the first training loss: the run ends as diverged


@dataclass(frozen=True)
class TrainerConfig:
    """Lightning's own names. One device: the batches are in memory and not shared out."""

    accelerator: Annotated[str, one_of("auto", "cpu", "gpu", "cuda", "mps")]
    precision: Annotated[str, one_of("32-true", "64-true", "16-mixed", "bf16-mixed")]
    max_epochs: Annotated[int, POSITIVE_INTEGER]
    max_steps: Annotated[int | None, or_null(POSITIVE_INTEGER, "no limit")]
    log_every_n_steps: Annotated[int, POSITIVE_INTEGER]
    check_val_every_n_epoch: Annotated[int | None, or_null(POSITIVE_INTEGER, "as often as is worth it")]
    deterministic: Annotated[bool, BOOLEAN]
    fast_dev_run: Annotated[bool, BOOLEAN]
    profiler: Annotated[str | None, or_null(one_of("simple", "advanced"), "off")]
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
    figures: Annotated[bool, BOOLEAN]
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
