"""Tests that the machinery never imports the example and that optional subpackages can be deleted."""

import ast
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import OPTIONAL, ROOT, posix

MACHINERY = sorted((ROOT / "src/descent").rglob("*.py"))


def imported(path: Path, at_top: bool = False) -> set[str]:
    """Returns the modules that a file imports; ``at_top`` restricts them to its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_top else list(ast.walk(tree))
    names = {
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return names | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def subpackage_of(path: Path) -> str:
    return path.relative_to(ROOT / "src/descent").parts[0]


@pytest.mark.parametrize("path", MACHINERY, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_the_machinery_never_imports_the_example(path: Path) -> None:
    assert not [name for name in imported(path) if name.split(".")[0] == "regression"]


# private names of torch, TensorBoard, Hydra and OmegaConf, and the public os._exit
OTHERS = {"_buffers", "_non_persistent_buffers_set", "_version", "_global_uid", "_get_root", "_exit"}
OTHERS |= {"_process_config_searchpath"}


def test_only_fast_uses_lightnings_private_names() -> None:
    found: dict[str, set[str]] = {}
    for path in MACHINERY:
        attributes = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Attribute)]
        names = {n.attr for n in attributes if not (isinstance(n.value, ast.Name) and n.value.id in ("self", "cls"))}
        names |= {name.rpartition(".")[2] for name in imported(path) if name.startswith("lightning.")}
        found.setdefault(subpackage_of(path), set()).update(name for name in names if re.match("_[a-z]", name))
    assert found.pop("fast", {"_results"}) - OTHERS
    assert set().union(*found.values()) <= OTHERS


@pytest.mark.parametrize("subpackage", OPTIONAL)
def test_no_subpackage_imports_an_optional_one(subpackage: str) -> None:
    for path in MACHINERY:
        if subpackage_of(path) != subpackage:
            assert not [name for name in imported(path, at_top=True) if name.startswith(f"descent.{subpackage}.")], path


def test_subpackages_import_each_other_in_one_direction() -> None:
    needs: dict[str, set[str]] = {}
    for path in MACHINERY:
        if path.parent.name != "descent":
            found = {name.split(".")[1] for name in imported(path, at_top=True) if name.startswith("descent.")}
            subpackages = {name for name in found if (ROOT / "src/descent" / name).is_dir()}
            needs.setdefault(subpackage_of(path), set()).update(subpackages - {subpackage_of(path)})
    while needs:  # remove subpackages that need no remaining subpackage
        free = [subpackage for subpackage, others in needs.items() if not others & set(needs)]
        assert free, f"an import cycle in {needs}"
        for subpackage in free:
            del needs[subpackage]


def copy_to(copy: Path) -> None:
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "*.egg-info", "logs")
    shutil.copytree(ROOT, copy, ignore=ignored)
    (copy / "logs").mkdir()
    (copy / "logs/.gitkeep").touch()


def delete(subpackage: str, copy: Path) -> None:
    """Deletes a subpackage from a copy of the project, as the README says."""
    shutil.rmtree(copy / "src/descent" / subpackage)
    if subpackage == "sweep":
        shutil.rmtree(copy / "src/hydra_plugins")
        shutil.rmtree(copy / "conf/launcher")
        config = copy / "conf/train.yaml"
        lines = config.read_text().splitlines()
        rest = [line for line in lines if not re.search("override hydra/|- launcher:", line)]
        config.write_text("\n".join(rest) + "\n")
        for path in (copy / "conf/experiment").glob("*.yaml"):
            if "sweeper:" in path.read_text():
                path.unlink()
    if subpackage == "compare":
        (copy / "scripts/compare.py").unlink()
        (copy / "src/regression/comparison.py").unlink()


def python_of(copy: Path, environment: Path) -> tuple[Path, dict[str, str]]:
    """Returns an interpreter and environment with the installed libraries and the copy's packages."""
    venv.create(environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    if ruff := shutil.which("ruff", path=str(Path(sys.executable).parent)):
        shutil.copy(ruff, environment / "bin/ruff")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    path = os.pathsep.join([str(copy / "src"), str(copy / "scripts")])
    return environment / "bin/python", {**inherited, "PYTHONPATH": path}


@posix
@pytest.mark.soak
@pytest.mark.parametrize("subpackage", OPTIONAL)
def test_without_an_optional_subpackage_the_other_tests_pass(subpackage: str, tmp_path: Path) -> None:
    copy_to(tmp_path / "copy")
    delete(subpackage, tmp_path / "copy")
    python, environment = python_of(tmp_path / "copy", tmp_path / "venv")
    readme = "tests/test_readme.py"  # it describes all subpackages
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--ignore", readme]
    done = subprocess.run(
        command, cwd=tmp_path / "copy", env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_optional_subpackages_can_be_deleted(tmp_path: Path) -> None:
    copy_to(tmp_path / "copy")
    for subpackage in filter(lambda subpackage: (ROOT / "src/descent" / subpackage).is_dir(), OPTIONAL):
        delete(subpackage, tmp_path / "copy")
    modules = [
        path.relative_to(tmp_path / "copy/src").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in sorted((tmp_path / "copy/src").rglob("*.py"))
    ]
    code = f"""
import importlib, runpy, sys
for name in {modules!r}:
    importlib.import_module(name)
sys.argv = ["train.py", "name=x", "trainer.max_epochs=2", "figures=false"]
runpy.run_path("copy/scripts/train.py", run_name="__main__")
"""
    python, environment = python_of(tmp_path / "copy", tmp_path / "venv")
    done = subprocess.run(
        [python, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**environment, "DESCENT_LOGS": str(tmp_path / "logs")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "completed after 50 steps, 2 epochs" in done.stdout
    assert len(list((tmp_path / "logs/runs").glob("x_*/result.json"))) == 1
