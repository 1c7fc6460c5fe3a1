"""Tests that `new_project.py --upgrade` replaces the whole machinery or nothing, and nothing else."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, needs_sweep, posix
from test_subpackages import copy_to

from template import upgrade as upgrading
from template.create import create
from template.digests import DIGESTS, changed
from template.upgrade import upgrade

pytestmark = needs_sweep  # an upgrade needs the plugins


@pytest.fixture
def project(tmp_path: Path) -> Path:
    create(tmp_path / "p", "mine", "Mine", True)
    return tmp_path / "p"


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A newer template: two files changed, one added, one removed."""
    copy_to(tmp_path / "newer")
    main = tmp_path / "newer/src/descent/__init__.py"
    main.write_text(main.read_text().replace('__version__ = "', '__version__ = "9.'))
    (tmp_path / "newer/src/descent/added.py").write_text('"""New."""\n')
    (tmp_path / "newer/src/descent/drawing.py").unlink()
    (tmp_path / "newer/src/hydra_plugins/descent/__init__.py").write_text('"""Newer."""\n')
    return tmp_path / "newer"


def contents(project: Path) -> dict[str, bytes]:
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in project.rglob("*") if path.is_file()}


def machinery(found: dict[str, bytes]) -> dict[str, bytes]:
    places = ("src/descent/", "src/hydra_plugins/")
    return {name: data for name, data in found.items() if name.startswith(places) and name != DIGESTS}


def test_an_upgrade_changes_only_the_machinery(project: Path, newer: Path) -> None:
    before = contents(project)
    (project / "src/descent/__pycache__").mkdir()
    (project / "src/descent/__pycache__/x.pyc").touch()  # not a user's change
    said = upgrade(project, False, newer)
    assert said.endswith(": the machinery goes from version 0.1.0 to 9.0.1.0; files that differ: 4")
    after = contents(project)
    assert machinery(after) == machinery(contents(newer))
    assert {n: d for n, d in after.items() if not n.startswith("src/")} == {
        n: d for n, d in before.items() if not n.startswith("src/")
    }
    assert {n: after[n] for n in after if n.startswith("src/mine/")} == {
        n: before[n] for n in before if n.startswith("src/mine/")
    }
    assert sorted(path.name for path in (project / "src").iterdir()) == ["descent", "hydra_plugins", "mine"]
    assert changed(project) == []


def test_changed_files_are_named_and_kept_unless_forced(project: Path, newer: Path) -> None:
    (project / "src/descent/errors.py").write_text("# mine\n")
    (project / "src/descent/own.py").write_text("# mine\n")
    (project / "src/hydra_plugins/descent/resuming.py").unlink()
    before = contents(project)
    named = r"src/descent/errors\.py, src/descent/own\.py, src/hydra_plugins/descent/resuming\.py"
    with pytest.raises(SystemExit, match=rf"^error: changed in .*p: {named}; --force overwrites them$"):
        upgrade(project, False, newer)
    assert contents(project) == before
    assert upgrade(project, True, newer).endswith("; files that differ: 7; changes to 3 files are overwritten")
    assert machinery(contents(project)) == machinery(contents(newer))


def test_without_digests_every_differing_file_counts_as_changed(project: Path, newer: Path) -> None:
    (project / DIGESTS).unlink()
    with pytest.raises(SystemExit, match=r"src/descent/__init__\.py, src/descent/drawing\.py, src/hydra_plugins"):
        upgrade(project, False, newer)
    assert upgrade(project, True, newer)


def test_an_upgrade_to_the_same_version_says_how_many_files_differ(project: Path, newer: Path) -> None:
    main = newer / "src/descent/__init__.py"
    main.write_text(main.read_text().replace('__version__ = "9.', '__version__ = "'))
    assert upgrade(project, False, newer).endswith(": the machinery of version 0.1.0 is updated; files that differ: 3")


def test_changed_line_ends_do_not_count_as_changes(project: Path) -> None:
    path = project / "src/descent/errors.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert changed(project) == []


def test_an_invalid_project_or_template_is_refused(tmp_path: Path, newer: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .* must be a project with src/descent$"):
        upgrade(tmp_path, False, newer)
    with pytest.raises(SystemExit, match=r"is the template itself"):
        upgrade(ROOT, False)
    create(tmp_path / "p", "mine", "Mine", True)
    shutil.rmtree(newer / "src/hydra_plugins")
    shutil.rmtree(newer / "src/descent/sweep")
    before = contents(tmp_path / "p")
    with pytest.raises(SystemExit, match=r"lacks src/hydra_plugins: its machinery is incomplete$"):
        upgrade(tmp_path / "p", False, newer)
    assert contents(tmp_path / "p") == before


@pytest.mark.parametrize("has_plugins", [True, False])
@pytest.mark.parametrize("at", range(5))
def test_an_error_at_any_rename_restores_the_old_files(
    at: int, has_plugins: bool, project: Path, newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_plugins:
        shutil.rmtree(project / "src/hydra_plugins")
    before, count, rename = contents(project), iter(range(100)), Path.rename

    def failing(self: Path, target: Any) -> Path:
        if next(count) == at:
            raise OSError("busy")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    if at == 4 and not has_plugins:  # without plugins there are only four renames
        assert upgrade(project, True, newer)
        return
    with pytest.raises(OSError, match="busy"):
        upgrade(project, True, newer)
    assert contents(project) == before


@posix
# each rename once, with or without plugins; `make soak` tests both
@pytest.mark.parametrize(
    "at", [at if at % 4 in (0, 3) else pytest.param(at, marks=pytest.mark.soak) for at in range(12)]
)
def test_an_upgrade_killed_at_any_rename_is_undone_by_the_next(at: int, project: Path, newer: Path) -> None:
    """Kills a first upgrade, and then a second one while it undoes the first."""
    if at % 2:
        shutil.rmtree(project / "src/hydra_plugins")
    before = contents(project)
    for killed_at in (at // 2, 0):
        kill(project, newer, killed_at)
    renames = 4 if at % 2 else 5  # the last rename marks the end
    assert ("interrupted" in upgrade(project, True, newer)) == (at // 2 < renames)
    assert machinery(contents(project)) == machinery(contents(newer))
    rest = {name for name in contents(project) if not name.startswith(("src/descent/", "src/hydra_plugins/"))}
    assert rest == {name for name in before if not name.startswith(("src/descent/", "src/hydra_plugins/"))}


def kill(project: Path, newer: Path, at: int) -> None:
    """Runs an upgrade in a process that exits before its rename number ``at``."""
    child = os.fork()
    if child == 0:
        count, rename = iter(range(100)), Path.rename

        def dying(self: Path, target: Any) -> Path:
            if next(count) == at:
                os._exit(0)
            return rename(self, target)

        Path.rename = dying  # type: ignore[method-assign]
        try:
            upgrade(project, True, newer)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


@posix
def test_a_signal_waits_for_the_renames(project: Path, newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = upgrading._swap

    def interrupted(project: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        swap(project)

    monkeypatch.setattr(upgrading, "_swap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        upgrade(project, False, newer)
    assert machinery(contents(project)) == machinery(contents(newer))
