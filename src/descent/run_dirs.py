"""Where output goes: readable, unique directory names below ``logs/``, as resolvers for ``conf/train.yaml``."""

import os
import re
import secrets
import time
from hashlib import sha256
from pathlib import Path

from omegaconf import OmegaConf

from descent.errors import must
from descent.rules import NAME

MAX_LENGTH = 120  # of a directory's name; file systems end at 255


def register(logs: Path) -> None:
    """Makes ``run_dir``, ``sweep_dir`` and ``job_dir`` known to OmegaConf.

    Args:
        logs: the directory below which all output goes; the environment variable ``DESCENT_LOGS`` goes before.
    """
    logs = Path(os.environ.get("DESCENT_LOGS", logs)).absolute()
    unique = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(3)}"

    def run_dir(name: str | int | None, overrides: list[str]) -> str:
        return str(logs / "runs" / f"{_checked(name) if name is not None else job_dir(overrides)}_{unique}")

    def sweep_dir(name: str | int | None) -> str:
        return str(logs / "sweeps" / (_checked(name) if name is not None else unique))

    def job_dir(overrides: list[str]) -> str:
        return label([o for o in overrides if not re.match(r"\+*name=", o)]) or "defaults"

    for resolver in (run_dir, sweep_dir, job_dir):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def label(overrides: list[str]) -> str:
    """Overrides as one readable file name: ``batch=full,optimizer=adam``; a long one ends in its hash."""
    text = ",".join(sorted(o.lstrip("+~") for o in overrides))
    safe = re.sub(r"[^\w.,=+-]+", "_", text).strip("._")
    if safe == text and len(safe) <= MAX_LENGTH:
        return safe
    return f"{safe[: MAX_LENGTH - 9]}-{sha256(text.encode()).hexdigest()[:8]}"


def _checked(name: str | int) -> str:
    if not NAME.accepts(str(name)):
        raise must("name", NAME.text, name)
    return str(name)
