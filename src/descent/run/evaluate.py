"""Evaluates a finished run on its own test rows or on a file."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng

from descent.config.messages import one_line
from descent.errors import UserError, invalid
from descent.files import write_atomically
from descent.run.libraries import quiet_libraries
from descent.run.load import CheckpointName, TrainedRun, load_state_before_setup, read_trained, trainer_of
from descent.run.resume import files_of
from descent.training.budget import batch_size
from descent.training.build import build_data


def evaluate(run_dir: Path, checkpoint: CheckpointName = "best", data: Path | None = None) -> dict[str, float]:
    """Returns what the module logs in ``trainer.test``, and saves it in ``evaluation.json``.

    In that file ``run`` has the digest of the run's config and its steps, and ``others`` the earlier evaluations of the
    same run: the latest for each checkpoint and rows.

    Args:
        run_dir: of a finished run.
        checkpoint: best or last.
        data: a file with other rows, for the data module's ``file_dataloader``; ``None``: the run's own test rows.

    Returns:
        the metrics by name.

    Raises:
        UserError: there is no such run or checkpoint, the checkpoint is damaged or of another run, the data module
            has no such rows, the run's data have changed, or a metric is not finite.
    """
    trained = read_trained(run_dir, checkpoint)
    config = trained.config
    module: Any = build_data(config)
    model = trained.model(lambda: _ready(module, trained, data))
    if not is_overridden("test_step", model):
        raise UserError(f"{type(model).__name__} must have a test_step to be evaluated")
    rows = RowCounter()
    with quiet_libraries(), isolate_rng():
        if data is None:
            _take_own_rows(module, trained, run_dir)
            seed_everything(config.seed, verbose=False)  # as in the run
        else:
            _take_rows_of(data, module, model, trained)
        with _naming(data):
            found = trainer_of(config, run_dir, SavedWeights(trained), rows).test(
                model, datamodule=module, verbose=False
            )
    if not rows.count:
        raise UserError(f"{data or 'the test data'} must have rows to be evaluated; it has none")
    values = {name: float(value) for metrics in found for name, value in metrics.items()}
    if not values:
        raise UserError(f"{type(model).__name__} must log test metrics to be evaluated; it logged none")
    for name, value in values.items():
        if not math.isfinite(value):
            where = data or "the test rows"
            raise invalid(f"{name} of {where} with {trained.path}", "a finite number", value)
    name = str(data.resolve()) if data else "test"
    kept: dict[str, Any] = {"checkpoint": checkpoint, "data": name, "rows": rows.count, "metrics": values}
    kept["run"] = {key: trained.result.get(key) for key in ("config_digest", "steps")}
    kept["others"] = _others(run_dir, kept)
    write_atomically(run_dir / "evaluation.json", f"{json.dumps(kept, indent=2)}\n".encode())
    return values


def _ready(module: Any, trained: TrainedRun, data: Path | None) -> Any:
    """The data module, with what it knows of the training rows."""
    if data is not None:
        trained.prepare_for_file(module)
        return module
    load_state_before_setup(module, trained.checkpoint)
    module.prepare_data()
    module.setup("test")
    trained.load_data_state(module)
    return module


def _others(run_dir: Path, kept: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the evaluations in ``evaluation.json`` of another checkpoint or other rows, if the run is unchanged."""
    try:
        before = json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))
        every = [before, *before.pop("others", [])]
        others = [other for other in every if any(other[key] != kept[key] for key in ("checkpoint", "data"))]
        return [other for other in others if other.get("run") == kept["run"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # the file is missing or broken
        return []


@contextmanager
def _naming(data: Path | None) -> Iterator[None]:
    """Adds the file, if one is given, to errors: a project's own error may name the config key of its rows instead."""
    try:
        yield
    except Exception as error:
        said = one_line(error)
        if data is None or str(data) in said or said.startswith(("--data", "result.json")):
            raise
        raise UserError(f"--data {data}: {said}") from error


class SavedWeights(Callback):
    """Loads the checkpoint's weights after ``setup`` and ``configure_model``, which the Trainer calls again."""

    def __init__(self, trained: TrainedRun) -> None:
        self.trained = trained

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained.load_weights(pl_module)


class RowCounter(Callback):
    """Counts the rows that are evaluated."""

    count = 0

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.count += batch_size(batch)


def _take_own_rows(module: Any, trained: TrainedRun, run_dir: Path) -> None:
    """Loads the data module's state after its setup, and checks that the rows are those of training."""
    setup = module.setup
    load_state_before_setup(module, trained.checkpoint)

    def checked_setup(stage: str) -> None:
        setup(stage)
        checksum = trained.result["checksum"]
        same = checksum is None or getattr(module, "checksum", None) == checksum
        try:
            if same:
                trained.load_data_state(module)
        except UserError:
            same = False
        if not same:  # with another number of rows, the split would put training rows into the test
            files = files_of(trained.config.data)
            name = files[0] if files else f"data={trained.config.choices.get('data')}"
            raise UserError(
                f"{name} must have the rows that {run_dir} was trained on: its rows, split or columns have changed"
            )
        if not is_overridden("test_dataloader", module):
            raise UserError(f"{run_dir} has no test rows: name a file with --data FILE")

    module.setup = checked_setup


def _take_rows_of(path: Path, module: Any, model: Any, trained: TrainedRun) -> None:
    """Makes the data module load the rows of a file; its batch hooks still apply."""
    if not hasattr(module, "file_dataloader"):
        raise UserError(f"--data needs {type(module).__name__} to have file_dataloader(path, model, result)")
    trained.prepare_for_file(module)
    with _naming(path):
        loader = module.file_dataloader(path, model, trained.result)
    if not path.exists():  # file_dataloader may say more, or may read it later
        raise invalid("--data", "an existing file or folder", str(path))
    module.test_dataloader = lambda: loader
    module.prepare_data = module.setup = module.teardown = lambda *_, **__: None  # they are for the run's own rows
