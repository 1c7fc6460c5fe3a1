"""Writes ``--help``: the first sentence of ``train.yaml`` and of every option of every config group."""

import re
import textwrap
from pathlib import Path
from shutil import get_terminal_size

import yaml  # type: ignore[import-untyped, unused-ignore]  # OmegaConf brings it

USAGE = """
  python scripts/train.py optimizer=adam batch=full     choose options (below)
  python scripts/train.py optimizer.lr=0.1 seed=1       set any key of the config
  python scripts/train.py -m optimizer=sgd,adam         a sweep: every combination
  python scripts/train.py --cfg job [...]               print the config, run nothing
  python scripts/train.py --hydra-help                  further flags

Config groups and their options, * the defaults:
"""


def help_text(conf: Path) -> str:
    """The text of ``--help`` for the config groups in the directory ``conf``."""
    lines = [first_sentence(conf / "train.yaml"), USAGE]
    defaults = _defaults(conf / "train.yaml")
    for group in sorted(path for path in conf.iterdir() if path.is_dir()):
        options = sorted(group.glob("*.yaml"))
        width = max((len(option.stem) for option in options), default=0)
        lines.append(f"{group.name}=")
        for option in options:
            name = f"{'*' if option.stem in defaults.get(group.name, ()) else ' '} {option.stem:<{width}}"
            lines += textwrap.wrap(
                first_sentence(option).removesuffix("."),
                width=get_terminal_size().columns,
                initial_indent=f"{name}  ",
                subsequent_indent=" " * (width + 4),
            ) or [name.rstrip()]
    return "\n".join(lines)


def _defaults(path: Path) -> dict[str, list[str]]:
    """The options that the defaults list of ``train.yaml`` chooses, by group."""
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    entries = [entry for entry in tree.get("defaults", []) if isinstance(entry, dict)]
    return {
        group: chosen if isinstance(chosen, list) else [chosen] for entry in entries for group, chosen in entry.items()
    }


def first_sentence(path: Path) -> str:
    """The first sentence of the comment that opens a config file."""
    comment: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.rstrip() == "#":
            break
        if "@package" not in line:
            comment.append(line.lstrip("# "))
    return re.split(r"(?<=[^.]\.)(?: |$)", " ".join(comment))[0]
