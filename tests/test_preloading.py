"""What is loaded while the config is composed."""

import ctypes
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from descent.run import preloading

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="on Linux alone")

MAPPED = """
import sys
from pathlib import Path
from descent.run.preloading import preload_torch
preload_torch().join(60)
assert "torch" not in sys.modules
print(Path("/proc/self/maps").read_text())
import torch
assert torch.ones(2).sum() == 2
"""


def test_torchs_libraries_are_loaded_before_torch_is_imported_and_torch_then_works() -> None:
    done = subprocess.run([sys.executable, "-c", MAPPED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    directory = (Path(torch.__file__).parent / "lib").resolve()
    for name, _ in preloading.LIBRARIES:
        assert f"{directory / name}\n" in done.stdout


@pytest.mark.parametrize("found", [None, SimpleNamespace(submodule_search_locations=None)])
def test_without_torch_there_is_nothing_to_load(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(preloading, "find_spec", lambda name: found)
    assert preloading.preload_torch() is None


def test_a_library_that_cannot_be_loaded_is_left_to_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(preloading, "find_spec", lambda name: found)
    thread = preloading.preload_torch()
    assert thread is not None and thread.daemon
    thread.join(60)
    assert not thread.is_alive()
    with pytest.raises(OSError, match="libtorch_cpu"):
        ctypes.CDLL(str(tmp_path / "lib/libtorch_cpu.so"))


def test_they_are_not_loaded_again() -> None:
    assert preloading.preload_torch() is None  # torch is here
