"""A run as a command does it: what it prints, and what becomes of an error. Imports no torch by itself."""

import gc
import io
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from descent import signals
from descent.config import Config
from descent.errors import UserError
from descent.hparams import flat_hparams
from descent.messages import one_line
from descent.result import Result

log = logging.getLogger(__name__)


def command(main: Callable[[], None]) -> None:
    """Runs a command's main function; an error is one line on stderr and exit code 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, and does not print them in its own way
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a column's name may have letters that the terminal has not
    logging.raiseExceptions = False  # a log file that cannot be written must not print a traceback of its own
    # TensorBoard's thread ends with an error that the run reports as well
    threading.excepthook = lambda thread: log.info("in %s: %s", thread.thread, thread.exc_value)
    try:
        main()
    except Exception as error:
        sys.exit(f"error: {one_line(error)}")
    finally:
        signals.ignore()


def run_safely(
    configure: Callable[[], Config], run_dir: Path, command: str, resume: bool = False, brief: bool = False
) -> Result:
    """Trains and reports; whatever happens, ``result.json`` tells how it ended.

    An error is one line on the console, and its traceback is in ``train.log``.

    Args:
        configure: gives the config, or raises what is wrong with it.
        run_dir: the run's own directory.
        command: recorded in the result.
        resume: go on from the last checkpoint.
        brief: print a line in place of the settings and the tables.
    """
    config: Config | None = None
    try:
        config = configure()
        new = "torch" not in sys.modules
        from descent.report import print_choices  # torch comes in here, after the config has passed
        from descent.train import train

        if new:
            gc.freeze()  # the libraries' objects stay: looking through them again and again costs a tenth of a run
        gc.enable()  # scripts/train.py does without it until here
        with suppress(OSError):  # nobody may be reading: that is no reason not to train
            if not brief:
                print_choices(config, run_dir)
        result = train(config, run_dir, command, resume=resume)
    except Exception as error:
        reason = one_line(error)
        log.error("error: %s", reason)
        log.info("The traceback:", exc_info=error)  # for the log file; the console begins at WARNING
        if not isinstance(error, UserError):
            log.error("the traceback is in %s", run_dir / "train.log")
        known = {"seed": config.seed, "hparams": flat_hparams(config)} if config else {"seed": None}
        result = Result("failed", command=command, reason=reason, **known)
        with suppress(UserError):  # the disk may be what failed
            result.write(run_dir)
        return result
    from descent.report import print_line, print_result

    with suppress(OSError):
        (print_line if brief else print_result)(result, run_dir)
        if result.status == "interrupted":
            print(f"python scripts/resume.py {shlex.quote(str(run_dir))}   goes on from here", flush=True)
    return result


def log_to(run_dir: Path) -> None:
    """What Hydra sets up for ``train.py``: warnings and errors on the console, everything in ``train.log``."""
    console, file = logging.StreamHandler(), logging.FileHandler(run_dir / "train.log", encoding="utf-8")
    console.setLevel(logging.WARNING)
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[console, file])
