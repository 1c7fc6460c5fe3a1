"""Compare any runs below DIR...: a ranking here, tables, figures and report.html in DIR/compare/."""

from descent.run import signals

signals.install()

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402

from descent.compare import X_AXES  # noqa: E402
from descent.run.command import command  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="with runs at any depth")
    parser.add_argument(
        "--group", default="", help="hyperparameters to compare, each at its best setting: optimizer,batch.size"
    )
    parser.add_argument("--x", choices=X_AXES, help="of the loss figures; by default one for each")
    parser.add_argument("--target", type=float, default=0.01, help="excess over the optimal loss, as a fraction of it")
    parser.add_argument("--metric", default="", help="what to report, and rank by: val/loss, with --group test/loss")
    arguments = parser.parse_args()

    def run() -> None:
        from descent.compare.report import compare

        group = [key.strip() for key in arguments.group.split(",") if key.strip()]
        compare(arguments.directories, group, arguments.x, arguments.target, arguments.metric)

    command(run)


if __name__ == "__main__":
    main()
