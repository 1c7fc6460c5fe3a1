"""Create a project from this template in DIR, or upgrade the machinery of an existing one to this version."""

import argparse
import signal
import sys
from pathlib import Path

from template.create import create
from template.upgrade import upgrade


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="new or empty directory; with --upgrade, a project")
    parser.add_argument("--package", metavar="NAME", help="name of the package in src/, in lowercase")
    parser.add_argument("--name", metavar="TITLE", help="title of the README; default: the package's name")
    parser.add_argument("--blank", action="store_true", help="a small model to fill in, instead of the example")
    parser.add_argument("--upgrade", action="store_true", help="replace only src/descent and src/hydra_plugins")
    parser.add_argument("--force", action="store_true", help="with --upgrade: overwrite files changed in DIR")
    given = parser.parse_args()
    if given.upgrade and (given.package or given.name or given.blank):
        parser.error("--upgrade takes no --package, --name or --blank")
    if given.force and not given.upgrade:
        parser.error("--force needs --upgrade")
    if not given.upgrade and not given.package:
        parser.error("--package NAME is needed")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # removes partial files
    try:
        if given.upgrade:
            print(upgrade(given.directory, given.force))
        else:
            create(given.directory, given.package, given.name or given.package, given.blank)
            print(f"{given.directory}: a new project with the package {given.package}; `make train` there sets it up")
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
