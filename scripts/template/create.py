"""Creates a new project: copies the template's files under another name."""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from template import edits
from template.digests import write_digests
from template.files import BLANK, MACHINERY, ROOT, below, project_files, source_files
from template.names import check_name
from template.renaming import imports_example, renamed, renamed_path


def create(directory: Path, package: str, title: str, blank: bool, root: Path = ROOT) -> None:
    """Writes a complete project, or nothing if there is an error.

    Args:
        directory: new or empty; outside the template.
        package: name of the project's package in ``src/``.
        title: title of the README and of ``--help``, and the package's description.
        blank: whether to include a small model and data to fill in, instead of the example.
        root: the template's directory.

    Raises:
        SystemExit: the directory, the name or the template is invalid.
    """
    directory = directory.absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise SystemExit(f"error: {directory} must be a new or an empty directory")
    if directory.resolve().is_relative_to(root):
        raise SystemExit(f"error: {directory} must be outside the template, {root}")
    if not title.strip() or not title.isprintable():
        raise SystemExit(f"error: --name must be a line of text, got {title!r}")
    check_name(package, root, blank)
    names = project_files(root, blank)
    if not blank and not ruff():
        raise SystemExit("error: ruff must be installed to sort the renamed imports: `make lint` installs it in .venv")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as place:
        staging = Path(place) / "project"
        _write(staging, names, package, title, blank, root)
        if not blank:
            _tidy(staging)
        write_digests(staging)
        directory.mkdir(exist_ok=True)
        for path in staging.iterdir():
            path.rename(directory / path.name)


def _write(staging: Path, names: list[str], package: str, title: str, blank: bool, root: Path) -> None:
    for name in names:
        source = root / name
        target = staging / (name if below(name, MACHINERY) else renamed_path(name, package))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        if below(name, MACHINERY) or name == "constraints.txt":
            continue
        text = source.read_text(encoding="utf-8")
        new = renamed(text, package)
        if name == "pyproject.toml":
            new = edits.pyproject(new, package, title, blank)
        elif name == "conf/train.yaml" and blank:
            new = edits.train_yaml(new, package, title)
        elif name == ".github/workflows/ci.yaml" and blank:
            new = edits.workflow(new)
        elif name == ".github/guides.md":
            new = edits.guides(text, package, blank)
        elif name == "LICENSE":
            new = edits.license_text(new, package)
        elif name == "Makefile":
            new = edits.makefile(new, blank)
        if name.endswith(".py") and imports_example(new):
            raise SystemExit(f"error: {name} names the example in a way that cannot be renamed")
        if new != text:
            target.write_text(new, encoding="utf-8", newline="\n")
    own = [name for name in source_files(root) if below(name, (BLANK,))]
    for name in own if blank else [f"{BLANK}/README.md"]:
        target = staging / name.removeprefix(f"{BLANK}/").replace("blank", package)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (root / name).read_text(encoding="utf-8").replace("blank", package).replace("BLANK", package.upper())
        target.write_text(text.replace("The title", title), encoding="utf-8", newline="\n")


def ruff() -> str | None:
    """Returns the path of ruff: next to this Python, in ``.venv``, or on ``PATH``."""
    beside = Path(sys.executable).parent, ROOT / ".venv/bin"
    return next(filter(None, (shutil.which("ruff", path=str(place)) for place in beside)), shutil.which("ruff"))


def _tidy(staging: Path) -> None:
    """Sorts imports and wraps lines for ``make lint``, since the new names sort differently and differ in length."""
    for arguments in (
        *(["check", "--select", "I", "--fix"], ["format"]),
        ["check", "--select", "E501", "--add-noqa"],  # strings, which the formatter does not split
    ):
        command = [str(ruff()), *arguments, "--quiet", "--no-cache", "."]
        done = subprocess.run(command, cwd=staging, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"error: ruff {arguments[0]} failed: {(done.stderr or done.stdout).strip()}")
