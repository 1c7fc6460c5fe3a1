"""Tests that a new project's `make train`, `make lint` and `make test` pass."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, posix
from test_subpackages import python_of

from template.create import create, ruff

pytestmark = posix  # Windows has no make

TOOLS = ("pytest", "mypy")
QUICK = "tests/test_parse.py tests/test_model.py tests/test_conf_values.py tests/test_scripts.py"


def make(project: Path, *arguments: str) -> str:
    """Runs ``make`` in a project with the installed libraries, asserts success and returns its output."""
    place = project.with_name(f"{project.name}-venv")
    python, environment = python_of(project, place)
    if not (place / "installed").is_file():
        for tool in TOOLS:
            path = python.with_name(tool)
            path.write_text(f'#!/bin/sh\nexec "{python}" -m {tool} "$@"\n')
            path.chmod(0o755)
        (place / "installed").touch()
    if (ROOT / ".mypy_cache").is_dir():  # without the libraries' cache mypy takes minutes
        shutil.copytree(ROOT / ".mypy_cache", project / ".mypy_cache", dirs_exist_ok=True)
    command = [
        "make",
        f"BIN={place / 'bin'}",
        *(f"{stamp}={place / 'installed'}" for stamp in ("INSTALLED", "INSTALLED_DEV")),
        *arguments,
    ]
    return run(command, project, environment)


def run(command: list[str], project: Path, environment: dict[str, str], timeout: float = 3000) -> str:
    of_outer_make = ("MAKE", "MFLAGS", "ARGS")
    environment = {
        key: value
        for key, value in environment.items()
        if not key.endswith("_LOGS") and not key.startswith(of_outer_make)
    }
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_a_blank_project_trains_and_passes_its_linters_and_tests(tmp_path: Path) -> None:
    create(tmp_path / "p", "mine", "Mine", True)
    assert "completed after 40 steps, 20 epochs" in make(tmp_path / "p", "train", "ARGS=batch.size=400")
    assert len([*(tmp_path / "p/logs/runs").glob("*/result.json")]) == 1
    assert "1 passed" in make(tmp_path / "p", "test", "ARGS=-n 0")
    assert "Success: no issues found" in make(tmp_path / "p", "lint")


@pytest.mark.parametrize(
    "package", ["a", "a_package_with_a_very_long_name"]
)  # names that sort differently and change line lengths
def test_a_full_copy_passes_ruff_under_any_name(package: str, tmp_path: Path) -> None:
    create(tmp_path / "p", package, package, False)
    for arguments in (["format", "--check"], ["check"]):
        run([str(ruff()), *arguments, "."], tmp_path / "p", {**os.environ})


@pytest.mark.soak  # the blank project tests the same commands
def test_a_full_copy_trains_and_passes_its_linters_and_tests(tmp_path: Path) -> None:
    create(tmp_path / "p", "house_prices", "House prices", False)
    assert "completed after 50 steps, 2 epochs" in make(tmp_path / "p", "train", "ARGS=trainer.max_epochs=2")
    assert len([*(tmp_path / "p/logs/runs").glob("*/result.json")]) == 1
    assert "passed" in make(tmp_path / "p", "test", f"ARGS=-n 0 {QUICK}")
    assert "Success: no issues found" in make(tmp_path / "p", "lint")


@pytest.mark.soak
def test_all_tests_of_a_full_copy_pass(tmp_path: Path) -> None:
    create(tmp_path / "p", "house_prices", "House prices", False)
    assert " passed" in make(tmp_path / "p", "test")


@pytest.mark.soak
@pytest.mark.parametrize("blank", [True, False])
def test_make_sets_up_its_own_venv(blank: bool, tmp_path: Path) -> None:
    create(tmp_path / "p", "mine", "Mine", blank)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHONPATH", "VIRTUAL_ENV"))}
    assert "completed after" in run(["make", "train"], tmp_path / "p", inherited)
    assert "Success: no issues found" in run(["make", "lint"], tmp_path / "p", inherited)
    moved = {**inherited, "MINE_LOGS": str(tmp_path / "moved"), "PATH": inherited["PATH"]}
    command = [str(tmp_path / "p/.venv/bin/python"), "scripts/train.py", "trainer.max_epochs=1"]
    subprocess.run(command, cwd=tmp_path / "p", env=moved, capture_output=True, check=True)
    assert len([*(tmp_path / "moved/runs").glob("*/result.json")]) == 1
