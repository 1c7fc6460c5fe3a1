"""Resume an interrupted run in its own directory; trainer.max_epochs=N makes a finished run longer."""

from descent import signals

signals.install()  # before the slow imports: Ctrl-C then ends them without a traceback

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from descent.run.command import command, log_to  # noqa: E402
from descent.run.resume import resume  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="logs/runs/NAME or logs/sweeps/NAME/JOB")
    # without a default, argparse's message says that it is required
    parser.add_argument(
        "length", metavar="trainer.max_epochs=N", nargs="*", default=[], help="a larger number of epochs"
    )
    arguments = parser.parse_args()
    if (arguments.run_dir / ".hydra").is_dir():
        log_to(arguments.run_dir)
    sys.exit(resume(arguments.run_dir, arguments.length).exit_code)


if __name__ == "__main__":
    command(main)
