"""Tests what `new_project.py` copies, renames and refuses."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, needs_sweep
from test_subpackages import copy_to

from descent import __version__
from template import files
from template.create import create
from template.names import check_name
from template.renaming import renamed, renamed_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from regression import plots", "from mine import plots"),
        ("import regression", "import mine"),
        ("    from regression.data.rows import Array", "    from mine.data.rows import Array"),
        ("_target_: regression.model.LinearRegression", "_target_: mine.model.LinearRegression"),
        ('import_module("regression.comparison")', 'import_module("mine.comparison")'),
        ("packages: [torch, descent, regression] # some", "packages: [torch, descent, mine] # some"),
        ("packages=[torch,descent,regression,broken]", "packages=[torch,descent,mine,broken]"),
        ("callbacks=[regression,swa]", "callbacks=[mine,swa]"),
        ("  - callbacks: regression", "  - callbacks: mine"),
        ("callbacks=regression needs a LinearRegression", "callbacks=mine needs a LinearRegression"),
        ('("descent", "regression")', '("descent", "mine")'),
        ("`src/regression/` has it", "`src/mine/` has it"),
        ('environment["DESCENT_LOGS"]', 'environment["MINE_LOGS"]'),
        ("  experiment_name: descent", "  experiment_name: mine"),
    ],
)
def test_the_package_name_is_replaced(text: str, expected: str) -> None:
    assert renamed(text, "mine") == expected


@pytest.mark.parametrize(
    "text",
    [
        '"""Linear regression as a LightningModule."""',
        "# Train a linear regression by gradient descent.",
        "    regression by gradient descent, of lasso, regression and others",
        "a project that is no regression: a classifier",
        '"regression to the mean"',
        "(regression, that is)",
        "import my_regression, regressions.data, x.regression.data",
        "logistic-regression.yaml",
        "from descent.run import train  # gradient descent",
        "MY_DESCENT_LOGS",
    ],
)
def test_prose_and_longer_words_are_not_replaced(text: str) -> None:
    assert renamed(text, "mine") == text


def test_paths_are_renamed_by_their_parts() -> None:
    assert renamed_path("src/regression/data/rows.py", "mine") == "src/mine/data/rows.py"
    assert renamed_path("conf/callbacks/regression.yaml", "mine") == "conf/callbacks/mine.yaml"
    assert renamed_path("tests/regression_test.py", "mine") == "tests/regression_test.py"


@pytest.mark.parametrize("name", ["", "2x", "Mine", "a-b", "a.b", "a/b", "ä", "_x", "class", "null", "on", "a b"])
def test_an_invalid_package_name_is_refused(name: str) -> None:
    with pytest.raises(
        SystemExit, match=r"^error: --package must be a lowercase name that is valid in Python and YAML"
    ):
        check_name(name, ROOT)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        *((name, "a library's") for name in ("descent", "torch", "lightning", "hydra_plugins", "yaml", "polars")),
        *((name, "a library's") for name in ("pydantic_core", "rich", "pytest")),
        *((name, "of the standard library") for name in ("json", "ast", "zoneinfo")),
        *(
            ("regression", "the example's"),
            ("benchmarks", "in scripts/"),
            ("conftest", "in tests/"),
            ("conf", "a directory.*"),
        ),
        *(("digits", "in tests/projects/"), ("swa", "an option in conf/callbacks/"), ("build", r"in \.gitignore")),
    ],
)
def test_a_name_that_is_taken_is_refused(name: str, owner: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: --package must be a name that is not in use: {name} is {owner}$"):
        check_name(name, ROOT)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A copy of the template without git."""
    copy_to(tmp_path / "archive")
    return tmp_path / "archive"


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True)


def test_a_blank_project_may_have_the_name_of_a_test_project(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").touch()
    (tmp_path / "tests/projects/mine").mkdir(parents=True)
    with pytest.raises(SystemExit, match=r"mine is in tests/projects/$"):
        check_name("mine", tmp_path)
    check_name("mine", tmp_path, blank=True)


def test_with_git_tracked_files_are_copied_and_without_it_all_unignored_ones(archive: Path) -> None:
    for name in ("src/descent/__pycache__/x.pyc", "src/mine.egg-info/PKG-INFO", "own.txt", "logs/runs/x/result.json"):
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / name).touch()
    without = files.source_files(archive)
    assert {"src/descent/__init__.py", "conf/train.yaml", ".gitignore", ".github/workflows/ci.yaml"} <= {*without}
    assert not [name for name in without if "__pycache__" in name or "egg-info" in name or name.startswith("logs/runs")]
    assert "own.txt" not in without
    if shutil.which("git") is None:
        pytest.skip("needs git")
    git(archive, "init", "-q")
    git(archive, "add", ".")
    (archive / "src/descent/untracked.py").touch()
    tracked = files.source_files(archive)
    assert "own.txt" in tracked and "src/descent/untracked.py" not in tracked
    assert set(without) <= set(tracked)
    (archive / "src/descent/errors.py").unlink()
    with pytest.raises(SystemExit, match=r"^error: .* lacks files of the template: src/descent/errors\.py$"):
        files.source_files(archive)


def test_a_template_that_lacks_files_is_refused(archive: Path, tmp_path: Path) -> None:
    (archive / "conf/train.yaml").unlink()
    shutil.rmtree(archive / "src/regression")
    with pytest.raises(SystemExit, match=r"^error: .* lacks files of the template: conf/train\.yaml and 1 more$"):
        create(tmp_path / "p", "mine", "Mine", True, archive)
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_a_nonempty_directory_or_one_in_the_template_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.txt").touch()
    for directory in (tmp_path, tmp_path / "own.txt"):
        with pytest.raises(SystemExit, match=r"^error: .* must be a new or an empty directory$"):
            create(directory, "mine", "Mine", True)
    with pytest.raises(SystemExit, match=r"^error: .* must be outside the template"):
        create(ROOT / "logs/new", "mine", "Mine", True)
    with pytest.raises(SystemExit, match=r"^error: --name must be a line of text, got 'a.nb'$"):
        create(tmp_path / "p", "mine", "a\nb", True)
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


def test_an_error_while_creating_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("template.create.write_digests", full)
    with pytest.raises(OSError, match="no space"):
        create(tmp_path / "p", "mine", "Mine", True)
    assert not [*tmp_path.iterdir()]


def words_of(project: Path) -> str:
    guides = project / ".github/guides.md"  # on a blank project
    own = [path for path in project.rglob("*") if path.is_file() and "descent" not in path.parts and path != guides]
    return "\n".join(path.read_text(encoding="utf-8") for path in own)


def test_a_full_copy_is_the_template_under_another_name(tmp_path: Path) -> None:
    create(tmp_path, "mine", 'Prices "of" houses', False)
    for place in files.MACHINERY:
        for path in (tmp_path / place).rglob("*.py"):
            assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes()
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"src/mine/model.py", "conf/callbacks/mine.yaml", "tests/test_model.py", "logs/.gitkeep"} <= names
    gone = r"regression|tutorial|benchmark|readme|new_project|template|study_hours|\.git/|\.png|__pycache__"
    allowed = {"conf/data/study_hours.yaml", "README.md"}
    assert not [name for name in names - allowed if re.search(gone, name)]
    assert "regression.model" not in words_of(tmp_path) and "DESCENT_LOGS" not in words_of(tmp_path)
    assert (tmp_path / "src/mine/model.py").read_text().startswith('"""Defines the models: linear regression, ')
    assert yaml.safe_load((tmp_path / "conf/train.yaml").read_text())["packages"][-1] == "mine"
    assert f"Copyright (c) {date.today().year} the mine authors\n" in (tmp_path / "LICENSE").read_text()


def test_a_blank_project_has_at_most_150_lines_of_its_own(tmp_path: Path) -> None:
    create(tmp_path / "p", "mine", "Prices", True)
    own = [
        *("README.md", "conf/data/mine.yaml", "conf/model/mine.yaml", "tests/test_mine.py"),
        *("src/mine/__init__.py", "src/mine/data.py", "src/mine/model.py"),
    ]
    assert sum(len((tmp_path / "p" / name).read_text().splitlines()) for name in own) <= 150
    assert [path.name for path in (tmp_path / "p/tests").iterdir()] == ["test_mine.py"]
    groups = {path.parent.name for path in (tmp_path / "p/conf").glob("*/*.yaml")}
    assert groups == {path.parent.name for path in (ROOT / "conf").glob("*/*.yaml")} - {"experiment"}
    assert "regression" not in words_of(tmp_path / "p") and "blank" not in words_of(tmp_path / "p")
    assert (tmp_path / "p/README.md").read_text().startswith("# Prices\n")
    create(tmp_path / "houses", "houses", "Houses", True)
    guides = (tmp_path / "houses/.github/guides.md").read_text()
    assert "src/houses/model.py" in guides and "_target_: houses.model.MLP" in guides
    assert not re.search(r"\bmine\b|regression", guides)
    main = yaml.safe_load((tmp_path / "p/conf/train.yaml").read_text())
    assert {"data": "mine"} in main["defaults"] and {"callbacks": "none"} in main["defaults"]


def test_the_data_of_a_blank_project_have_a_checksum(tmp_path: Path) -> None:
    create(tmp_path / "p", "mine", "Mine", True)
    data = runpy.run_path(str(tmp_path / "p/src/mine/data.py"))["Data"]
    checksums = []
    for num_rows in (100, 100, 101):
        rows = data(32, True, num_rows)
        rows.setup("fit")
        checksums.append(rows.checksum)
    assert checksums[0] == checksums[1] != checksums[2] and isinstance(checksums[0], int)


def test_a_blank_project_has_nothing_that_only_the_example_needs(tmp_path: Path) -> None:
    create(tmp_path / "p", "mine", "Mine", True)
    (tmp_path / "p/constraints.txt").unlink()  # pins every extra until `make constraints` rewrites it
    gone = r"diabetes|sklearn|selenium|soak|chromium|browser|\.ci/|experiment=|tutorial|former name"
    assert not re.findall(gone, words_of(tmp_path / "p"))
    project = tomllib.loads((tmp_path / "p/pyproject.toml").read_text())
    assert {*project["project"]["optional-dependencies"]} == {
        *("figures", "optuna", "wandb", "mlflow", "joblib", "submitit", "ray", "dev")
    }
    assert project["project"]["optional-dependencies"]["dev"][0] == "mine[figures,optuna]"
    assert project["tool"]["pytest"]["ini_options"]["addopts"] == "-ra --strict-markers -n auto --dist worksteal"
    workflow = yaml.safe_load((tmp_path / "p/.github/workflows/ci.yaml").read_text())
    assert [step.get("run") for step in workflow["jobs"]["check"]["steps"]] == [None, None, "make lint && make test"]


def test_the_package_has_the_templates_version() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["p"], "--package NAME is needed"),
        (["p", "--package", "mine", "--force"], "--force needs --upgrade"),
        (["p", "--package", "mine", "--upgrade"], "--upgrade takes no --package, --name or --blank"),
        (["p", "--upgrade"], r"error: .*p must be a project with src/descent$"),
        (["p", "--package", "torch"], "error: --package must be a name that is not in use: torch is a library's"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts/new_project.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2) and re.search(message, done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr and not [*tmp_path.iterdir()]


@needs_sweep  # an upgrade adds it
def test_the_commands_of_the_readme_make_and_upgrade_a_project(tmp_path: Path) -> None:
    pattern = r"(?m)^python (scripts/new_project\.py) \.\./(\w+) (.*?) *(?:#|$)"
    commands = re.findall(pattern, (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(commands) == 3
    for script, directory, options in commands:
        command = [sys.executable, str(ROOT / script), str(tmp_path / directory), *shlex.split(options)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'houses'}: the machinery is already at version {__version__}\n"
    assert (tmp_path / "houses/README.md").read_text().startswith("# House prices\n")
    assert (tmp_path / "prices/src/prices/optimum.py").is_file()
