"""Detects changes to a project's machinery by SHA-256 digests, in the format of ``sha256sum --check``."""

import re
from hashlib import sha256
from pathlib import Path

from template.files import MACHINERY

DIGESTS = "src/descent/SHA256SUMS"


def write_digests(project: Path) -> None:
    """Writes the digests of a project's machinery to ``DIGESTS``."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(digests(project).items())]
    (project / DIGESTS).write_text("".join(lines), encoding="utf-8", newline="\n")


def digests(project: Path) -> dict[str, str]:
    """Returns the digest of each file of the machinery, by its path in the project; skips ``__pycache__``."""
    paths = [path for place in MACHINERY for path in (project / place).rglob("*") if path.is_file()]
    names = {path.relative_to(project).as_posix(): path for path in paths if "__pycache__" not in path.parts}
    # git may have changed the line endings
    return {n: sha256(p.read_bytes().replace(b"\r\n", b"\n")).hexdigest() for n, p in names.items() if n != DIGESTS}


def changed(project: Path) -> list[str] | None:
    """Returns the files that were changed, added or deleted since; ``None``: there are no saved digests."""
    if not (project / DIGESTS).is_file():
        return None
    lines = (project / DIGESTS).read_text(encoding="utf-8").splitlines()
    before = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    now = digests(project)
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def version(project: Path) -> str:
    """Returns the version of a project's machinery, without importing it."""
    text = (project / "src/descent/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.M)
    return found[1] if found else "unknown"
