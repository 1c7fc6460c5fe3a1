"""Tests evaluations of any project, on its own test rows and on those of a file."""

import json
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from conftest import config_of
from digits.data import DigitsData
from digits.model import Digits
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from running import SignalAt, advised, equal, overrides_of, train_project
from test_project_predictions import run_dir, source
from torch.utils.data import DataLoader, Subset

from descent.errors import UserError
from descent.run import load
from descent.run.evaluate import evaluate
from descent.run.predict import predict
from descent.training.build import build_data

pytestmark = advised
__all__ = ["run_dir", "source"]


def test_other_rows_are_evaluated_with_the_data_modules_hooks(
    run_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def step(self: Digits, batch: Any, batch_idx: int) -> None:
        seen.append(batch.unique().item())
        self.log("test/acc", 1.0)

    def unused(self: DigitsData, *_: Any) -> None:
        raise AssertionError("the run's own rows are not needed")

    monkeypatch.setattr(Digits, "test_step", step)
    for hook in ("prepare_data", "setup", "teardown"):
        monkeypatch.setattr(DigitsData, hook, unused)
    rows = [torch.full((1, 8, 8), value) for value in (3.0, 3.0, 5.0)]
    loader: Any = DataLoader(rows, batch_size=2)  # type: ignore[arg-type]
    monkeypatch.setattr(DigitsData, "file_dataloader", lambda *_: loader, raising=False)
    monkeypatch.setattr(DigitsData, "on_after_batch_transfer", lambda self, batch, _: batch + 4)
    assert evaluate(run_dir, data=source) == {"test/acc": 1.0}
    assert seen == [7.0, 9.0]
    assert json.loads((run_dir / "evaluation.json").read_text())["rows"] == 3


def test_an_evaluation_draws_the_same_numbers_each_time_and_none_of_the_callers(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def step(self: Digits, batch: Any, batch_idx: int) -> None:
        drawn.append(torch.rand(()).item())
        self.log("test/acc", 1.0)

    monkeypatch.setattr(Digits, "test_step", step)
    for _ in range(2):
        torch.rand(())
        before = torch.get_rng_state()
        evaluate(run_dir)
        assert torch.equal(torch.get_rng_state(), before)
    assert drawn[:2] == drawn[2:] and len(set(drawn)) == 2


def test_what_a_project_lacks_to_be_evaluated_is_named(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(data: Path | None = None) -> str:
        with pytest.raises(UserError) as caught:
            evaluate(run_dir, data=data)
        return str(caught.value)

    (run_dir / "evaluation.json").unlink(missing_ok=True)
    assert refused(Path("x.csv")) == "--data needs DigitsData to have file_dataloader(path, model, result)"
    with monkeypatch.context() as patch:
        patch.delattr(DigitsData, "test_dataloader")
        assert refused() == f"{run_dir} has no test rows: name a file with --data FILE"
    monkeypatch.setattr(Digits, "test_step", lambda *_: None)
    assert refused() == "Digits must log test metrics to be evaluated; it logged none"
    monkeypatch.delattr(Digits, "test_step")
    assert refused() == "Digits must have a test_step to be evaluated"
    assert not (run_dir / "evaluation.json").exists()


# Lightning's warning comes before the refusal
@pytest.mark.filterwarnings("ignore:Total length of `DataLoader` across ranks is zero:UserWarning")
def test_data_that_are_missing_or_empty_are_refused(
    run_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsData, "file_dataloader", lambda *_: DataLoader([]), raising=False)
    nowhere = source.parent / "nowhere"
    for path, words in (
        (nowhere, f"--data must be an existing file or folder, got '{nowhere}'"),
        (source, f"{source} must have rows to be evaluated; it has none"),
    ):
        with pytest.raises(UserError) as caught:
            evaluate(run_dir, data=path)
        assert str(caught.value) == words


def test_an_evaluation_discards_what_hooks_give_to_the_logger(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[Any] = []

    def draw(self: Digits) -> None:
        logger: Any = self.logger
        logged.append(logger.experiment.add_text("mine", "text", 1))

    monkeypatch.setattr(Digits, "on_test_epoch_end", draw, raising=False)
    before = {path: path.stat().st_size for path in run_dir.rglob("*") if path.is_file()}
    evaluate(run_dir)
    assert logged == [None]
    changed = {path.name for path in run_dir.rglob("*") if path.is_file() and before.get(path) != path.stat().st_size}
    assert changed == {"evaluation.json"}


def test_known_warnings_of_libraries_are_shown_by_no_command(
    run_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = Digits.forward, list[int]()

    def warning(self: Digits, images: Any) -> Any:
        calls.append(len(images))
        warnings.warn("The `srun` command is available on your system but is not used.", stacklevel=1)  # else raised
        return step(self, images)

    monkeypatch.setattr(Digits, "forward", warning)
    predict(run_dir, source, source.parent / "out.csv")
    evaluate(run_dir)
    assert calls == [100, 100, 50, 100, 50]


@pytest.mark.parametrize("where", ["setup", "__init__"])
def test_a_split_by_chance_is_the_same_in_training_resuming_and_evaluating(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: list[list[int]] = []
    setup, init = DigitsData.setup, LightningDataModule.__init__

    def draw(self: DigitsData) -> None:
        self.drawn = torch.randperm(300)
        splits.append(self.drawn.tolist())

    def initialised(self: DigitsData) -> None:
        init(self)
        if where == "__init__":
            draw(self)

    def set_up(self: DigitsData, stage: str) -> None:
        setup(self, stage)
        if where == "setup":
            draw(self)
        self.test = Subset(self.test.dataset, self.drawn[:150].tolist())

    monkeypatch.setattr(LightningDataModule, "__init__", initialised)
    monkeypatch.setattr(DigitsData, "setup", set_up)
    few = "trainer.max_epochs=2", "data.num_workers=0", "data.num_rows=64"
    torch.rand(3)
    train_project("digits", tmp_path, *few, callbacks=[SignalAt(2)])
    result = train_project("digits", tmp_path, *few, resume=True)
    torch.rand(5)
    metrics = evaluate(tmp_path)
    assert len(splits) >= 3 and all(split == splits[0] for split in splits)
    assert metrics == {name: value for name, value in result.metrics.items() if name.startswith("test/")}
    train_project("digits", tmp_path / "other", *few, "seed=1")
    assert splits[-1] != splits[0]


def shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subtracts from the images a number that training fits; it is 0 until ``load_state_dict`` is called."""

    def init(self: DigitsData, *_: Any, **__: Any) -> None:
        LightningDataModule.__init__(self)
        self.save_hyperparameters({"batch_size": 32, "num_workers": 0, "num_rows": 64}, logger=False)
        self.mean = 0.0

    def setup(self: DigitsData, stage: str) -> None:
        set_up(self, stage)
        self.mean = 0.25

    def load_file(self: DigitsData, path: Path, *_: Any) -> Any:
        rows = [(image - self.mean, torch.tensor(0)) for batch in self.file_batches(path) for image in batch]
        return DataLoader(rows, batch_size=100)  # type: ignore[arg-type]

    set_up = DigitsData.setup
    monkeypatch.setattr(DigitsData, "__init__", init)
    monkeypatch.setattr(DigitsData, "setup", setup)
    monkeypatch.setattr(DigitsData, "state_dict", lambda self: {"mean": self.mean})
    monkeypatch.setattr(DigitsData, "load_state_dict", lambda self, state: setattr(self, "mean", state["mean"]))
    monkeypatch.setattr(DigitsData, "file_dataloader", load_file, raising=False)


def test_a_file_is_evaluated_and_predicted_with_the_data_modules_state(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted(monkeypatch)
    train_project("digits", tmp_path / "run", "trainer.max_epochs=1")
    seen: list[float] = []

    def step(self: Digits, batch: Any, batch_idx: int) -> None:
        seen.append(batch[0].double().sum().item())
        self.log("test/acc", 1.0)

    def whole(self: DigitsData, *_: Any) -> None:
        seen.append(self.mean)

    monkeypatch.setattr(Digits, "test_step", step)
    evaluate(tmp_path / "run", data=source)
    pixels = pl.read_csv(source).to_numpy()
    assert sum(seen) == pytest.approx((pixels / 16 - 0.25).sum(), rel=1e-6)
    seen.clear()
    monkeypatch.setattr(DigitsData, "predict_file", whole, raising=False)
    predict(tmp_path / "run", source, tmp_path / "out.csv")
    assert seen == [0.25]


def test_a_state_that_cannot_be_loaded_without_setup_is_refused_in_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted(monkeypatch)
    train_project("digits", tmp_path / "run", "trainer.max_epochs=1")
    monkeypatch.setattr(DigitsData, "load_state_dict", lambda self, state: self.train)
    refused = (
        "DigitsData.load_state_dict must work without setup, which is not called for the rows of a file:"
        " AttributeError: 'DigitsData' object has no attribute 'train'"
    )
    run_dir, output = tmp_path / "run", tmp_path / "out.csv"
    for command in (lambda: evaluate(run_dir, data=source), lambda: predict(run_dir, source, output)):
        with pytest.raises(UserError) as caught:
            command()
        assert str(caught.value) == refused


def test_the_state_of_a_data_module_is_loaded_after_its_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted(monkeypatch)
    train_project("digits", tmp_path / "run", "trainer.max_epochs=1")
    seen: list[Any] = []
    for hook in ("prepare_data", "setup", "load_state_dict"):
        given = getattr(DigitsData, hook)
        monkeypatch.setattr(
            DigitsData, hook, lambda self, *a, hook=hook, given=given: (seen.append(hook), given(self, *a))
        )
    evaluate(tmp_path / "run")
    assert seen == ["prepare_data", "setup", "load_state_dict"]


def test_a_checkpoint_and_a_config_are_read_once(run_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    for name in ("read_checkpoint", "saved_config"):
        given = getattr(load, name)
        monkeypatch.setattr(load, name, lambda *a, name=name, given=given: (read.append(name), given(*a))[1])
    evaluate(run_dir)
    predict(run_dir, source, source.parent / "out.csv")
    assert sorted(read) == ["read_checkpoint"] * 2 + ["saved_config"] * 2


def in_configure_model(self: Digits) -> None:
    data = self.trainer.datamodule  # type: ignore[attr-defined]
    self.head = torch.nn.Linear(data.num_classes, 10)  # new each time


def in_setup(self: Digits, stage: str) -> None:
    in_configure_model(self)


@pytest.mark.parametrize("hook", [in_configure_model, in_setup])
def test_layers_that_hooks_make_from_the_data_are_loaded(
    hook: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, forward = DigitsData.setup, Digits.forward

    def count(self: DigitsData, stage: str) -> None:
        setup(self, stage)
        self.num_classes = 10  # type: ignore[attr-defined]

    monkeypatch.setattr(DigitsData, "setup", count)
    monkeypatch.setattr(DigitsData, "state_dict", lambda self: {"num_classes": self.num_classes})
    monkeypatch.setattr(DigitsData, "load_state_dict", lambda self, state: vars(self).update(state))
    monkeypatch.setattr(DigitsData, "file_dataloader", lambda self, *_: self.test_dataloader(), raising=False)
    monkeypatch.setattr(Digits, hook.__name__.removeprefix("in_"), hook)
    monkeypatch.setattr(Digits, "forward", lambda self, images: self.head(forward(self, images)))
    few = "trainer.max_epochs=2", "data.num_workers=0", "+trainer.val_check_interval=4"  # not the last of 10 steps
    at_end = WeightsAtEnd()
    result = train_project("digits", tmp_path / "run", *few, callbacks=[at_end])
    assert evaluate(tmp_path / "run") == {"test/acc": result.metrics["test/acc"]}
    last, data = load.read_trained(tmp_path / "run", "last").model(Made), build_data(config_of(*overrides_of("digits")))
    data.setup("fit")
    assert equal(dict(last.state_dict()), at_end.weights)
    with torch.no_grad():
        right = torch.cat([last(images).argmax(dim=1) == labels for images, labels in data.val_dataloader()])
    assert result.metrics["val/acc"] == pytest.approx(right.float().mean().item())
    predict(tmp_path / "run", source, tmp_path / "out.csv")
    model = load.read_trained(tmp_path / "run").model(Made)
    pixels = torch.tensor(pl.read_csv(source).to_numpy(), dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    with torch.no_grad():
        assert pl.read_csv(tmp_path / "out.csv")["digit"].to_list() == model(pixels).argmax(dim=1).tolist()
    with pytest.raises(UserError) as caught:
        load.load_model(tmp_path / "run")
    name = hook.__name__.removeprefix("in_")
    assert f"(a layer that {name} makes from data must have its size as an argument)" in str(caught.value)


class WeightsAtEnd(Callback):
    """Keeps the weights at the end of training."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = {name: weight.clone() for name, weight in pl_module.state_dict().items()}


class Made(LightningDataModule):
    num_classes = 10
