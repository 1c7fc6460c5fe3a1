"""Predicts for a file with a finished run; the project's data module reads and writes the files."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng

from descent.config.messages import one_line
from descent.errors import UserError, invalid
from descent.files import replaced
from descent.run.libraries import quiet_libraries
from descent.run.load import CheckpointName, read_trained, trainer_of
from descent.training.build import build_data
from descent.training.transfer import transferred

WHOLE = "predict_file"
PARTS = {
    "file_batches": "file_batches(path), which yields the batches of a file",
    "write_predictions": "write_predictions(path, predictions, output), which writes what predict_step returns",
}


def predict(run_dir: Path, source: Path, output: Path, checkpoint: CheckpointName = "best") -> None:
    """Writes a run's predictions for the file ``source`` to ``output``, batch by batch.

    The data module's ``file_batches(path)`` yields the batches of the file, and the module's ``predict_step`` returns
    the predictions for each. The data module's ``write_predictions(path, predictions, output)`` iterates over them and
    writes them, with any columns of the file. A data module with ``predict_file(run_dir, source, output, checkpoint)``
    does all of this itself. It has the state saved in the checkpoint; its ``setup`` is not called.

    Args:
        run_dir: of a run that has trained.
        source: any file that the data module can read.
        output: a file, or a folder that is new or empty; replaced completely, or unchanged after an error.
        checkpoint: best or last.

    Raises:
        UserError: the project lacks these methods, there is no such run, checkpoint or file, or writing fails.
    """
    trained = read_trained(run_dir, checkpoint)
    data: Any = build_data(trained.config)
    if hasattr(data, WHOLE):
        trained.prepare_for_file(data)
        data.predict_file(run_dir, source, output, checkpoint)
        return
    if missing := [text for name, text in PARTS.items() if not hasattr(data, name)]:
        raise UserError(f"predictions need {type(data).__name__} to have {'; and '.join(missing)}")

    def ready() -> LightningDataModule:
        trained.prepare_for_file(data)
        return cast(LightningDataModule, data)

    model = trained.model(ready)
    if not (is_overridden("predict_step", model) or is_overridden("forward", model)):
        raise UserError(f"predictions need {type(model).__name__} to have predict_step(batch, batch_idx)")
    if not source.exists():
        raise invalid("INPUT", "an existing file or folder", str(source))
    if source.resolve() == output.resolve():
        raise invalid("OUTPUT", "another file than INPUT", str(output))
    try:
        with quiet_libraries(), replaced(output) as temporary, isolate_rng(), torch.inference_mode():
            seed_everything(trained.config.seed, verbose=False)
            trained.prepare_for_file(data)
            trainer = trainer_of(trained.config, run_dir)
            trainer.predicting, data.trainer, model.trainer = True, trainer, trainer  # for hooks that use them
            trainer.datamodule = data  # type: ignore[attr-defined]
            precision = trainer.precision_plugin
            data.write_predictions(source, _predictions(model, data, precision, data.file_batches(source)), temporary)
            if not temporary.exists():  # e.g. write_predictions is a generator function, so its body did not run
                raise UserError(f"{type(data).__name__}.write_predictions must write output; it wrote nothing")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot predict from {source} to {output}: {one_line(error)}") from error


def _predictions(
    model: LightningModule, data: LightningDataModule, precision: Precision, batches: Iterable[Any]
) -> Iterator[Any]:
    """Yields predictions as ``trainer.predict`` computes them, which would keep all of them in memory."""
    number = -1
    for number, batch in enumerate(batches):
        inputs = transferred(batch, precision, model, data)
        with precision.predict_step_context():
            predictions = model.predict_step(inputs, number)
        yield predictions
    if number < 0:
        raise UserError(f"{type(data).__name__}.file_batches must yield batches; it found none in INPUT")
