"""Test metrics of a finished run's best checkpoint; also kept in its evaluation.json, beside those of other rows."""

from descent import signals

signals.install()

import argparse  # noqa: E402
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
        help="with other rows than the test rows: CSV or Parquet in the example; the data module decides",
    )
    arguments = parser.parse_args()
    run_result(arguments.run_dir)  # raises before torch comes in, which takes its time

    from descent.run.evaluate import evaluate

    metrics = evaluate(arguments.run_dir, arguments.checkpoint, arguments.data)
    for name, value in metrics.items():
        print(f"{name:<10} {value:.6g}")
    print(f"kept in {arguments.run_dir / 'evaluation.json'}")


if __name__ == "__main__":
    command(main)
