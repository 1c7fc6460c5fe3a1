"""Reads the event file back record by record."""

import os
import socket
import struct
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Run, config_of
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from test_resume import SMALL, SignalAt
from test_train import events

from descent.run.train import train
from descent.training.logger import FIRST_FILE, RunLogger, count_all_steps


def files(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("events.out.tfevents.*"))


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    found = events(run_dir)
    return {tag: [(p.step, p.value) for p in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_points_are_logged_at_the_step_where_they_were_measured(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path)
    logger.log_metrics({"train/loss": 3.0}, 5)
    logger.log_metrics({"lr": 0.5, "epoch": 1}, 5)  # without count_all_steps the given step is kept
    count_all_steps(logger, SimpleNamespace(global_step=6))  # type: ignore[arg-type]
    logger.log_metrics({"val/loss": 4.0, "val/mae": 2.0, "epoch": 1}, 5)  # Lightning has not counted the step yet
    logger.log_metrics({"test/loss": 7.0}, 6)
    logger.log_metrics({"first": 1.0})
    logger.close()
    assert scalars(tmp_path) == {
        **{"train/loss": [(5, 3.0)], "lr": [(5, 0.5)]},
        **{"Loss/train": [(5, 3.0)], "Loss/val": [(6, 4.0)]},
        **{"val/loss": [(6, 4.0)], "val/mae": [(6, 2.0)], "test/loss": [(6, 7.0)], "first": [(0, 1.0)]},
    }
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(("only", "listed"), [(True, {"optimizer": True}), (False, {"a": False, "optimizer": True})])
def test_hparams_lists_what_a_sweep_varies_or_everything_of_a_single_run(
    only: bool, listed: dict[str, bool], tmp_path: Path
) -> None:
    logger = RunLogger(tmp_path)
    logger.log_final({"a": [1, 2], "optimizer": "sgd"}, {"val/acc": 0.5, "train/loss": 1.0}, 7, ("optimizer",), only)
    logger.close()
    content = events(tmp_path).SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = HParamsPluginData.FromString(content).experiment
    assert {info.name: info.differs for info in experiment.hparam_infos} == listed
    shown = [(metric.name.tag, metric.display_name) for metric in experiment.metric_infos]
    assert shown == [("hp/val_acc", "val/acc"), ("hp/train_loss", "train/loss")]
    assert scalars(tmp_path) == {"hp/val_acc": [(7, 0.5)], "hp/train_loss": [(7, 1.0)]}


def test_metrics_of_similar_names_are_all_in_hparams_and_a_modules_own_tag_is_kept(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path)
    logger.log_metrics({"train/loss": 1.0, "Loss/train": 42.0}, 1)
    logger.log_final({"a": 1}, {"a_b/c": 1.0, "a/b_c": 2.0, "a_b_c": 3.0}, 7, ("a",))
    logger.close()
    assert scalars(tmp_path) == {
        **{"train/loss": [(1, 1.0)], "Loss/train": [(1, 42.0)]},
        **{"hp/a_b_c": [(7, 1.0)], "hp/a_b_c_": [(7, 2.0)], "hp/a_b_c__": [(7, 3.0)]},
    }


class LogsTrainLoss(Callback):
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        pl_module.log("train_loss", outputs["loss"])


def test_a_run_that_logs_train_loss_beside_train_loss_completes(run: Run, tmp_path: Path) -> None:
    result = run(*SMALL, "trainer.max_epochs=1", callbacks=[LogsTrainLoss()], run_dir=tmp_path / "r")
    assert result.status == "completed" and {"train_loss", "train/loss"} <= result.metrics.keys()
    assert {"hp/train_loss", "hp/train_loss_"} <= scalars(tmp_path / "r").keys()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("seconds", "points", "handed"), [(0.0, 49, 0), (0.0, 50, 50), (1.0, 3, 0), (1.01, 3, 3)])
def test_points_are_written_fifty_at_once_or_after_a_second(
    seconds: float, points: int, handed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    logger, at = RunLogger(tmp_path), []
    add = logger.experiment.file_writer.add_summary

    def added(summary: Any, step: int, *rest: Any) -> None:
        at.append(step)
        add(summary, step, *rest)

    monkeypatch.setattr(logger.experiment.file_writer, "add_summary", added)
    for step in range(points):
        clock.now = 1000 + seconds * (step == points - 1)
        logger.log_metrics({"a": float(step)}, step)
    assert at == list(range(handed))
    logger.log_metrics({"a": 1.0, "b": 2.0}, points)
    logger.finalize("success")
    assert at == list(range(points + 1))  # each point once
    logger.close()
    assert at == list(range(points + 1))


def test_points_have_the_wall_time_of_their_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, now = RunLogger(tmp_path), iter([1.8e9, 1.8e9 + 5, 1.8e9 + 9])
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: next(now))
        logger.log_metrics({"a": 1.0}, 1)
        logger.log_metrics({"a": 2.0}, 2)
    logger.close()
    assert [point.wall_time for point in events(tmp_path).Scalars("a")] == [1.8e9, 1.8e9 + 5]


def test_a_resumed_run_drops_only_the_points_after_its_checkpoint(tmp_path: Path) -> None:
    for resumed_at, first in ((None, 0), (3, 4)):
        logger = RunLogger(tmp_path, resumed_at)
        for step in range(first, first + 6):
            logger.log_metrics({"a": step + 0.25 * first}, step)
        logger.close()
    # the point at the checkpoint's step stays, later ones are logged again
    assert scalars(tmp_path)["a"] == [(step, step + 1.0 * (step > 3)) for step in range(10)]
    assert len(files(tmp_path)) == 2


def resumed_after(run_dir: Path, second: int, process: int) -> dict[str, list[tuple[int, float]]]:
    """Logs steps 0 and 1 in an event file of another process, and step 2 in one of this process."""
    first = RunLogger(run_dir)
    first.log_metrics({"a": 0.0}, 0)
    first.log_metrics({"a": 1.0}, 1)
    first.close()
    (path,) = files(run_dir)
    path.rename(run_dir / f"events.out.tfevents.{second}.{socket.gethostname()}.{process}.{FIRST_FILE}")
    second_part = RunLogger(run_dir, resumed_at=1)
    second_part.log_metrics({"a": 2.0}, 2)
    second_part.close()
    return scalars(run_dir)


def test_a_run_resumed_within_a_second_by_a_process_whose_number_sorts_first_keeps_its_points(tmp_path: Path) -> None:
    assert resumed_after(tmp_path, int(time.time()) + 1, 10**9 - 1) == {"a": [(0, 0.0), (1, 1.0), (2, 2.0)]}


def test_a_clock_that_was_set_back_is_noted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("descent.training.logger.LONGEST_WAIT", 0.0)
    resumed_after(tmp_path, int(time.time()) + 3600, os.getpid())
    assert "note: the clock is behind events.out.tfevents." in caplog.text


def test_a_restarted_run_drops_all_earlier_points(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        logger = RunLogger(tmp_path)
        logger.log_metrics({"a": value}, 0)
        logger.log_metrics({"a": value}, 1)
        logger.close()
    assert scalars(tmp_path) == {"a": [(0, 2.0), (1, 2.0)]}


def test_a_discarded_logger_removes_only_its_own_file(tmp_path: Path) -> None:
    first = RunLogger(tmp_path)
    first.log_metrics({"a": 1.0}, 0)
    first.close()
    (before,) = files(tmp_path)
    content = before.read_bytes()
    second = RunLogger(tmp_path, 0)
    second.log_metrics({"a": 1.0}, 1)
    second.experiment.flush()
    assert len(files(tmp_path)) == 2
    second.discard()
    assert files(tmp_path) == [before] and before.read_bytes() == content


def png() -> bytes:
    """Returns the PNG header of an image of 3 by 2 pixels."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 3, 2, 8, 2, 0, 0, 0)


def test_a_png_is_written_unchanged(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path)
    logger.log_png("figures/fit", png(), 3, 2, 17)
    logger.close()
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert accumulator.Tags()["images"] == ["figures/fit"]
    (image,) = accumulator.Images("figures/fit")
    assert (image.step, image.width, image.height, image.encoded_image_string) == (17, 3, 2, png())


def layouts(run_dir: Path) -> list[Any]:
    accumulator = EventAccumulator(str(run_dir), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator.Tensors("custom_scalars__config__")


def test_the_chart_layout_overlays_losses_and_gradient_norms_and_is_written_once(run: Run, tmp_path: Path) -> None:
    for step in (7, -1):
        run(*SMALL, callbacks=[SignalAt(step)], run_dir=tmp_path / "r", resume=step == -1)
    (written,) = layouts(tmp_path / "r")
    layout = layout_pb2.Layout.FromString(written.tensor_proto.string_val[0])
    (category,) = layout.category
    assert category.title == "descent"
    assert {chart.title: list(chart.multiline.tag) for chart in category.chart} == {
        "training and validation loss": ["^train/loss$", "^val/loss$"],
        "gradient norm before and after clipping": ["^grad/norm$", "^grad/norm_clipped$"],
    }


def test_a_run_writes_no_separate_hyperparameter_file(run: Run, tmp_path: Path) -> None:
    run(*SMALL, "trainer.max_epochs=1")
    assert {path.name for path in (tmp_path / "0").iterdir()} == {
        *(".lock", "checkpoints", "result.json"),
        *(path.name for path in files(tmp_path / "0")),
    }
    assert len(files(tmp_path / "0")) == 1


@pytest.mark.parametrize("data", [["data=synthetic"], ["data=line", "batch=full"]], ids=["synthetic", "no-validation"])
def test_fast_dev_run_writes_only_the_result(data: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = train(config_of("debug=fast_dev_run", *data, "trainer.enable_progress_bar=false"), tmp_path / "r")
    assert (result.status, result.steps, result.best) == ("completed", 1, None)
    assert {path.name for path in (tmp_path / "r").iterdir()} == {".lock", "result.json"}
    assert [record for record in caplog.records if record.name.startswith(("descent", "regression"))] == []
