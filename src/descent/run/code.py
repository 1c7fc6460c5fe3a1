"""Detects changes in the project's own code since a run started. Does not import that code."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from descent.config.schema import PACKAGES, Config
from descent.config.targets import nested_targets
from descent.errors import note_once


def code_digests(config: Config) -> dict[str, str]:
    """Returns a digest of the Python files of each package that a ``_target_`` names, by the name of the package."""
    parts = [config.model, config.data, config.optimizer, config.scheduler, config.callbacks]
    names = {spec["_target_"].partition(".")[0] for spec in nested_targets(parts)} - {*PACKAGES}
    return {name: _digest(name) for name in sorted(names)}


def note_changes(before: Any, config: Config, since: str) -> None:
    """Logs which packages have changed since the digests ``before`` were written; older versions wrote none."""
    known = before if isinstance(before, dict) else {}
    changed = [name for name, digest in code_digests(config).items() if known.get(name, digest) != digest]
    if changed:
        note_once(f"the code of {' and '.join(changed)} has changed since {since}")


def other_code_note(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str | None:
    """Names the packages whose code differs between runs, and the runs unlike most (in a tie: unlike the last).

    Args:
        names: of the runs.

    Returns:
        a line; ``None``: all runs used the same code.
    """
    codes = [result.get("code") or {} for result in results]  # older versions wrote none
    packages, others = [], set[int]()
    for package in sorted({package for code in codes for package in code}):
        (most, _), *rest = Counter(code[package] for code in reversed(codes) if package in code).most_common()
        if rest:
            packages.append(package)
            others |= {number for number, code in enumerate(codes) if code.get(package, most) != most}
    if not packages:
        return None
    named = [names[number] for number in sorted(others)]
    shown = "; ".join(named[:5]) + (f"; {len(named) - 5} more" if len(named) > 5 else "")
    return f"the code of {' and '.join(packages)} differs between runs; unlike most: {shown}"


@cache  # the imported code stays the same, even if the files change
def _digest(name: str) -> str:
    digest = sha256()
    with suppress(ImportError, OSError, ValueError):  # a class defined in a notebook has no file
        spec = find_spec(name)
        for place in (spec.submodule_search_locations or [str(spec.origin)]) if spec else []:
            root = Path(place)
            for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
                digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
