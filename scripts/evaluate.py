"""Compute the test metrics of a finished run's best checkpoint and add them to its evaluation.json."""

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
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="rows to use instead of the test rows, in a format of the data module; in the example CSV or Parquet",
    )
    arguments = parser.parse_args()
    run_result(arguments.run_dir)  # raises an error before the slow import of torch

    from descent.run.evaluate import evaluate

    metrics = evaluate(arguments.run_dir, arguments.checkpoint, arguments.data)
    print(f"evaluated the {arguments.checkpoint} checkpoint", file=sys.stderr)
    width = max(map(len, metrics))
    for name, value in metrics.items():
        print(f"{name:<{width}}  {value:.6g}")
    print(f"saved in {arguments.run_dir / 'evaluation.json'}")


if __name__ == "__main__":
    command(main)
