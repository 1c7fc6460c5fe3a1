"""Predict for a file with a finished run; the data module reads INPUT and writes OUTPUT.

In the example: CSV or Parquet in, the same rows with a column "prediction" out.
"""

from descent import signals

signals.install()

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from descent.run.command import command  # noqa: E402
from descent.run.result import run_result  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="logs/runs/NAME or logs/sweeps/NAME/JOB")
    parser.add_argument(
        "input", metavar="INPUT", type=Path, help="in the example: CSV or Parquet with the run's features"
    )
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="in the example: CSV or Parquet")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="default: best, as for test/*")
    arguments = parser.parse_args()
    run_result(arguments.run_dir)  # raises an error before the slow import of torch

    from descent.run.predict import predict

    predict(arguments.run_dir, arguments.input, arguments.output, arguments.checkpoint)
    print(f"predicted with the {arguments.checkpoint} checkpoint", file=sys.stderr)
    print(arguments.output)


if __name__ == "__main__":
    command(main)
