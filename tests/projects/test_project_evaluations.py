"""Evaluations of any project, on its own test rows and on those of a file."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from digits.data import DigitsData
from digits.model import Digits
from lightning.pytorch import LightningDataModule
from running import SignalAt, advised, train_project
from test_project_predictions import run_dir, source
from torch.utils.data import DataLoader, Subset

from descent.errors import UserError
from descent.run.evaluate import evaluate
from descent.run.predict import predict

pytestmark = advised
__all__ = ["run_dir", "source"]


def test_other_rows_are_evaluated_with_the_data_modules_hooks(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert evaluate(run_dir, data=Path("other.csv")) == {"test/acc": 1.0}
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
        assert refused() == f"{run_dir} has no test rows: --data FILE names others"
    monkeypatch.setattr(Digits, "test_step", lambda *_: None)
    assert refused() == "Digits must log metrics in its test to be evaluated; it logged none"
    monkeypatch.delattr(Digits, "test_step")
    assert refused() == "Digits must have a test_step to be evaluated"
    assert not (run_dir / "evaluation.json").exists()


def test_known_warnings_of_libraries_are_shown_by_no_command(
    run_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = Digits.forward, list[int]()

    def warning(self: Digits, images: Any) -> Any:
        calls.append(len(images))
        warnings.warn("The `srun` command is available on your system but is not used.", stacklevel=1)  # else an error
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
