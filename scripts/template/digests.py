"""What a project's machinery was when it was written, as ``sha256sum --check`` has it: changes to it are seen."""

import re
from hashlib import sha256
from pathlib import Path

from template.files import MACHINERY

DIGESTS = "src/descent/SHA256SUMS"


def write_digests(project: Path) -> None:
    """Beside the machinery, in it."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests(project).items())]
    (project / DIGESTS).write_text("".join(lines), encoding="utf-8", newline="\n")


def digests(project: Path) -> dict[str, str]:
    """Of each file of the machinery but what Python makes, by its path in the project."""
    paths = [path for place in MACHINERY for path in (project / place).rglob("*") if path.is_file()]
    names = {path.relative_to(project).as_posix(): path for path in paths if "__pycache__" not in path.parts}
    # git may have changed the line ends
    return {n: sha256(p.read_bytes().replace(b"\r\n", b"\n")).hexdigest() for n, p in names.items() if n != DIGESTS}


def changed(project: Path) -> list[str] | None:
    """The files that were changed, added or deleted since; ``None``: there are no digests to tell by."""
    if not (project / DIGESTS).is_file():
        return None
    lines = (project / DIGESTS).read_text(encoding="utf-8").splitlines()
    before = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    now = digests(project)
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def version(project: Path) -> str:
    """Of a project's machinery, without importing it."""
    text = (project / "src/descent/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.M)
    return found[1] if found else "one without a number"
