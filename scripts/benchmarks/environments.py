"""Creates environments with some of the installed packages, as links: nothing is downloaded."""

import tomllib
import venv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

ALONE = ("torch", "lightning", "torchmetrics", "hydra-core", "tensorboard")


def base_requirements(root: Path) -> list[str]:
    """Returns what ``make train`` installs: the project's dependencies without extras."""
    found: list[str] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return found


def needed(requirements: Iterable[str]) -> set[str]:
    """Returns the names of the distributions that pip would install for the requirements."""
    waiting, found = [*map(Requirement, requirements)], set[tuple[str, str]]()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) in found:
                continue
            found.add((requirement.name, extra))
            try:
                others = map(Requirement, distribution(requirement.name).requires or [])
            except PackageNotFoundError:  # needed only on another platform
                continue
            waiting += [other for other in others if not other.marker or other.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


@contextmanager
def environment(requirements: Iterable[str], source: Path | None = None) -> Iterator[str]:
    """Yields the Python of a new environment with the requirements and the packages below ``source``."""
    with TemporaryDirectory() as directory:
        venv.create(directory)
        (packages,) = Path(directory).glob("[Ll]ib/**/site-packages")
        for name in needed(requirements):
            try:
                files = distribution(name).files or []
            except PackageNotFoundError:
                continue
            for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
                if not (packages / top).exists():
                    (packages / top).symlink_to(str(distribution(name).locate_file(top)))
        if source is not None:
            (packages / "project.pth").write_text(f"{source}\n")
        (python,) = [path for path in Path(directory).glob("*/python*") if path.stem == "python"]
        yield str(python)
