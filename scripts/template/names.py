"""Checks the name of a project's package."""

import keyword
import re
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from template.files import ignored
from template.renaming import EXAMPLE

ALWAYS = ("descent", "hydra_plugins", "torch", "lightning", "torchmetrics", "hydra", "omegaconf", "sklearn", "yaml")
YAML = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # YAML does not read these as strings


def check_name(name: str, root: Path, blank: bool = False) -> None:
    """Raises ``SystemExit`` if the package's name is invalid or already in use."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name) or name in YAML:
        raise SystemExit(f"error: --package must be a lowercase name that is valid in Python and YAML, got {name!r}")
    if taken := _taken_by(name, root, blank):
        raise SystemExit(f"error: --package must be a name that is not in use: {name} is {taken}")


def _taken_by(name: str, root: Path, blank: bool) -> str:
    if name in ALWAYS or name in packages_distributions() or _normal(name) in _pinned(root):
        return "the example's" if name == EXAMPLE else "a library's"
    if (root / name).is_dir():
        return "a directory of the project"
    if name in sys.stdlib_module_names:
        return "of the standard library"
    if name == EXAMPLE:
        return "the example's"
    for place in ("scripts", "tests", *([] if blank else ["tests/projects"])):
        if (root / place / name).is_dir() or (root / place / f"{name}.py").is_file():
            return f"in {place}/"
    if (root / "conf/callbacks" / f"{name}.yaml").is_file():
        return "an option in conf/callbacks/"
    if ignored(root, f"src/{name}"):
        return "in .gitignore"
    return f"installed in {sys.prefix}" if find_spec(name) else ""


def _pinned(root: Path) -> set[str]:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {_normal(re.split(r"[=<>\s;]", line)[0]) for line in lines if line}


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
