"""From the command line to a run, and from an error to one line and an exit code. Imports no torch."""

import logging
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from descent.config import Config, parse
from descent.errors import UserError
from descent.result import EXIT_CODES, Result

log = logging.getLogger(__name__)


def run(main: Callable[[], None]) -> None:
    """Runs a command; an error of the user's becomes one line on stderr and exit code 1."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, and does not print them in its own way
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {one_line(error)}")


def run_job(cfg: DictConfig) -> Result:
    """One run, from Hydra's composed config; whatever happens, ``result.json`` tells how it ended."""
    hydra = HydraConfig.get()
    run_dir = Path(hydra.runtime.output_dir)
    overrides = [o for o in hydra.overrides.task]
    command = shlex.join(["python", "scripts/train.py", *overrides])
    try:
        config = to_config(cfg, hydra.runtime.choices)
        from descent.report import print_choices, print_result
        from descent.train import train  # torch, after the config has passed

        print_choices(config, run_dir)
        result = train(config, run_dir, command)
        print_result(result, run_dir)
    except UserError as error:
        log.error("error: %s", error)
        result = Result("failed", seed=None, command=command, reason=str(error))
        result.write(run_dir)
    return result


def to_config(cfg: DictConfig, choices: DictConfig) -> Config:
    """Hydra's config as a typed and checked ``Config``."""
    tree = OmegaConf.to_container(cfg, resolve=True)
    chosen = {k: str(v) for k, v in choices.items() if not str(k).startswith("hydra/") and v is not None}
    return parse(tree, chosen)


def exit_code(results: list[Result], sweep: bool) -> int:
    """Of a run, or of a sweep: there a run that diverged is a result like any other."""
    codes = [EXIT_CODES[result.status] for result in results]
    if sweep:
        return max((code for code in codes if code != EXIT_CODES["diverged"]), default=0)
    return codes[-1] if codes else 0


def one_line(error: Exception) -> str:
    """Hydra's and OmegaConf's messages, which take several lines, as one that names the key."""
    text = re.sub(r"\s*\n\s*", " ", str(error)).strip()
    return text
