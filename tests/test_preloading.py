"""What is loaded while the config is composed."""

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from descent.run import cli, preloading

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="on Linux alone")


def test_torchs_own_libraries_are_loaded_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = list[tuple[Path, int]]()
    monkeypatch.setattr(ctypes, "CDLL", lambda name, mode: loaded.append((Path(name), mode)))
    thread = preloading.preload_torch()
    assert thread is not None and thread.daemon
    thread.join(60)
    directory = Path(torch.__file__).parent / "lib"
    expected = [("libtorch_global_deps.so", ctypes.RTLD_GLOBAL), ("libtorch_python.so", ctypes.RTLD_LOCAL)]
    assert loaded == [(directory / name, mode) for name, mode in expected]
    assert all(path.is_file() for path, _ in loaded)


@pytest.mark.parametrize("found", [None, SimpleNamespace(submodule_search_locations=None)])
def test_without_torch_there_is_nothing_to_load(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preloading, "find_spec", lambda name: found)
    assert preloading.preload_torch() is None


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_library_that_cannot_be_loaded_is_left_to_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        preloading, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    thread = preloading.preload_torch()
    assert thread is not None
    thread.join(60)


@pytest.mark.parametrize(
    ("arguments", "loads"),
    [([], True), (["seed=1"], True), (["-m", "seed=1,2"], False), (["--help"], False), (["--cfg", "job"], False)],
)
def test_only_a_command_that_trains_loads_them(
    arguments: list[str], loads: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = list[str]()
    monkeypatch.setattr(cli, "preload_torch", lambda: done.append("loaded"))
    monkeypatch.setattr(cli, "command", lambda checked, prints: None)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    cli.run(lambda: None, tmp_path)
    assert done == ["loaded"] * loads
