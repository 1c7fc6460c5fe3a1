"""Measure this project against a plain loop, usual Lightning code and bare imports; prints a Markdown table."""

from descent import signals

signals.install()

import argparse  # noqa: E402
import logging  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from itertools import chain  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.measure import HEADER  # noqa: E402
from benchmarks.processes import bare_start_rows, growth_rows, memory_rows, start_rows, sweep_rows  # noqa: E402
from benchmarks.steps import gpu_rows, step_rows  # noqa: E402
from benchmarks.streaming import streaming_rows  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
QUICK = ("step", "start")
PARTS: dict[str, Callable[[bool], Iterator[str]]] = {  # given whether to be quick
    "step": lambda quick: step_rows(CONF, quick),
    "start": lambda quick: chain(start_rows(ROOT, quick), bare_start_rows(ROOT, quick)),
    "sweep": lambda _: sweep_rows(ROOT),
    "memory": lambda _: memory_rows(ROOT),
    "streaming": lambda _: streaming_rows(ROOT),
    "gpu": lambda _: gpu_rows(CONF),
    "growth": lambda _: growth_rows(CONF),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="only step and start, in one short round: a minute")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"PART must be one of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")  # Lightning's advice on the usual Lightning code
    logging.disable(logging.WARNING)
    print(HEADER, flush=True)
    for name, rows in PARTS.items():
        if name in (arguments.parts or PARTS) and (name in QUICK or not arguments.quick):
            for row in rows(arguments.quick):
                print(row, flush=True)


if __name__ == "__main__":
    main()
