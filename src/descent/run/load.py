"""A trained model from its checkpoint."""

import math
from pathlib import Path
from typing import Any, Literal

import torch

from descent.errors import UserError
from descent.run.result import run_result
from descent.training.checkpoint_io import read_checkpoint
from regression.data.module import RegressionData
from regression.model import LinearRegression

CheckpointName = Literal["best", "last"]


def checkpoint_path(run_dir: Path, checkpoint: CheckpointName) -> Path:
    return run_dir / "checkpoints" / f"{checkpoint}.ckpt"


def load_model(run_dir: Path, checkpoint: CheckpointName = "best") -> LinearRegression:
    """The model of a run, on the CPU and in the precision it was trained in.

    Raises:
        UserError: there is no such run or checkpoint, the checkpoint is damaged or of another run, it holds more
            than plain values and tensors, it does not fit the model, or a weight is not finite.
    """
    path = checkpoint_path(run_dir, checkpoint)
    loaded, result = read_checkpoint(path), run_result(run_dir)
    hyper_parameters = loaded.get("hyper_parameters")
    if not isinstance(hyper_parameters, dict):
        raise UserError(f"{path} must be a checkpoint with hyper_parameters; it has none")
    try:
        _check_run(loaded, result, path)
        for name, weight in loaded["state_dict"].items():
            if not weight.isfinite().all():
                raise UserError(f"{path} must hold finite weights; {name} has nan or inf")
        model = _build(hyper_parameters, loaded["state_dict"])
    except UserError:
        raise
    except Exception as error:  # its values may be anything, and so what they raise
        reason = " ".join(str(error).split())
        raise UserError(f"{path} must be a checkpoint of a LinearRegression; it is not: {reason}") from error
    return model.eval()


def _build(hyper_parameters: dict[str, Any], weights: dict[str, torch.Tensor]) -> LinearRegression:
    if "linear.weight" not in weights:
        raise ValueError("it has no linear.weight")
    precision = weights["linear.weight"].dtype
    if precision not in (torch.float32, torch.float64) or any(weight.dtype != precision for weight in weights.values()):
        raise ValueError("its weights must all be of single or all of double precision")
    before = torch.get_default_dtype()
    torch.set_default_dtype(precision)  # so that means and scales are not rounded to less
    try:
        model = LinearRegression(**hyper_parameters)
    finally:
        torch.set_default_dtype(before)
    model.load_state_dict(weights)
    units, features = model.units, model.linear.in_features
    if not len(units.x_mean) == len(units.x_scale) == features:
        raise ValueError(f"its standardization must have a mean and a scale for each of {features} features")
    scales = [*units.x_scale, units.y_scale, model.hparams["target_scale"]]
    if not all(map(math.isfinite, [*scales, *units.x_mean, units.y_mean, model.hparams["target_center"]])):
        raise ValueError("its means and scales must be finite numbers")
    if min(scales) <= 0:
        raise ValueError("its scales must be greater than 0")
    return model


def _check_run(loaded: dict[str, Any], result: dict[str, Any], path: Path) -> None:
    """Raises an error where a checkpoint was written by another run than ``result`` is of."""
    own, settings = loaded["hyper_parameters"], result["hparams"]
    # what stands in the checkpoint, and what would stand there if it were this run's
    told: dict[str, tuple[Any, Any]] = {"number of features": (own.get("num_features"), len(result["features"]))}
    for key in ("bias", "init_weight", "init_bias"):
        told[f"model.{key}"] = own.get(key), settings.get(f"model.{key}")
    optimizer = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("optimizer.")}
    told["optimizer"] = own.get("optimizer"), optimizer
    checksum = {"checksum": result.get("checksum")}
    if RegressionData.__qualname__ in loaded:
        told["data"] = loaded[RegressionData.__qualname__], checksum
    if "run" in loaded:  # checkpoints of old do not name their run
        run = loaded["run"] if isinstance(loaded["run"], dict) else {}
        told["config"] = run.get("config_digest"), result.get("config_digest", "none")
        told["data"] = {"checksum": run.get("checksum")}, checksum
    for what, (found, expected) in told.items():
        if found != expected:
            raise UserError(f"{path} must be of the run {path.parents[1]}; it is of another run: its {what} differs")
    best, step = result["best"], loaded["global_step"]
    if path.stem == "best" and best is not None and step != best.get("step"):  # of a run of another length, say
        raise UserError(f"{path} must be of step {best.get('step')}, the best in result.json; it is of step {step}")
