"""Tests predictions of any project that defines how files become batches and predictions become columns."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from digits.data import DigitsData
from digits.model import Digits
from gan.data import RingData
from running import advised, train_project
from sklearn.datasets import load_digits

from descent.errors import UserError
from descent.run.load import load_model
from descent.run.predict import predict

pytestmark = advised
ROWS = 250  # three batches


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("digits") / "run"
    train_project("digits", run_dir, "trainer.max_epochs=1", "data.num_workers=0", "seed=3")
    return run_dir


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pixels, _ = load_digits(return_X_y=True)
    pl.DataFrame(pixels[:ROWS]).write_csv(tmp_path / "in.csv")
    return tmp_path / "in.csv"


def test_a_file_goes_through_the_data_module_and_predict_step(run_dir: Path, source: Path, tmp_path: Path) -> None:
    predict(run_dir, source, tmp_path / "out.csv")
    pixels, _ = load_digits(return_X_y=True)
    with torch.no_grad():
        scores = load_model(run_dir)(torch.tensor(pixels[:ROWS], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16)
    assert pl.read_csv(tmp_path / "out.csv")["digit"].to_list() == scores.argmax(dim=1).tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_predictions_are_made_as_they_are_written(
    run_dir: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def batches(self: DigitsData, path: Path) -> Any:
        for number in range(2):
            seen.append(f"read {number}")
            yield torch.zeros(1, 1, 8, 8)

    def write(self: DigitsData, path: Path, predictions: Any, output: Path) -> None:
        for number, _ in enumerate(predictions):
            seen.append(f"write {number}")
        output.touch()

    monkeypatch.setattr(DigitsData, "file_batches", batches)
    monkeypatch.setattr(DigitsData, "write_predictions", write)
    predict(run_dir, source, tmp_path / "out.csv")
    assert seen == ["read 0", "write 0", "read 1", "write 1"]


def test_an_error_leaves_the_output_as_it_was(run_dir: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("before")
    source.write_text("a,b\n1,2\n")
    with pytest.raises(
        UserError, match=r"cannot predict from \S+in.csv to \S+out.csv: RuntimeError in DigitsData.file_batches: shape"
    ):
        predict(run_dir, source, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "before"
    (tmp_path / "link.csv").symlink_to(source)
    for output in (source, tmp_path / "link.csv"):
        with pytest.raises(UserError) as caught:
            predict(run_dir, source, output)
        assert str(caught.value) == f"OUTPUT must be another file than INPUT, got '{output}'"


def test_the_words_of_a_project_are_left_as_they_are_and_those_of_others_are_one_line(
    run_dir: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, words in (
        (UserError("column a is missing"), "column a is missing"),
        (OSError("a\n  b"), f"cannot predict from {source} to {tmp_path}/out.csv: OSError: a b"),
    ):

        def batches(*_: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(DigitsData, "file_batches", batches)
        with pytest.raises(UserError) as caught:
            predict(run_dir, source, tmp_path / "out.csv")
        assert str(caught.value) == words


def test_what_a_project_lacks_to_predict_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_project("gan", tmp_path / "run", "trainer.max_epochs=1")

    def refused() -> str:
        with pytest.raises(UserError) as caught:
            predict(tmp_path / "run", tmp_path / "in", tmp_path / "out")
        return str(caught.value)

    assert refused() == (
        "predictions need RingData to have file_batches(path), which yields the batches of a file; and "
        "write_predictions(path, predictions, output), which writes what predict_step returns"
    )
    monkeypatch.setattr(RingData, "file_batches", lambda *_: [], raising=False)
    assert refused().startswith("predictions need RingData to have write_predictions(path, predictions, output)")
    monkeypatch.setattr(RingData, "write_predictions", lambda *_: None, raising=False)
    assert refused() == "predictions need GAN to have predict_step(batch, batch_idx)"


def test_a_module_without_a_predict_step_predicts_what_forward_gives(
    run_dir: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Digits, "predict_step")
    monkeypatch.setattr(Digits, "forward", lambda self, images: images.flatten(1).sum(dim=1).long())
    predict(run_dir, source, tmp_path / "out.csv")
    pixels, _ = load_digits(return_X_y=True)
    expected = (pixels[:ROWS].astype("float32") / 16).sum(axis=1).astype(int)
    assert pl.read_csv(tmp_path / "out.csv")["digit"].to_list() == expected.tolist()


def test_the_checkpoint_that_is_asked_for_predicts(
    run_dir: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(shutil.copytree(run_dir, tmp_path / "run"))
    path = own / "checkpoints/last.ckpt"
    last = torch.load(path, weights_only=True)
    last["state_dict"]["layers.6.bias"][7] = 1e6
    torch.save(last | {"DigitsData": {"of": "last"}}, path)
    restored: list[Any] = []
    monkeypatch.setattr(DigitsData, "load_state_dict", lambda self, state: restored.append(state))
    predict(own, source, tmp_path / "best.csv")
    assert restored == [] and len(set(pl.read_csv(tmp_path / "best.csv")["digit"])) > 1
    predict(own, source, tmp_path / "last.csv", "last")
    assert restored == [{"of": "last"}] and set(pl.read_csv(tmp_path / "last.csv")["digit"]) == {7}

    asked: list[Any] = []
    monkeypatch.setattr(DigitsData, "predict_file", lambda self, *given: asked.append(given), raising=False)
    predict(own, source, source)  # predict_file decides everything
    predict(own, source, tmp_path / "out.csv", "last")
    assert asked == [(own, source, source, "best"), (own, source, tmp_path / "out.csv", "last")]


def fixed(self: Any, path: Path, *_: Any) -> Any:
    return [torch.full((2, 1, 8, 8), 3.0), torch.full((2, 1, 8, 8), 5.0)]


def inputs_of(run_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """The calls of ``predict_step`` for batches of 3.0 and of 5.0: the batch index and the value of the batch."""
    seen: list[tuple[int, float]] = []

    def step(self: Digits, batch: Any, batch_idx: int) -> Any:
        seen.append((batch_idx, batch.unique().item()))

    with monkeypatch.context() as patch:
        patch.setattr(DigitsData, "file_batches", fixed)
        patch.setattr(DigitsData, "write_predictions", lambda self, path, made, output: output.write_text(str([*made])))
        patch.setattr(Digits, "predict_step", step)
        predict(run_dir, source, source.parent / "out")
    return seen


def test_predictions_call_the_hooks_that_change_batches(
    run_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inputs_of(run_dir, source, monkeypatch) == [(0, 3.0), (1, 5.0)]
    monkeypatch.setattr(Digits, "on_before_batch_transfer", lambda self, batch, _: batch + 1)
    monkeypatch.setattr(Digits, "transfer_batch_to_device", lambda self, batch, device, _: batch * 10)
    monkeypatch.setattr(Digits, "on_after_batch_transfer", lambda self, batch, _: batch + 2)
    assert inputs_of(run_dir, source, monkeypatch) == [(0, 42.0), (1, 62.0)]
    monkeypatch.setattr(DigitsData, "on_after_batch_transfer", lambda self, batch, _: batch + 3)  # takes precedence
    assert inputs_of(run_dir, source, monkeypatch) == [(0, 43.0), (1, 63.0)]

    def while_training(self: Any, batch: Any, _: int) -> Any:
        assert self.trainer.predicting
        return batch * 0 if self.trainer.training else batch

    monkeypatch.setattr(DigitsData, "on_after_batch_transfer", while_training)
    assert inputs_of(run_dir, source, monkeypatch) == [(0, 40.0), (1, 60.0)]


def test_predictions_of_half_precision_take_batches_of_single_and_are_made_in_half(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = "trainer.max_epochs=1", "data.num_workers=0", "data.num_rows=64"
    train_project("digits", tmp_path / "run", *few, "trainer.precision=bf16-true")
    step, seen, states = Digits.predict_step, list[Any](), list[Any]()

    def noting(self: Digits, batch: Any, batch_idx: int) -> Any:
        seen.append((batch.dtype, torch.zeros(1).dtype, self.layers[0].weight.dtype))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Digits, "predict_step", noting)
    monkeypatch.setattr(Digits, "on_load_checkpoint", lambda self, loaded: states.append(set(loaded)))
    predict(tmp_path / "run", source, tmp_path / "out.csv")
    assert len(pl.read_csv(tmp_path / "out.csv")) == ROWS
    assert seen == [(torch.bfloat16,) * 3] * 3 and torch.get_default_dtype() == torch.float32
    assert len(states) == 1 and {"state_dict", "global_step", "hyper_parameters"} <= states[0]


def test_the_data_module_predicts_with_its_state_in_the_checkpoint(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored: list[Any] = []
    monkeypatch.setattr(DigitsData, "state_dict", lambda self: {"largest": 16.0})
    monkeypatch.setattr(DigitsData, "load_state_dict", lambda self, state: restored.append(state))
    few = "trainer.max_epochs=1", "data.num_workers=0", "data.num_rows=64"
    train_project("digits", tmp_path / "run", *few)
    restored.clear()
    predict(tmp_path / "run", source, tmp_path / "out.csv")
    assert restored == [{"largest": 16.0}]


def test_predictions_draw_the_same_numbers_each_time_and_none_of_the_callers(
    run_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def step(self: Digits, batch: Any, batch_idx: int) -> Any:
        assert torch.is_inference_mode_enabled()
        drawn.append(torch.rand(()).item())
        return torch.argmax(self(batch), dim=1)

    monkeypatch.setattr(Digits, "predict_step", step)
    before = torch.get_rng_state()
    for _ in range(2):
        predict(run_dir, source, source.parent / "out.csv")
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(())
        before = torch.get_rng_state()
    assert drawn[:3] == drawn[3:] and len(set(drawn)) == 3
    torch.manual_seed(3)  # the seed of the run
    assert drawn[0] == torch.rand(()).item()


def test_a_writer_that_writes_nothing_is_refused_in_one_line(
    run_dir: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: DigitsData, path: Path, predictions: Any, output: Path) -> Any:
        yield output.write_text("a generator's body is run by nobody")

    monkeypatch.setattr(DigitsData, "write_predictions", write)
    with pytest.raises(UserError) as caught:
        predict(run_dir, source, tmp_path / "out.csv")
    assert str(caught.value) == "DigitsData.write_predictions must write output; it wrote nothing"


def test_predictions_are_written_to_a_new_folder_and_replace_none(
    run_dir: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: DigitsData, path: Path, predictions: Any, output: Path) -> None:
        output.mkdir()
        for number, predicted in enumerate(predictions):
            (output / f"{number}.txt").write_text(str(len(predicted)))

    monkeypatch.setattr(DigitsData, "write_predictions", write)
    output = tmp_path / "folder"
    for _ in range(2):
        predict(run_dir, source, output)
        assert sorted((path.name, path.read_text()) for path in output.iterdir()) == [
            *(("0.txt", "100"), ("1.txt", "100"), ("2.txt", "50")),
        ]
        with pytest.raises(UserError) as caught:
            predict(run_dir, source, output)
        assert str(caught.value) == f"OUTPUT must be a file, or a folder that is new or empty, got '{output}'"
        for path in output.iterdir():
            path.unlink()

    def step(self: Digits, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            raise ValueError("no digit")
        return batch

    monkeypatch.setattr(Digits, "predict_step", step)
    with pytest.raises(UserError, match=r"ValueError in \S*step: no digit$"):
        predict(run_dir, source, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "in.csv"] and not [*output.iterdir()]


def test_an_input_that_is_missing_or_empty_is_refused(
    run_dir: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsData, "file_batches", lambda *_: [])
    for path, words in (
        (tmp_path / "nowhere", f"INPUT must be an existing file or folder, got '{tmp_path}/nowhere'"),
        (source, "DigitsData.file_batches must yield batches; it found none in INPUT"),
    ):
        with pytest.raises(UserError) as caught:
            predict(run_dir, path, tmp_path / "out.csv")
        assert str(caught.value) == words
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
