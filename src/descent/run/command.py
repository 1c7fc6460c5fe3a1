"""Runs a command: prints results, and turns errors into one line and an exit code. Imports torch only for a run."""

import gc
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from descent import signals
from descent.config.messages import one_line
from descent.errors import UserError
from descent.processes import is_main, started
from descent.run import streams
from descent.run.result import Result

if TYPE_CHECKING:
    from descent.config.schema import Config

log = logging.getLogger(__name__)


def command(main: Callable[[], None], prints: bool = False) -> None:
    """Runs a command's main function; an error is one line on stderr and exit code 1.

    Args:
        prints: whether printing is the command's purpose; it then fails if standard output cannot be written.
    """
    try:
        _run(main, prints)
    except SystemExit as ended:
        signals.leave_with(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
        raise
    signals.leave_with(0)


def _run(main: Callable[[], None], prints: bool) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing them
    streams.protect()
    logging.raiseExceptions = False  # no traceback if a log file cannot be written
    # TensorBoard's thread ends with an error that the run reports anyway
    threading.excepthook = lambda thread: log.info("in %s: %s", thread.thread, thread.exc_value)
    try:
        main()
        signals.exit_if_received()
    except Exception as error:
        signals.exit_if_received()
        sys.exit(f"error: {one_line(error)}")
    finally:
        signals.ignore()
        if why := streams.lost():
            print(f"{'error' if prints else 'note'}: cannot write to standard output: {why}", file=sys.stderr)
    if prints and why:
        sys.exit(1)


def run_safely(
    configure: Callable[[], "Config"],
    run_dir: Path,
    command: str,
    resume: bool = False,
    brief: bool = False,
    longer: bool = False,
    on_start: Callable[[], None] | None = None,
) -> Result:
    """Trains and prints the result; ``result.json`` records how the run ended, even after an error.

    An error is one line on the console; its traceback is in ``train.log``.

    Args:
        configure: returns the config, or raises an error that says what is wrong with it.
        run_dir: the run's own directory.
        command: recorded in the result.
        resume, longer, on_start: as in ``descent.run.train.train``.
        brief: print one line instead of the settings and the tables.
    """
    config = None
    try:
        config = configure()
        new = "torch" not in sys.modules
        from descent.run.console import print_choices, print_line, print_result  # imports torch
        from descent.run.train import train

        if new:
            gc.freeze()  # the libraries' objects live on: scanning them repeatedly costs a tenth of a run
        gc.enable()  # scripts/train.py disables it
        if not brief and is_main():
            print_choices(config, run_dir)
        result = train(config, run_dir, command, resume=resume, longer=longer, on_start=on_start, in_sweep=brief)
    except Exception as error:
        signals.exit_if_received()
        result = Result("failed", config.seed if config else None, command, one_line(error))
        if config is None and is_main():  # otherwise train has written the result
            with suppress(UserError):  # the disk may be what failed
                result.write_unless_trained(run_dir)
        if (process := started()) is not None and process.rank:
            # the other processes have no log file
            log.error("process %d: %s", process.rank, result.reason, exc_info=not isinstance(error, UserError))
            return result
        log.error("error: %s", result.reason)
        log.info("The traceback:", exc_info=error)  # for the log file; the console shows WARNING and above
        if not isinstance(error, UserError):
            log.error("the traceback is in %s", run_dir / "train.log")
        return result
    if not is_main():
        return result
    if brief:
        print_line(result)
    else:
        print_result(result, run_dir)
    if result.status == "interrupted":
        print(f"python scripts/resume.py {shlex.quote(str(run_dir))}   resumes this run", flush=True)
    return result


def log_to(run_dir: Path) -> None:
    """Sets up logging as Hydra does for ``train.py``: warnings and errors on the console, all in ``train.log``."""
    if not is_main():
        logging.basicConfig(level=logging.ERROR, format="%(message)s")
        return
    console, file = logging.StreamHandler(), logging.FileHandler(run_dir / "train.log", encoding="utf-8")
    console.setLevel(logging.WARNING)
    console.setFormatter(logging.Formatter("%(message)s"))
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[console, file])
