"""Compare the runs below DIR...: prints a ranking; writes tables, figures and report.html to DIR/compare/."""

from descent import signals

signals.install()

import argparse  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402

from descent.compare import X_AXES  # noqa: E402
from descent.errors import extra  # noqa: E402
from descent.run.command import command  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="directory with runs at any depth")
    parser.add_argument(
        "--group",
        default="",
        help="keys to compare, each at its best setting, for example optimizer,batch.size",
    )
    parser.add_argument("--x", choices=X_AXES, help="x axis of the loss figures; default: all that show something new")
    parser.add_argument("--metric", default="", help="metric to report and rank by; default: the runs' monitor")
    parser.add_argument("--mode", default="", choices=("min", "max"), help="which values of --metric are best")
    parser.add_argument(
        "--target",
        type=float,
        help="training loss to reach: so far above the optimum's, as a fraction of it, for example 0.01",
    )
    parser.add_argument("--target-metric", default="", help="metric of --target instead, for example val/loss")
    arguments = parser.parse_args()

    def run() -> None:
        with extra("figures", "compare.py"):
            from descent.compare.ranking import compare

        given = vars(arguments)
        given["group"] = [key.strip() for key in arguments.group.split(",") if key.strip()]
        try:  # additions for this project's runs
            given["extra"] = import_module("regression.comparison").EXTRA
        except ModuleNotFoundError as error:
            if error.name not in ("regression", "regression.comparison"):
                raise
        compare(**given)

    command(run)


if __name__ == "__main__":
    main()
