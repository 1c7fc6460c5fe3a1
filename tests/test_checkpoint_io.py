"""Tests the whole messages of checkpoints that cannot be read."""

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from descent.errors import UserError
from descent.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint

TENSORS = {"weight": torch.ones(2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "{} must be a checkpoint dictionary, got a list"),
        ({"global_step": 1}, "{} must be a checkpoint with a state_dict of tensors; it has none"),
        (
            {"state_dict": {**TENSORS, "bias": 1.0}, "global_step": 1},
            "{} must be a checkpoint with a state_dict of tensors; it has none",
        ),
        (
            {"state_dict": TENSORS, "global_step": -1},
            "global_step of the checkpoint {} must be an integer, 0 or more, got -1",
        ),
        (
            {"state_dict": TENSORS, "global_step": True},
            "global_step of the checkpoint {} must be an integer, 0 or more, got true",
        ),
        ({"state_dict": TENSORS}, "global_step of the checkpoint {} must be an integer, 0 or more, got null"),
        (
            {"state_dict": TENSORS, "global_step": 1, "code": Path},
            "{} must be a whole checkpoint of plain values, tensors and NumPy arrays only; it is not, and was not"
            " loaded; it has pathlib.Path",
        ),
        (None, "there is no checkpoint {}"),
    ],
    ids=lambda value: value.replace("{} ", "")[:50] if isinstance(value, str) else "",
)
def test_what_is_no_checkpoint_is_refused_by_its_name(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    if content is not None:
        torch.save(content, path)
    for read in (read_checkpoint, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(UserError) as refused:
            read(path)
        assert str(refused.value) == message.format(path)


def test_a_checkpoint_of_step_0_without_weights_is_one(tmp_path: Path) -> None:
    content = {"state_dict": {}, "global_step": 0}
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt") == content


def test_a_checkpoint_is_loaded_onto_the_device_that_is_asked_for(tmp_path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": TENSORS, "global_step": 0}, str(tmp_path / "a.ckpt"))
    for read in (read_checkpoint, AtomicCheckpointIO().load_checkpoint):
        assert read(tmp_path / "a.ckpt")["state_dict"]["weight"].device.type == "cpu"
        assert read(tmp_path / "a.ckpt", map_location="meta")["state_dict"]["weight"].device.type == "meta"


def test_arrays_and_numbers_of_numpy_are_loaded(tmp_path: Path) -> None:
    values = [np.arange(3.0), np.array(["a", "bc"]), np.float32(2), np.int64(3), np.bool_(True), np.array(None)]
    values += [np.zeros(2, [("a", "i4"), ("b", "f8")]), np.zeros(2, np.float16), *np.random.get_state()]
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": 0, "values": values}, tmp_path / "a.ckpt")
    for found, saved in zip(read_checkpoint(tmp_path / "a.ckpt")["values"], values, strict=True):
        assert type(found) is type(saved) and np.array_equal(found, saved)
        assert np.asarray(found).dtype == np.asarray(saved).dtype


def test_a_checkpoint_that_could_not_be_loaded_is_refused_when_it_is_written(tmp_path: Path) -> None:
    content = {"state_dict": {}, "global_step": 0, "optimizer_states": [], "seen": deque([tmp_path])}
    with pytest.raises(UserError) as refused:
        AtomicCheckpointIO().save_checkpoint(content, tmp_path / "a.ckpt")
    assert str(refused.value) == (
        f"{tmp_path / 'a.ckpt'} must contain plain values, tensors and NumPy arrays only, or it cannot be loaded again;"
        " an on_save_checkpoint, a state_dict or save_hyperparameters adds collections.deque, pathlib.PosixPath"
    )
    assert torch.load(tmp_path / "a.ckpt", weights_only=False) == content  # nothing is lost
