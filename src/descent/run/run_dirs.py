"""Defines resolvers for ``conf/train.yaml`` that name output directories below ``logs/``."""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from omegaconf import OmegaConf

from descent.processes import common_name

PROGRESS_BAR = "trainer.enable_progress_bar"  # changes no result
MAX_LENGTH = 120  # of a job's directory; file systems allow 255
MAX_READABLE = 70  # of a run's directory, without the time


def register(logs: Path) -> None:
    """Registers the resolvers ``run_dir``, ``sweep_dir`` and ``job_dir`` with OmegaConf.

    Args:
        logs: the directory for all output. The environment variable that ``conf/train.yaml`` names, by default
            ``DESCENT_LOGS``, overrides it.
    """
    here = Path.cwd()
    unique = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"

    def below(variable: str) -> Path:
        return here / (os.environ.get(variable) or logs)

    def run_dir(name: str | int | None, overrides: list[str], variable: str = "DESCENT_LOGS") -> str:
        short = job_label if common_name() else run_label  # with a common name only the label tells runs apart
        label = _checked(name) if name is not None else short(overrides)
        return str(below(variable) / "runs" / f"{label}_{common_name() or unique}")

    def sweep_dir(name: str | int | None, variable: str = "DESCENT_LOGS") -> str:
        return str(below(variable) / "sweeps" / (_checked(name) if name is not None else unique))

    resolvers: dict[str, Callable[..., str]] = {"run_dir": run_dir, "sweep_dir": sweep_dir, "job_dir": job_label}
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def run_label(overrides: Sequence[str]) -> str:
    """Turns overrides into a short file name, which need not be unique; of a path it keeps the last part."""
    paths_short = (re.sub(r"(\bpath=).*[/\\]", r"\1", override) for override in overrides)
    _, safe = _label(re.sub(r"[][{}'\" ]", "", override) for override in paths_short)
    return safe if len(safe) <= MAX_READABLE else safe[:MAX_READABLE].rpartition(",")[0] or safe[:MAX_READABLE]


def job_label(overrides: Sequence[str]) -> str:
    """Turns overrides into one readable file name: ``batch=full,optimizer=adam``.

    A name that is too long, or has characters unsuitable for file names, is shortened or cleaned and ends in a hash.
    """
    text, safe = _label(overrides)
    if safe == text and len(safe) <= MAX_LENGTH:
        return safe
    return f"{safe[: MAX_LENGTH - 9]}-{sha256(text.encode()).hexdigest()[:8]}"


def in_label(overrides: Iterable[str]) -> list[str]:
    """The overrides that affect training, sorted."""
    unnamed = rf"\+*(name=|launcher=|hydra[./]|{re.escape(PROGRESS_BAR)}=)"
    return sorted(override.lstrip("+~") for override in overrides if not re.match(unnamed, override))


def _label(overrides: Iterable[str]) -> tuple[str, str]:
    """The overrides that affect training, in one text, and the same text with characters for file names only."""
    text = ",".join(in_label(overrides)) or "defaults"
    return text, re.sub(r"[^\w.,=+-]+", "_", text, flags=re.ASCII).strip("._")


def _checked(name: str | int) -> str:
    from descent.config.types import Name, check  # imports pydantic

    return str(check(Name, str(name), "name"))
