"""From the command line to a run, and from an error to one line and an exit code. Imports no torch."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from descent.config import Config
from descent.errors import UserError
from descent.help import help_text
from descent.hparams import GROUPS
from descent.messages import one_line
from descent.parse import parse
from descent.result import Result

log = logging.getLogger(__name__)


def run(main: Callable[[], None], conf: Path) -> None:
    """Runs a Hydra command; an error before its first run is one line on stderr and exit code 1.

    Args:
        main: decorated with ``hydra.main``.
        conf: the directory of the config groups, for ``--help``.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(conf))
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, and does not print them in its own way
    logging.raiseExceptions = False  # a log file that cannot be written must not print a traceback of its own
    try:
        main()
    except Exception as error:
        sys.exit(f"error: {one_line(error)}")


def run_job(cfg: DictConfig) -> None:
    """One run, from Hydra's composed config; whatever happens, ``result.json`` tells how it ended.

    Outside a sweep the process ends with the run's exit code; a sweep goes on (see ``descent.sweep``).
    """
    hydra = HydraConfig.get()
    run_dir = Path(hydra.runtime.output_dir)
    command = shlex.join(["python", "scripts/train.py", *hydra.overrides.task])
    result = run_safely(lambda: to_config(cfg, hydra.runtime.choices), run_dir, command)
    if hydra.mode != RunMode.MULTIRUN and result.status != "completed":
        sys.exit(result.exit_code)


def run_safely(configure: Callable[[], Config], run_dir: Path, command: str, resume: bool = False) -> Result:
    """Trains and reports; an error is one line on the console, with the traceback in ``train.log`` and a result."""
    try:
        config = configure()
        from descent.report import print_choices  # torch comes in here, after the config has passed
        from descent.train import train

        print_choices(config, run_dir)
        result = train(config, run_dir, command, resume=resume)
    except Exception as error:
        reason = one_line(error)
        log.error("error: %s", reason)
        if not isinstance(error, UserError):
            log.info("The traceback:", exc_info=error)  # for the log file; the console begins at WARNING
            log.error("the traceback is in %s", run_dir / "train.log")
        result = Result("failed", seed=None, command=command, reason=reason)
        with suppress(UserError):  # the disk may be what failed
            result.write(run_dir)
        return result
    from descent.report import print_result

    print_result(result, run_dir)
    if result.status == "interrupted":
        print(f"python scripts/resume.py {shlex.quote(str(run_dir))} goes on from here")
    return result


def load_config(conf: Path, overrides: Sequence[str]) -> Config:
    """The checked config of a command line, for tests, notebooks and other programs.

    Args:
        conf: the directory of the config groups.
        overrides: as on the command line: ``["optimizer=adam", "optimizer.lr=0.1"]``.

    Raises:
        UserError: a value breaks its rule.
        HydraException: an unknown option or key.
    """
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        composed = compose("train", list(overrides), return_hydra_config=True)
    keys = [str(key) for key in composed if key != "hydra"]
    return to_config(OmegaConf.masked_copy(composed, keys), composed.hydra.runtime.choices)


def to_config(cfg: DictConfig, choices: Mapping[str, Any]) -> Config:
    """Hydra's config as a typed and checked ``Config``."""
    chosen = {str(k): v for k, v in choices.items() if not str(k).startswith("hydra/") and v is not None}
    for group in GROUPS:
        if group in cfg and group not in chosen:  # Hydra takes optimizer=[sgd,adam] and merges the two
            raise UserError(f"{group} must be one option: -m {group}=... runs several, one after another")
    tree = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(tree, dict)
    return parse({str(k): v for k, v in tree.items()}, chosen)
