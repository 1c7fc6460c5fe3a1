"""Tests batch.size=null on data that pass it to a DataLoader, for which None is not a batch of all rows."""

from pathlib import Path
from typing import Any

import pytest
import torch
from digits.data import DigitsData
from running import train_project
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, TensorDataset

from descent.errors import UserError

SMALL = ("trainer.max_epochs=1", "data.num_workers=0", "data.num_rows=40")


class Whole(Dataset[Any]):
    """A single item: all rows."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return tuple(torch.stack([torch.as_tensor(row[part]) for row in self.rows]) for part in (0, 1))


def no_rows(*_: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(3)), batch_size=None)


def test_single_rows_in_place_of_the_whole_training_set_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = (
        "batch.size must be a positive integer with this data: null gives the DataLoader of {} batch_size=None,"
        " which yields single rows, not all rows (batch_size=len(dataset) would), got null"
    )
    with pytest.raises(UserError) as raised:
        train_project("digits", tmp_path / "a", *SMALL, "batch=full")
    assert str(raised.value) == said.format("train_dataloader")
    monkeypatch.setattr(DigitsData, "train_dataloader", lambda self: DataLoader(self.train, len(self.train)))
    monkeypatch.setattr(DigitsData, "val_dataloader", no_rows)
    with pytest.raises(UserError) as raised:
        train_project("digits", tmp_path / "b", *SMALL, "batch=full")
    assert str(raised.value) == said.format("val_dataloader")


@pytest.mark.parametrize(
    ("make", "overrides"),
    [
        (lambda self: DataLoader(self.train, len(self.train)), ["batch=full"]),
        (lambda self: DataLoader(Whole(self.train), batch_size=None), ["batch=full"]),
        (
            lambda self: DataLoader(
                self.train, batch_size=None, sampler=BatchSampler(SequentialSampler(self.train), 40, False)
            ),
            ["batch=full"],
        ),
        (lambda self: DataLoader(Whole(self.train), batch_size=None), []),
        (lambda self: DataLoader(Whole(self.train), batch_size=None), ["batch=full", "data.batch_size=8"]),
    ],
)
def test_data_that_make_batches_themselves_are_not_refused(
    make: Any, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigitsData, "train_dataloader", make)
    result = train_project("digits", tmp_path / "run", *SMALL, *overrides)
    assert (result.status, result.steps, result.samples) == ("completed", 1, 40)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")  # for a single row
def test_a_stream_whose_batches_nobody_makes_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = "trainer.max_epochs=1", "batch=full", "data.batch_size=${batch.size}", "trainer.max_steps=2"
    train_project("stream", tmp_path / "run", *given)
    (note,) = [text for text in caplog.messages if "batch.size" in text]
    assert note == (
        "note: batch.size is null, so the DataLoader of train_dataloader has batch_size=None: a batch is what Rows"
        " yields, even a single row"
    )
