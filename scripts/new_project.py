"""Write a project of one's own from this template into DIR, or bring the machinery of one up to this version."""

import argparse
import signal
import sys
from pathlib import Path

from template.create import create
from template.upgrade import upgrade


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="new or empty; with --upgrade, a project")
    parser.add_argument("--package", metavar="NAME", help="of the package in src/, lowercase")
    parser.add_argument("--name", metavar="TITLE", help="heads its README; the package's if not given")
    parser.add_argument("--blank", action="store_true", help="a small model to fill in, in place of the example")
    parser.add_argument("--upgrade", action="store_true", help="replace src/descent and src/hydra_plugins, no more")
    parser.add_argument("--force", action="store_true", help="with --upgrade: though they were changed in DIR")
    given = parser.parse_args()
    if given.upgrade and (given.package or given.name or given.blank):
        parser.error("--upgrade takes no --package, --name or --blank")
    if given.force and not given.upgrade:
        parser.error("--force is for --upgrade")
    if not given.upgrade and not given.package:
        parser.error("--package NAME is needed")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what was begun is cleared away
    try:
        if given.upgrade:
            print(upgrade(given.directory, given.force))
        else:
            create(given.directory, given.package, given.name or given.package, given.blank)
            print(f"{given.directory}: a project whose package is {given.package}. `make train` there is its set-up.")
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
