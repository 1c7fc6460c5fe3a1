"""The schema: what each config key is and which values it may take. What it is set to stands in ``conf/``.

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

LATER = ConfigDict(defer_build=True)  # the validators: --help and --cfg job need none
Mode = Literal["min", "max"]  # whether the smallest or the largest value of a metric is best


NOT_SET = ("choices", "links", "unused", "extra", "arguments")  # what a Config has beside the keys of its config

STRATEGIES = (
    "auto, ddp, ddp_find_unused_parameters_true or ddp_find_unused_parameters_false: each process has the whole model,"
    " and so does a checkpoint (with fsdp a process has a part, and Lightning has no fsdp on a CPU)"
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
    """When to stop before the last epoch. Every rule that is not null is in force."""

    max_epochs: PositiveInteger  # what trainer.max_epochs is unless set itself
    patience: Annotated[PositiveInteger | None, OrNull("off")]  # validations without improvement
    min_delta: NotNegative  # an improvement is more than this
    monitor: Text
    gradient_norm: Annotated[Positive | None, OrNull("off")]  # of the full gradient
    loss_change: Annotated[Positive | None, OrNull("off")]  # relative, from epoch to epoch
    max_samples: Annotated[PositiveInteger | None, OrNull("no limit")]  # rows seen, repeats counted
    max_gradient_evaluations: Annotated[PositiveInteger | None, OrNull("no limit")]
    max_seconds: Annotated[Positive | None, OrNull("no limit")]
    diverged_above: Positive  # times the first training loss: the run ends as diverged
    mode: Mode | None = None  # null: that of the metric, as monitor has it


@dataclass(frozen=True, config=LATER)
class MonitorConfig:
    """The metric that decides: the best checkpoint, early stopping, a plateau, tuning, ranking."""

    metric: Text = "val/loss"
    mode: Mode = "min"

    def mode_of(self, metric: str, mode: Mode | None, key: str) -> Mode:
        """Which values of a metric are better.

        Args:
            metric: any; that of this one on other rows, ``train/loss`` of ``val/loss``, has its mode.
            mode: what is given for it.
            key: what it is given by, for the message.

        Raises:
            UserError: it is another metric, and nothing is given.
        """
        if mode is not None:
            return mode
        if without_split(metric) == without_split(self.metric):
            return self.mode
        raise invalid(key, f"min or max: {metric} is not {self.metric}, whose mode monitor.mode is", mode)


@dataclass(frozen=True, config=LATER, kw_only=True)
class TrainerConfig:
    """Lightning's own names."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    precision: str | int  # what Lightning takes
    max_epochs: PositiveInteger
    max_steps: Annotated[PositiveInteger | None, OrNull("no limit")]
    log_every_n_steps: PositiveInteger
    check_val_every_n_epoch: Annotated[PositiveInteger | None, OrNull("as often as is worth it")]
    deterministic: Annotated[bool | Literal["warn"], Rule("true, false or warn")]
    fast_dev_run: Annotated[Boolean | PositiveInteger, Rule("true or false, or a number of batches")] = False
    profiler: Annotated[Literal["simple", "advanced"] | None, OrNull("off")]
    enable_progress_bar: Boolean
    fast: Boolean = True  # steps without Lightning's overhead, where nothing stands in their way
    num_threads: Annotated[PositiveInteger | None, OrNull("as many as are worth it")] = None  # torch's, on a CPU
    devices: Annotated[PositiveInteger | Literal["auto"], Rule("a positive integer or auto")] = 1  # of each node
    num_nodes: PositiveInteger = 1
    strategy: Annotated[
        Literal["auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"], Rule(STRATEGIES)
    ] = "auto"
    arguments: Keys = field(default_factory=dict)  # Lightning's others, by name, where they are not its defaults


@dataclass(frozen=True, config=LATER)
class CheckpointConfig:
    """When to write checkpoints before the end of training: at the next safe point after either interval."""

    every_seconds: Annotated[NotNegative | None, OrNull("no such interval")]
    every_steps: Annotated[PositiveInteger | None, OrNull("no such interval")]


@dataclass(frozen=True, config=LATER, kw_only=True)
class Config:
    """A whole run. Data, model, optimizer and scheduler hold ``_target_`` and the keyword arguments it gets."""

    seed: Seed  # of the initialisation and of the order of batches
    name: Annotated[Name | None, OrNull("named after the overrides")]
    packages: Texts = field(default_factory=lambda: [*PACKAGES])  # that a _target_ may name
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
    callbacks: Keys = field(default_factory=dict)  # by name, a _target_ each
    logger: Keys = field(default_factory=dict)  # the same
    # not keys of the config
    extra: Keys = field(default_factory=dict)  # what else train.yaml has at its top
    choices: dict[str, str] = field(default_factory=dict)  # config group -> the option chosen
    links: dict[str, str] = field(default_factory=dict)  # keys whose value is interpolated -> the key it is that of
    unused: list[str] = field(default_factory=list)  # keys that were given and go nowhere


def keys_of(schema: type, needed: bool = False) -> list[str]:
    """The keys of a config that an object of the schema is made of; ``needed``: those without a default."""
    own = [entry for entry in fields(schema) if entry.name not in NOT_SET]
    return [entry.name for entry in own if not needed or entry.default is entry.default_factory is MISSING]


def tree_of(config: Config) -> dict[str, Any]:
    """Plain nested dictionaries as in ``conf/``: ``extra`` at the top, all arguments of the Trainer in ``trainer``."""
    return _as_composed(asdict(config))


def without_defaults(config: Config) -> dict[str, Any]:
    """The same, but for keys that have a default and are not set to another value."""
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
