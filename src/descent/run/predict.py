"""Predictions of a finished run for a file, as the project's data module reads and writes it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng

from descent.config.messages import one_line
from descent.errors import UserError, invalid
from descent.files import replaced
from descent.run.libraries import libraries_as_here
from descent.run.load import CheckpointName, read_trained, trainer_of
from descent.training.build import build_data
from descent.training.transfer import transferred

WHOLE = "predict_file"
PARTS = {
    "file_batches": "file_batches(path), which gives the batches of a file",
    "write_predictions": "write_predictions(path, predictions, output), which writes what predict_step gives for them",
}


def predict(run_dir: Path, source: Path, output: Path, checkpoint: CheckpointName = "best") -> None:
    """Writes a run's predictions for the file ``source`` to ``output``, batch after batch.

    The data module's ``file_batches(path)`` makes batches of a file, the module's ``predict_step`` predictions of each,
    and the data module's ``write_predictions(path, predictions, output)`` writes them, as they come, with what it
    likes of the file. One with ``predict_file(run_dir, source, output, checkpoint)`` does it all itself. It has the
    state of the checkpoint; its ``setup`` is not called.

    Args:
        run_dir: of a run that has trained.
        source: any file that the data module reads.
        output: replaced whole or not at all.
        checkpoint: which of the run's two.

    Raises:
        UserError: the project does not say how, there is no such run, checkpoint or file, or one cannot be written.
    """
    trained = read_trained(run_dir, checkpoint)
    data: Any = build_data(trained.config)
    if hasattr(data, WHOLE):
        trained.prepare_for_file(data)
        data.predict_file(run_dir, source, output, checkpoint)
        return
    if missing := [text for name, text in PARTS.items() if not hasattr(data, name)]:
        raise UserError(f"predictions need {type(data).__name__} to have {' and '.join(missing)}")
    model = trained.model()
    if not (is_overridden("predict_step", model) or is_overridden("forward", model)):
        raise UserError(f"predictions need {type(model).__name__} to have predict_step(batch, batch_idx)")
    if source.resolve() == output.resolve():
        raise invalid("OUTPUT", "another file than INPUT", str(output))
    try:
        with libraries_as_here(), replaced(output) as temporary, isolate_rng(), torch.inference_mode():
            seed_everything(trained.config.seed, verbose=False)
            trained.prepare_for_file(data)
            trainer = trainer_of(trained.config, run_dir)
            trainer.predicting, data.trainer, model.trainer = True, trainer, trainer  # hooks ask what it does
            precision = trainer.precision_plugin
            data.write_predictions(source, _predictions(model, data, precision, data.file_batches(source)), temporary)
            if not temporary.exists():  # a generator function, say, whose body is not run
                raise UserError(f"{type(data).__name__}.write_predictions must write the file output; it wrote none")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot predict from {source} to {output}: {one_line(error)}") from error


def _predictions(
    model: LightningModule, data: LightningDataModule, precision: Precision, batches: Iterable[Any]
) -> Iterator[Any]:
    """What ``trainer.predict`` does with batches; it would keep all predictions until the last."""

    for number, batch in enumerate(batches):
        inputs = transferred(batch, precision, model, data)
        with precision.predict_step_context():
            predictions = model.predict_step(inputs, number)
        yield predictions
