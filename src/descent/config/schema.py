"""The schema of the config: the meaning and the allowed values of each key. ``conf/`` holds the values.

``descent.config.parse`` turns the composed config into these plain, typed objects. Nothing here imports torch.
"""

from dataclasses import MISSING, asdict, field, fields, is_dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from descent.config.metric import without_split
from descent.config.types import (
    Boolean,
    Keys,
    Name,
    NotNegative,
    OrNull,
    Positive,
    PositiveInteger,
    Rule,
    Seed,
    Text,
    Texts,
)
from descent.errors import invalid

LATER = ConfigDict(defer_build=True)  # builds validators when they are needed: --help and --cfg job need none
Mode = Literal["min", "max"]  # whether the smallest or the largest value of a metric is best


NOT_SET = ("choices", "links", "unused", "extra", "arguments")  # fields that are not keys of a config

STRATEGIES = (
    "auto, ddp, ddp_find_unused_parameters_true or ddp_find_unused_parameters_false: each process and each"
    " checkpoint holds the whole model (fsdp would split it, and Lightning has no fsdp on a CPU)"
)

PACKAGES = ("torch", "lightning", "torchmetrics", "descent")


@dataclass(frozen=True, config=LATER)
class BatchConfig:
    size: Annotated[PositiveInteger | None, OrNull("the whole training set")]
    shuffle: Boolean


@dataclass(frozen=True, config=LATER)
class ClipConfig:
    gradient_clip_val: Annotated[Positive | None, OrNull("no clipping")]
    gradient_clip_algorithm: Annotated[Literal["norm", "value"] | None, OrNull("no clipping")]


@dataclass(frozen=True, config=LATER)
class StoppingConfig:
    """When to stop before the last epoch. Every rule that is not null applies."""

    max_epochs: PositiveInteger  # the default of trainer.max_epochs
    patience: Annotated[PositiveInteger | None, OrNull("off")]  # validations without improvement
    min_delta: NotNegative  # only larger improvements count
    monitor: Text
    gradient_norm: Annotated[Positive | None, OrNull("off")]  # of the full gradient
    loss_change: Annotated[Positive | None, OrNull("off")]  # relative, from epoch to epoch
    max_samples: Annotated[PositiveInteger | None, OrNull("no limit")]  # rows seen, repeats counted
    max_gradient_evaluations: Annotated[PositiveInteger | None, OrNull("no limit")]
    max_seconds: Annotated[Positive | None, OrNull("no limit")]
    diverged_above: Positive  # times the first training loss: the run ends as diverged
    mode: Mode | None = None  # null: the mode of the metric, from monitor


@dataclass(frozen=True, config=LATER)
class MonitorConfig:
    """The metric for the best checkpoint, early stopping, plateaus, tuning and ranking."""

    metric: Text = "val/loss"
    mode: Mode = "min"

    def mode_of(self, metric: str, mode: Mode | None, key: str) -> Mode:
        """Whether smaller or larger values of a metric are better.

        Args:
            metric: any metric; has this one's mode if only the split differs, as of ``train/loss`` and ``val/loss``.
            mode: the mode that the config gives for it.
            key: the key that gives ``mode``, for the message.

        Raises:
            UserError: it is another metric, and ``mode`` is not given.
        """
        if mode is not None:
            return mode
        if without_split(metric) == without_split(self.metric):
            return self.mode
        raise invalid(key, f"min or max, because monitor.mode is for {self.metric} and not for {metric}", mode)


@dataclass(frozen=True, config=LATER, kw_only=True)
class TrainerConfig:
    """Arguments of Lightning's Trainer, and a few more."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    precision: str | int  # any that Lightning accepts
    max_epochs: PositiveInteger
    max_steps: Annotated[PositiveInteger | None, OrNull("no limit")]
    log_every_n_steps: PositiveInteger
    check_val_every_n_epoch: Annotated[PositiveInteger | None, OrNull("automatic")]
    deterministic: Annotated[bool | Literal["warn"], Rule("true, false or warn")]
    fast_dev_run: Annotated[Boolean | PositiveInteger, Rule("true or false, or a number of batches")] = False
    profiler: Annotated[Literal["simple", "advanced"] | None, OrNull("off")]
    enable_progress_bar: Boolean
    fast: Boolean = True  # run steps without Lightning's overhead where possible
    num_threads: Annotated[PositiveInteger | None, OrNull("automatic")] = None  # torch's, on a CPU
    devices: Annotated[PositiveInteger | Literal["auto"], Rule("a positive integer or auto")] = 1  # of each node
    num_nodes: PositiveInteger = 1
    strategy: Annotated[
        Literal["auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"], Rule(STRATEGIES)
    ] = "auto"
    arguments: Keys = field(default_factory=dict)  # Lightning's other arguments, if not its defaults


@dataclass(frozen=True, config=LATER)
class CheckpointConfig:
    """When to write checkpoints during training: at the next safe point after either interval."""

    every_seconds: Annotated[NotNegative | None, OrNull("no such interval")]
    every_steps: Annotated[PositiveInteger | None, OrNull("no such interval")]


@dataclass(frozen=True, config=LATER, kw_only=True)
class Config:
    """A whole run. Data, model, optimizer and scheduler hold a ``_target_`` and its keyword arguments."""

    seed: Seed  # of the initialisation and the order of batches
    name: Annotated[Name | None, OrNull("named after the overrides")]
    packages: Texts = field(default_factory=lambda: [*PACKAGES])  # a _target_ must be in one of them
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    data: Keys
    model: Keys
    optimizer: Keys
    scheduler: Keys
    batch: BatchConfig
    clip: ClipConfig
    stopping: StoppingConfig
    trainer: TrainerConfig
    checkpoint: CheckpointConfig
    callbacks: Keys = field(default_factory=dict)  # name -> a _target_ and its arguments
    logger: Keys = field(default_factory=dict)  # the same
    # not keys of the config
    extra: Keys = field(default_factory=dict)  # other keys at the top of train.yaml
    choices: dict[str, str] = field(default_factory=dict)  # config group -> the option chosen
    links: dict[str, str] = field(default_factory=dict)  # key with an interpolated value -> key of that value
    unused: list[str] = field(default_factory=list)  # overridden keys that have no effect


def keys_of(schema: type, needed: bool = False) -> list[str]:
    """The config keys of a schema class; ``needed``: only those without a default."""
    own = [entry for entry in fields(schema) if entry.name not in NOT_SET]
    return [entry.name for entry in own if not needed or entry.default is entry.default_factory is MISSING]


def tree_of(config: Config) -> dict[str, Any]:
    """Plain nested dictionaries as in ``conf/``: ``extra`` at the top, all arguments of the Trainer in ``trainer``."""
    return _as_composed(asdict(config))


def without_defaults(config: Config) -> dict[str, Any]:
    """The same without the keys whose value is the schema's default."""
    return _as_composed({"extra": {}} | _changed(config))


def _changed(node: Any) -> dict[str, Any]:
    found = {}
    for entry in fields(node):
        value = getattr(node, entry.name)
        default = entry.default if entry.default_factory is MISSING else entry.default_factory()
        if entry.name == "arguments" or value != default:
            found[entry.name] = _changed(value) if is_dataclass(value) else value
    return found


def _as_composed(tree: dict[str, Any]) -> dict[str, Any]:
    tree["trainer"] |= tree["trainer"].pop("arguments")
    tree.pop("unused", None)
    extra: dict[str, Any] = tree.pop("extra")
    return tree | extra
