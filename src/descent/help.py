"""``--help``: every config group, its options, and the first comment line of each option's file."""

from pathlib import Path

HEAD = """\
Train a linear regression by gradient descent.

  python scripts/train.py optimizer=adam batch=full     choose options (below)
  python scripts/train.py optimizer.lr=0.1 seed=1       set any key of the config
  python scripts/train.py -m optimizer=sgd,adam         a sweep: a run for every combination
  python scripts/train.py --cfg job [...]               print the config, run nothing
  python scripts/train.py --hydra-help                  further flags

Config groups and their options:
"""


def help_text(conf: Path) -> str:
    """The text of ``--help`` for the config groups in the directory ``conf``."""
    lines = [HEAD]
    for group in sorted(path for path in conf.iterdir() if path.is_dir()):
        options = sorted(group.glob("*.yaml"))
        width = max(len(option.stem) for option in options)
        lines += [f"{group.name}="]
        lines += [f"  {option.stem:<{width}}  {_first_comment(option)}".rstrip() for option in options]
    return "\n".join(lines)


def _first_comment(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.lstrip("# ")
    return ""
