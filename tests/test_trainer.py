"""Tests by running that config keys reach Lightning's Trainer and the callbacks."""

import math
from pathlib import Path

import pytest
import torch
from conftest import Run
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from test_resume import Trace
from test_stepping import PER_EPOCH, SMALL, curve
from test_train import events

from descent.config.messages import one_line
from descent.errors import UserError
from descent.training import intervals
from descent.training.validation_schedule import validation_schedule


class Seen(Callback):
    """Records how training was set up."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.deterministic = torch.are_deterministic_algorithms_enabled()
        self.devices, self.device = trainer.num_devices, trainer.strategy.root_device.type
        self.log_every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]


@pytest.mark.parametrize("wanted", [True, False])
def test_deterministic_sets_torchs_deterministic_algorithms(wanted: bool, run: Run) -> None:
    seen = Seen()
    before = torch.are_deterministic_algorithms_enabled()
    try:
        run(*SMALL, "trainer.max_epochs=1", f"trainer.deterministic={wanted}", callbacks=[seen])
    finally:
        torch.use_deterministic_algorithms(before)
    assert (seen.deterministic, seen.devices, seen.device) == (wanted, 1, "cpu")
    assert seen.log_every == PER_EPOCH  # not 50, or self.log in a step would never be logged


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with CUDA can do both")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "trainer.precision=16-mixed",
            "trainer.precision must be one that this machine has (16-mixed needs CUDA), got '16-mixed'",
        ),
        ("trainer.accelerator=gpu", "trainer.accelerator must be one that this machine has, got 'gpu'"),
    ],
)
def test_an_unsupported_device_or_precision_is_refused_in_one_line(override: str, message: str, run: Run) -> None:
    with pytest.raises(UserError) as refused:
        run(*SMALL, "trainer.accelerator=cpu", "trainer.precision=32-true", override)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (
            ["+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/los}"],
            "monitor of the EarlyStopping in callbacks",
        ),
        (["scheduler=plateau", "scheduler.monitor=val/los", "scheduler.mode=min"], "scheduler.monitor"),
    ],
)
def test_a_monitored_metric_that_is_not_logged_is_named_with_its_key(overrides: list[str], key: str, run: Run) -> None:
    with pytest.raises(Exception, match=r"val/los") as raised:
        run(*SMALL, *overrides)
    assert one_line(raised.value) == (
        f"{key} must be a metric that is logged (val/loss, val/mae, val/r2), got 'val/los'"
    )


@pytest.mark.parametrize("kind", ["simple", "advanced"])
def test_a_profile_file_is_named_after_the_profiler(kind: str, run: Run, tmp_path: Path) -> None:
    run(*SMALL, "trainer.max_epochs=1", f"trainer.profiler={kind}")
    found = {path.name for path in (tmp_path / "0/profile").iterdir()}
    assert f"fit-{kind}.txt" in found and all(name.endswith(f"-{kind}.txt") for name in found)


def parameter_tags(run_dir: Path) -> list[str]:
    return [tag for tag in events(run_dir).Tags()["scalars"] if tag.startswith("parameters/")]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("x_1,x_2,y", ["weight_1", "weight_2", "bias"]),
        ("x_2,x_1,y", ["weight_x_2", "weight_x_1", "bias"]),  # the table's own names
        ("age,x_2,y", ["weight_age", "weight_x_2", "bias"]),
    ],
)
def test_curves_of_weights_are_named_after_their_features(
    header: str, expected: list[str], run: Run, tmp_path: Path
) -> None:
    lines = [header, *(f"{i},{i * i % 7},{3 * i + 1}" for i in range(20))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    run(
        *("data=table", f"data.path={tmp_path / 'rows.csv'}", "data.target=y", "data.standardize=true"),
        *("trainer.max_epochs=1", "batch=full"),
    )
    assert parameter_tags(tmp_path / "0") == [f"parameters/{name}" for name in expected]


def test_only_the_first_20_weights_have_curves(run: Run, tmp_path: Path) -> None:
    run("data.num_samples=60", "data.num_features=21", "trainer.max_epochs=1", "optimizer=adam", "batch=full")
    assert parameter_tags(tmp_path / "0") == [*(f"parameters/weight_{i}" for i in range(1, 21)), "parameters/bias"]


def validated(run_dir: Path) -> list[int]:
    return [step // PER_EPOCH for step in curve(run_dir, "val/loss")]


WAITING = [
    ["stopping=patience", "stopping.patience=99"],
    ["scheduler=plateau", "scheduler.patience=99"],
]


@pytest.mark.parametrize("overrides", [*WAITING, []], ids=["patience", "plateau", "none"])
def test_patience_and_plateau_validate_after_each_epoch(overrides: list[str], run: Run, tmp_path: Path) -> None:
    run(*SMALL, *overrides, "trainer.max_epochs=26")
    rarer = [*range(1, 21), 26]
    assert validated(tmp_path / "0") == (list(range(1, 27)) if overrides else rarer)


@pytest.mark.parametrize("overrides", [*WAITING, []], ids=["patience", "plateau", "none"])
def test_a_given_validation_interval_is_kept_with_patience_and_plateau(
    overrides: list[str], run: Run, tmp_path: Path
) -> None:
    every = ["scheduler.frequency=4"] if "scheduler=plateau" in overrides else []
    run(*SMALL, *overrides, *every, "trainer.max_epochs=26", "trainer.check_val_every_n_epoch=4")
    assert validated(tmp_path / "0") == [4, 8, 12, 16, 20, 24, 26]


def test_early_stopping_counts_validations_and_not_epochs(run: Run, tmp_path: Path) -> None:
    stop = EarlyStopping("val/loss", patience=2, min_delta=math.inf)  # nothing is an improvement
    run(*SMALL, "trainer.max_epochs=60", "trainer.check_val_every_n_epoch=4", callbacks=[stop])
    assert validated(tmp_path / "0") == [4, 8]


@pytest.mark.parametrize(("fraction", "expected"), [(0.1, [1, 2, 3, 40]), (0.2, [1, 40]), (0.0, [1, 40])])
def test_the_number_of_evaluated_rows_decides_the_interval(
    fraction: float, expected: list[int], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "LARGE", 37)  # 6 validation rows of 2 features have 12 numbers, 12 rows have 24
    monkeypatch.setattr(intervals, "STEPS_BETWEEN_VALIDATIONS", 10**6)
    seen: list[int] = []

    class Evaluated(Trace):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if validation_schedule(trainer).is_evaluated(trainer):
                seen.append(trainer.current_epoch + 1)

    options = f"data.val_fraction={fraction}", "trainer.max_epochs=40"
    run(*SMALL, *options, callbacks=[Evaluated()])
    assert seen == expected
