"""Tests batch.size=null on data that pass it to a DataLoader, and batches whose size is not known."""

from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from digits.data import DigitsData
from digits.model import Digits
from running import train_project
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, TensorDataset, default_collate

from descent.errors import UserError, note_once

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


class Images:
    """A batch in whose attributes Lightning does not look for tensors."""

    def __init__(self, rows: Any) -> None:
        self.images, self.labels = default_collate(rows)


def test_batches_whose_size_is_not_known_count_as_one_sample_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step: Any = Digits.training_step

    def unpacked(self: Any, batch: Images, batch_idx: int) -> Any:
        return step(self, (batch.images, batch.labels), batch_idx)

    note_once.cache_clear()
    monkeypatch.setattr(Digits, "training_step", unpacked)
    monkeypatch.setattr(DigitsData, "train_dataloader", lambda self: DataLoader(self.train, 8, collate_fn=Images))
    monkeypatch.setattr(Digits, "log", partialmethod(Digits.log, batch_size=8))
    result = train_project("digits", tmp_path / "run", *SMALL)
    assert (result.steps, result.samples) == (5, 5)
    said = "note: each batch counts as one sample, because its size is not known: Images"
    assert [text for text in caplog.messages if "its size" in text] == [said]
