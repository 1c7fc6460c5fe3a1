"""Loads a trained model from its checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from descent.config.schema import Config
from descent.errors import UserError
from descent.run.code import note_changes
from descent.run.libraries import quiet_libraries
from descent.run.result import run_result
from descent.run.saved_config import saved_config
from descent.training.build import build, load_class
from descent.training.checkpoint_io import read_checkpoint
from descent.training.silent_logger import SilentLogger

CheckpointName = Literal["best", "last"]

COMPILED = "_orig_mod."  # torch.compile adds it to the names of weights
HALF = {"16-true": torch.float16, "bf16-true": torch.bfloat16}


def checkpoint_path(run_dir: Path, checkpoint: CheckpointName) -> Path:
    return run_dir / "checkpoints" / f"{checkpoint}.ckpt"


@dataclass(frozen=True)
class TrainedRun:
    """The result, config and checkpoint of a run, for testing and predicting; each file is read once."""

    result: dict[str, Any]
    config: Config
    path: Path  # of the checkpoint
    checkpoint: dict[str, Any]

    def model(self, ready: Callable[[], LightningDataModule] | None = None) -> LightningModule:
        """Returns the model on the CPU, in the precision of training.

        Args:
            ready: returns the data module, for a model whose ``setup`` or ``configure_model`` makes layers from it. It
                is called only if the checkpoint does not fit without them.

        Raises:
            UserError: the checkpoint does not fit the model.
        """
        try:
            return self._built()
        except Exception as error:  # a damaged checkpoint can raise anything
            if ready is None or isinstance(error, UserError) or not self._own_hooks():
                raise self._unfit(error) from error
        data = ready()
        try:
            return self._built(data)
        except Exception as error:
            raise self._unfit(error) from error

    def _built(self, data: LightningDataModule | None = None) -> LightningModule:
        # building the model draws initial weights, which are then replaced
        with quiet_libraries(), isolate_rng():
            trainer = None
            if data is not None:
                trainer = trainer_of(self.config, self.path.parents[1])
                trainer.datamodule = data  # type: ignore[attr-defined]  # as Lightning does
            return _build(self.config, {**self.checkpoint}, trainer).eval()

    def _own_hooks(self) -> list[str]:
        """The hooks of the model's class that may make layers from the data."""
        kind = load_class(self.config.model["_target_"], LightningModule, "model")
        return [
            name for name in ("setup", "configure_model") if getattr(kind, name) is not getattr(LightningModule, name)
        ]

    def _unfit(self, error: Exception) -> UserError:
        if isinstance(error, UserError):
            return UserError(f"{self.path} must be a checkpoint of this run: {error}")
        reason, name = " ".join(str(error).split()), self.config.model["_target_"]
        text = f"{self.path} must be a checkpoint of a {name}; it is not: {reason}"
        if isinstance(error, RuntimeError) and (hooks := self._own_hooks()):  # as torch and Lightning raise
            text += f" (a layer that {' or '.join(hooks)} makes from data must have its size as an argument)"
        return UserError(text)

    def load_weights(self, model: LightningModule) -> None:
        """Loads the weights again, after a ``setup`` or ``configure_model`` that may have made new layers.

        Raises:
            UserError: the checkpoint does not fit these.
        """
        try:
            _load_weights(model, {**self.checkpoint})
        except Exception as error:
            raise self._unfit(error) from error

    def load_data_state(self, data: LightningDataModule) -> None:
        """Loads the data module's saved state, as Lightning does."""
        if state := self.checkpoint.get(type(data).__qualname__):
            data.load_state_dict(state)

    def prepare_for_file(self, data: LightningDataModule) -> None:
        """Loads the state of a data module that will read a file; ``setup``, for the run's own rows, is not called.

        Raises:
            UserError: ``load_state_dict`` does not work without ``setup``.
        """
        try:
            self.load_data_state(data)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(
                f"{type(data).__name__}.load_state_dict must work without setup, which is not called for the rows of a"
                f" file: {reason}"
            ) from error


def load_state_before_setup(data: LightningDataModule, checkpoint: Mapping[str, Any]) -> None:
    """Calls the data module's ``load_state_before_setup``, if it has one, with its saved state.

    ``setup`` can then skip work that it did before, such as a pass over files. ``load_state_dict`` still follows it.
    """
    if load := getattr(data, "load_state_before_setup", None):
        load(checkpoint.get(type(data).__qualname__, {}))


def read_trained(run_dir: Path, checkpoint: CheckpointName = "best") -> TrainedRun:
    """Reads a run's result, config and checkpoint; logs a note if the project's code has changed since.

    Raises:
        UserError: there is no such run or checkpoint, the checkpoint is damaged or of another run, it contains other
            objects than plain values and tensors, or a weight is not finite.
    """
    path = checkpoint_path(run_dir, checkpoint)
    result, config = run_result(run_dir), saved_config(run_dir)
    note_changes(result.get("code"), config, f"{run_dir} was trained")
    loaded = read_checkpoint(path)
    _check_run(loaded, result, path)
    for name, weight in loaded["state_dict"].items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise UserError(f"{path} must hold finite weights; {name} has nan or inf")
    return TrainedRun(result, config, path, loaded)


def load_model(run_dir: Path, checkpoint: CheckpointName = "best") -> LightningModule:
    """Returns the model of a run; raises what ``read_trained`` and ``TrainedRun.model`` raise."""
    return read_trained(run_dir, checkpoint).model()


def trainer_of(config: Config, run_dir: Path, *callbacks: Callback) -> Trainer:
    """Returns a Trainer that tests and predicts on the CPU in the precision of training, and writes nothing."""
    precision = config.trainer.precision
    return Trainer(
        callbacks=[*callbacks],
        accelerator="cpu",
        precision="32-true" if precision == "16-mixed" else precision,  # type: ignore[arg-type]
        limit_test_batches=config.trainer.arguments.get("limit_test_batches"),
        devices=1,
        logger=SilentLogger(run_dir),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run_dir,
    )


def _build(config: Config, loaded: dict[str, Any], trainer: Trainer | None) -> LightningModule:
    """Builds the model from the hyperparameters in the checkpoint, or from the config if the module saved none."""
    floating = {weight.dtype for weight in loaded["state_dict"].values() if weight.is_floating_point()}
    precision = HALF.get(str(config.trainer.precision), torch.float64 if floating == {torch.float64} else torch.float32)
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)  # so that no value is rounded to a lower precision
    try:
        given = loaded.get("hyper_parameters")
        if given is None:
            model = build(config.model, "model", LightningModule)
        else:
            known = {key: value for key, value in config.model.items() if key != "_target_"}
            model = load_class(config.model["_target_"], LightningModule, "model")(**(known | given))
        if trainer is not None:
            if given is None and model.hparams:  # the data would replace what the checkpoint has lost
                raise ValueError("it has no hyper_parameters")
            model.trainer = trainer
            model.setup("test")
        model.configure_model()
    finally:
        torch.set_default_dtype(before)
    model = model.to(precision)
    _load_weights(model, loaded)
    return model


def _load_weights(model: LightningModule, loaded: dict[str, Any]) -> None:
    """Loads a checkpoint into a model that has all its layers."""
    own, weights = model.state_dict(), loaded["state_dict"]
    names = {name.replace(COMPILED, ""): name for name in own}
    weights = {names.get(name.replace(COMPILED, ""), name): weight for name, weight in weights.items()}
    for name, weight in weights.items():
        if name in own and weight.dtype != own[name].dtype:  # load_state_dict would convert it
            raise ValueError(f"{name} must be in the precision of training, {own[name].dtype}, got {weight.dtype}")
    loaded["state_dict"] = weights
    model.on_load_checkpoint(loaded)  # which may replace them
    model.load_state_dict(loaded["state_dict"])


def _check_run(loaded: dict[str, Any], result: dict[str, Any], path: Path) -> None:
    """Raises an error if another run than that of ``result`` wrote the checkpoint."""
    run = loaded.get("run")
    run = run if isinstance(run, dict) else {}
    for what, key in (("config", "config_digest"), ("data", "checksum")):
        if key not in run or run[key] != result.get(key):
            raise UserError(f"{path} must be of the run {path.parents[1]}; it is of another run: its {what} differs")
    best, step = result["best"], loaded["global_step"]
    if path.stem == "best" and best is not None and step != best.get("step"):  # e.g. of a run of another length
        raise UserError(
            f"{path} must be of step {best.get('step')}, the best in result.json; it is of step {step}"
            " (a run that is still training, or that ended without a result, must finish first: scripts/resume.py)"
        )
