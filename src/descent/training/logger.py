"""Builds the loggers of a run; the template's own writes one TensorBoard event file."""

import logging
import os
import socket
import time
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import summary as torch_summary

from descent.config.schema import Config
from descent.errors import UserError
from descent.processes import is_main
from descent.training.build import build

log = logging.getLogger(__name__)

# The number at the end of a file's name is the only difference between a process's files of one second. TensorBoard
# reads them in the order of their names, in which ".10" comes before ".9", so all numbers get as many digits.
FIRST_FILE = 10**9
LONGEST_WAIT = 2.0  # seconds

MOST_PENDING, MOST_SECONDS = 50, 1.0  # points that wait to be written, and how long; a checkpoint writes them first
EVENTS = "events.out.tfevents.*"
LAYOUT = {
    "descent": {
        "training and validation loss": ["Multiline", ["^train/loss$", "^val/loss$"]],
        "gradient norm before and after clipping": ["Multiline", ["^grad/norm$", "^grad/norm_clipped$"]],
    }
}
# TensorBoard sorts tags, capitals first: its first screen shows the two losses side by side.
COPIES = {"train/loss": "Loss/train", "val/loss": "Loss/val"}
# of Lightning's loggers; each has an extra of the same name
LIBRARIES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}


class RunLogger(TensorBoardLogger):
    """Writes all events of a run to one file in ``save_dir``: training, test and hyperparameters.

    Lightning closes the file at the end of ``fit`` and of ``test``, and what is written next begins another. This
    one is closed by ``close``. Lightning's ``hparams.yaml`` is not written: ``result.json`` has more.

    Args:
        save_dir: the run's directory.
        resumed_at: the step from which a resumed run continues: TensorBoard drops the points of later steps,
            so that it shows each step once. ``None``: the run begins here.
    """

    def __init__(self, save_dir: Path, resumed_at: int | None = None) -> None:
        if event_file_writer._global_uid.get() < FIRST_FILE:
            event_file_writer._global_uid = event_file_writer.AtomicCounter(FIRST_FILE)
        self.pending: dict[int, tuple[float, dict[str, float]]] = {}  # by step, with the time of day
        self.written_at = time.monotonic()
        self.run_dir, self.before = Path(save_dir), set(Path(save_dir).glob(EVENTS))
        if resumed_at is None and self.before:
            resumed_at = -1  # of a run in the same directory that had no checkpoint yet
        _wait_for_the_last_name(self.before)
        purge_step = None if resumed_at is None else resumed_at + 1
        super().__init__(save_dir, name="", version="", default_hp_metric=False, purge_step=purge_step)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        _, pending = self.pending.setdefault(step or 0, (time.time(), {}))
        pending |= {tag: float(value) for tag, value in metrics.items() if tag != "epoch"}
        if len(self.pending) >= MOST_PENDING or time.monotonic() - self.written_at > MOST_SECONDS:
            self._write_pending()

    def _write_pending(self) -> None:
        """Passes the points to the writer's thread, which slows training each time it wakes up."""
        for step, (wall_time, points) in self.pending.items():
            every = {COPIES[tag]: value for tag, value in points.items() if tag in COPIES} | points
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in every.items()]
            self.experiment.file_writer.add_summary(Summary(value=values), step, wall_time)
        self.pending.clear()
        self.written_at = time.monotonic()

    def log_png(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Adds a picture to TensorBoard's Images."""
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        self.experiment.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def log_final(
        self,
        hparams: Mapping[str, Any],
        metrics: Mapping[str, float],
        step: int,
        first: Collection[str],
        only: bool = False,
    ) -> None:
        """Fills the HParams tab.

        Args:
            hparams: of the run.
            metrics: at the end of the run, in the order of the columns; TensorBoard shows the first five.
            step: of the optimizer.
            first: the hyperparameters that get the first columns.
            only: list no others; TensorBoard always shows five columns of those that are listed.
        """
        values = {key: v if isinstance(v, bool | int | float | str) else str(v) for key, v in hparams.items()}
        names: dict[str, str] = {}
        for name in metrics:
            tag = f"hp/{name.replace('/', '_')}"
            while tag in names:  # such as train_loss of the module beside train/loss
                tag += "_"
            names[tag] = name
        final = {tag: metrics[name] for tag, name in names.items()}
        summaries = torch_summary.hparams(values, final)  # type: ignore[no-untyped-call]
        plugin = summaries[0].value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(plugin.content)
        infos = content.experiment.hparam_infos
        for info in [*infos]:
            info.differs = info.name in first  # TensorBoard sorts by it
            if only and not info.differs:
                infos.remove(info)
        for metric in content.experiment.metric_infos:
            metric.display_name = names[metric.name.tag]
        plugin.content = content.SerializeToString()
        for summary in summaries:
            self.experiment.file_writer.add_summary(summary, step)
        self.log_metrics(final, step)

    def log_layout(self) -> None:
        """Sets the charts of TensorBoard's Custom Scalars; their tags are regular expressions."""
        self.experiment.add_custom_scalars(LAYOUT)

    def save(self) -> None:
        if self._experiment is not None:  # it is where the disk could not be written to
            self._write_pending()
            self.experiment.flush()

    def finalize(self, status: str) -> None:
        self.save()

    def close(self) -> None:
        self._write_pending()
        self.experiment.close()

    def discard(self) -> None:
        """Closes and removes the event file of this process."""
        self.close()
        for path in set(self.run_dir.glob(EVENTS)) - self.before:
            path.unlink()


def _wait_for_the_last_name(before: Collection[Path]) -> None:
    """Waits until a new event file gets a name after those ``before``, because TensorBoard reads them in this order.

    A name has the second, the host and the process. Another process of the same second may come first: ".10002"
    is before ".9998". TensorBoard would drop the points of the file that it reads first.
    """
    newest, started_at = max((path.name for path in before), default=""), time.monotonic()
    process = f"{socket.gethostname()}.{os.getpid()}"  # its later files have higher numbers
    while f"{EVENTS[:-1]}{int(time.time()):010d}.{process}" < newest.rpartition(".")[0]:
        if time.monotonic() - started_at > LONGEST_WAIT:
            log.warning("note: the clock is behind %s: TensorBoard will not show all points of this run", newest)
            return
        time.sleep(0.01)


def build_loggers(config: Config, run_dir: Path, resumed_at: int | None) -> list[Logger]:
    """Builds the loggers of the config. A ``save_dir`` of null becomes the run's directory."""
    if not is_main():
        return [DummyLogger()] if config.logger else []
    loggers: list[Logger] = []
    for name, spec in config.logger.items():
        given = {**spec, "save_dir": run_dir} if "save_dir" in spec and spec["save_dir"] is None else spec
        library = LIBRARIES.get(spec["_target_"].rpartition(".")[2])
        if library and find_spec(library) is None:
            raise UserError(f"logger.{name} needs {library}: pip install -c constraints.txt -e '.[{library}]'")
        extra = {"resumed_at": resumed_at} if spec["_target_"].endswith(".RunLogger") else {}
        logger = build({**given, **extra}, f"logger.{name}", Logger)  # type: ignore[type-abstract]
        loggers.append(logger)
        if resumed_at is not None and not isinstance(logger, RunLogger | CSVLogger):
            log.warning(
                "note: logger.%s keeps what it logged after step %d, and continues in a new run unless its config names"
                " one (run_id, id)",
                *(name, resumed_at),
            )
    return loggers


def count_all_steps(logger: Logger, trainer: Trainer) -> None:
    """Makes Lightning log at x = k what it logs after k steps; it would log at k - 1, and add the epoch.

    What has been logged for a checkpoint already (``log_step_metrics``) is not logged again.
    """
    log_metrics = logger.log_metrics
    last: Any = None

    def counting(metrics: dict[str, float], step: int | None = None) -> None:
        nonlocal last
        point = metrics, trainer.global_step if "epoch" in metrics else step
        if point != last:
            log_metrics(*point)
        last = point

    logger.log_metrics = counting  # type: ignore[method-assign]
