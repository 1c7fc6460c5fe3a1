"""Upgrades the machinery of an existing project: ``src/descent`` and ``src/hydra_plugins``, and nothing else."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from template.digests import changed, digests, version, write_digests
from template.files import MACHINERY, ROOT, below, source_files

STAGING = "src/.upgrade"  # has `new` and `old`; exists only during an upgrade, or after an interrupted one
DONE = "src/.upgrade-done"  # the same directory, once the new machinery is in place


def upgrade(project: Path, force: bool, root: Path = ROOT) -> str:
    """Replaces the machinery completely, or not at all. Undoes an interrupted upgrade first.

    Args:
        project: the project's directory.
        force: overwrite files of the machinery that were changed in the project.
        root: the template's directory.

    Returns:
        a line with the versions and the number of files that differ.

    Raises:
        SystemExit: the project has no machinery, or its machinery was changed.
    """
    project = project.resolve()
    if project == root:
        raise SystemExit(f"error: {project} is the template itself: run the newer template's script")
    recovered = (project / STAGING).is_dir()
    _undo(project)
    if not (project / "src/descent/__init__.py").is_file():
        raise SystemExit(f"error: {project} must be a project with src/descent")
    names = [name for name in source_files(root) if below(name, MACHINERY)]
    for place in MACHINERY:  # `_undo` relies on all of them being in `new`
        if not any(below(name, (place,)) for name in names):
            raise SystemExit(f"error: {root} lacks {place}: its machinery is incomplete")
    before, after = version(project), version(root)
    edited, now = changed(project), digests(project)
    new = {name: digest for name, digest in digests(root).items() if name in names}
    if edited == [] and new == now:
        return f"{project}: the machinery is already at version {after}"
    if edited is None:  # any file that differs may have been edited
        edited = sorted(name for name in now if new.get(name) != now[name])
    if edited and not force:
        listed = ", ".join(edited[:5]) + (f" and {len(edited) - 5} more" if len(edited) > 5 else "")
        raise SystemExit(f"error: changed in {project}: {listed}; --force overwrites them")
    _stage(project, names, root)
    with _undisturbed():
        _swap(project)
    shutil.rmtree(project / DONE, ignore_errors=True)  # if this fails, the next upgrade removes it
    undone = " (an interrupted upgrade was undone first)" if recovered else ""
    lost = f"; changes to {len(edited)} files are overwritten" if edited else ""
    versions = f"goes from version {before} to {after}" if before != after else f"of version {after} is updated"
    count = sum(now.get(name) != new.get(name) for name in {*now, *new})
    return f"{project}: the machinery {versions}; files that differ: {count}{lost}{undone}"


def _stage(project: Path, names: list[str], root: Path) -> None:
    staging = project / STAGING
    try:
        for name in names:
            target = staging / "new" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target)
        write_digests(staging / "new")
        (staging / "old").mkdir()  # last, as a sign that `new` is complete
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _swap(project: Path) -> None:
    """Moves the new machinery into place, by renames only. If killed between them, the next upgrade undoes them."""
    staging = project / STAGING
    try:
        for place in MACHINERY:
            if (project / place).is_dir():
                (project / place).rename(staging / "old" / Path(place).name)
            (staging / "new" / place).rename(project / place)
        staging.rename(project / DONE)
    except BaseException:
        _undo(project)
        raise


def _undo(project: Path) -> None:
    """Restores the machinery from before an interrupted upgrade."""
    staging = project / STAGING
    if (staging / "old").is_dir():
        for place in MACHINERY:
            old, new = staging / "old" / Path(place).name, staging / "new" / place
            if not new.is_dir():
                (project / place).rename(new)
            if old.is_dir():
                old.rename(project / place)
        (staging / "old").rmdir()  # everything is restored
    shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(project / DONE, ignore_errors=True)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Delays Ctrl-C, SIGTERM and SIGHUP until it exits."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in received:
            signal.raise_signal(number)
