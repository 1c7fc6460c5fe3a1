"""Runs scripts as a user does, in processes that already have the large libraries, which take seconds to import.

The processes come from the ``forkserver`` of ``multiprocessing``: it has run no test code, and has not imported
``descent`` or a project, so each script imports them itself.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = ("hydra", "lightning.pytorch", "matplotlib.figure", "polars", "pydantic", "torch.utils.tensorboard")


def run_forked(
    command: Sequence[str], cwd: Path, environment: dict[str, str], output: Path, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Like ``subprocess.run``, with warnings as errors.

    Args:
        command: a script and its arguments.
        cwd: the working directory.
        environment: all environment variables.
        output: a directory for the script's output, which is created and removed.
        timeout: in seconds.

    Raises:
        TimeoutExpired: the script took longer and was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LIBRARIES])
    output.mkdir()
    files = output / "stdout", output / "stderr"
    process = context.Process(target=_run, args=(command, cwd, environment, *files))
    process.start()
    process.join(timeout)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    printed, errors = (path.read_text(encoding="utf-8") for path in files)
    for path in files:
        path.unlink()
    output.rmdir()
    if code is None:
        raise subprocess.TimeoutExpired(command, timeout, printed, errors)
    return subprocess.CompletedProcess(command, code, printed, errors)


def _run(command: Sequence[str], cwd: Path, environment: dict[str, str], *files: Path) -> None:
    for number, path in enumerate(files, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [*command]
    added = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(Path(command[0]).parent), *filter(None, added)]
    warnings.simplefilter("error")
    runpy.run_path(command[0], run_name="__main__")
