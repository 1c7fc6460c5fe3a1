"""Starts a run from Hydra's command line and config. Imports no torch."""

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser  # hydra.main has no other way to its flags
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from descent.config import loader
from descent.config.composing import main_config
from descent.config.help import help_text
from descent.config.hparams import GROUPS
from descent.config.runtime import UNKNOWN, in_run_dir, with_runtime
from descent.errors import UserError, invalid
from descent.files import is_locked, write_atomically
from descent.processes import common_name
from descent.run.command import command, run_safely
from descent.run.result import Result, Status, is_finished, read_result
from descent.signals import asked_to_stop, stop_mark

if TYPE_CHECKING:
    from descent.config.schema import Config

SEVERAL = ("callbacks", "logger")  # groups that take several options, each under its own key


def run(main: Callable[[], None], conf: Path) -> None:
    """Runs a Hydra command, with the project's ``--help`` in place of Hydra's.

    Args:
        main: a function decorated with ``hydra.main``.
        conf: the directory of the config groups.
    """

    arguments = _arguments()

    def checked() -> None:
        if arguments.help:
            print(help_text(conf))
            return
        loader.install(conf, arguments)
        main()

    given = vars(arguments)
    command(checked, prints=any(given[name] for name in ("help", "hydra_help", "cfg", "info", "shell_completion")))


def _arguments() -> argparse.Namespace:
    """Parses the command line as Hydra does, and moves flags behind the overrides, so that Hydra accepts any order."""
    parser = get_args_parser()
    parser.error = lambda message: sys.exit(f"error: {message}: --hydra-help lists the flags")  # type: ignore
    arguments = parser.parse_intermixed_args()
    flags = [word for word in sys.argv[1:] if word != "--"]
    for override in arguments.overrides:
        flags.remove(override)  # only once: the value of a flag may be the same word
    sys.argv[1:] = [*arguments.overrides, *flags]
    return arguments


def run_job(cfg: DictConfig) -> Result:
    """Does one run from Hydra's composed config.

    A single run that does not complete ends the process with its exit code. A job of a sweep returns its result, and
    resumes from its last checkpoint if it was interrupted.
    """
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    line = shlex.join(["python", "scripts/train.py", *hydra.overrides.task])
    run_dir = Path(hydra.runtime.output_dir)
    overrides = hydra.overrides.task
    if sweep and (ended := _ended_before(run_dir)):
        return Result(ended, cfg.seed, line)
    # after a failure or a preemption, torchrun and Slurm start the run again in the same directory
    again = common_name() is not None and (run_dir / "checkpoints/last.ckpt").is_file()
    result = run_safely(
        lambda: to_config(cfg, hydra.runtime, overrides), run_dir, line, resume=sweep or again, brief=sweep
    )
    if not sweep and result.status != "completed":
        sys.exit(result.exit_code)
    return result


def _ended_before(run_dir: Path) -> Status | None:
    """Returns how a job of a sweep has already ended; ``None``: it has to be run.

    Waits while another process still runs the job, as after a sweep was killed. A job that a cluster has requeued may
    have ended just before.
    """
    mark, waits = stop_mark(run_dir.parent), False
    while asked_to_stop(mark) is None and is_locked(run_dir):
        if not waits:
            print(f"waiting for {run_dir.name}, which another process is running", flush=True)
        waits = True
        time.sleep(1)
    if asked_to_stop(mark) is not None:
        return "interrupted"
    return read_result(run_dir)["status"] if is_finished(run_dir) else None


def load_config(conf: Path, overrides: Sequence[str], run_dir: Path | None = None) -> "Config":
    """Returns the checked config for a list of overrides; for tests, notebooks and other programs.

    Args:
        conf: the directory of the config groups.
        overrides: as on the command line: ``["optimizer=adam", "optimizer.lr=0.1"]``.
        run_dir: if given, the config is saved there in ``.hydra``, as by ``train.py``, for ``evaluate.py``,
            ``predict.py`` and ``resume.py``. A config that uses ``${hydra:runtime.output_dir}`` needs it to train.

    Raises:
        UserError: a value breaks its rule, or ``run_dir`` has a finished run of another config.
        HydraException: an unknown option or key.
    """
    from descent.config.identity import config_digest

    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        composed = compose("train", list(overrides), return_hydra_config=True)
    tree = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    runtime: Any = OmegaConf.merge(
        composed.hydra.runtime, {"output_dir": str(run_dir.absolute()) if run_dir else UNKNOWN}
    )
    config = to_config(tree, runtime, overrides)
    if run_dir is not None:
        if is_finished(run_dir) and read_result(run_dir).get("config_digest") != config_digest(config):
            raise invalid("run_dir", "a directory without a finished run of another config", str(run_dir))
        (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
        known = {key: runtime[key] for key in ("choices", "cwd", "output_dir")}
        for name, node in (("config", tree), ("hydra", OmegaConf.create({"hydra": {"runtime": known}}))):
            write_atomically(run_dir / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(node).encode())
    return config


def to_config(cfg: DictConfig, runtime: Any, overrides: Sequence[str] = (), saved: bool = False) -> "Config":
    """Converts Hydra's config to a typed and checked ``Config``.

    Args:
        cfg: the config without its ``hydra`` node.
        runtime: ``hydra.runtime``: the chosen options, the directory that relative paths start from, and the run's own.
        overrides: from the command line; those without effect are kept in ``unused``.
        saved: whether it was saved by a run, so that its keys have been checked already.
    """
    from descent.config.parse import parse  # imports pydantic
    from descent.config.schema import Config, keys_of
    from descent.config.unused import unused_keys

    given, cfg = cfg, with_runtime(cfg, runtime)
    choices = {str(group): option for group, option in runtime.choices.items() if option is not None}
    # the launcher belongs to the sweep, not to its jobs
    chosen = {
        group: option for group, option in choices.items() if group.partition("/")[0] not in ("hydra", "launcher")
    }
    chosen = {group: ",".join(map(str, cfg[group])) for group in SEVERAL if cfg.get(group)} | chosen
    for group in (*GROUPS, "experiment", "debug"):
        if group not in runtime.choices and group not in SEVERAL and (group in cfg or group not in GROUPS):
            # Hydra accepts optimizer=[sgd,adam] and merges the two
            raise UserError(f"{group} must be one option: -m {group}=... runs several, one after another")
    if lacking := [key for key in keys_of(Config, needed=True) if key not in cfg]:
        raise UserError(f"{lacking[0]} is missing")  # before resolving fails at a key that interpolates it
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    own = [*tree] if saved else _own_keys(runtime) if {*tree} - {*keys_of(Config)} else []
    links = dict(_links(raw)) | (in_run_dir(given, runtime) if cfg is not given else {})
    config = parse({str(k): v for k, v in tree.items()}, chosen, Path(runtime.cwd), own, links)
    return replace(config, unused=unused_keys(cfg, runtime.choices, overrides))


def _links(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yields each interpolated key below ``path`` with the key that it refers to, or "" if there is not exactly one."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _links(value, f"{path}{key}.")
        elif isinstance(value, str) and re.search(r"(?<!\\)\$\{", value):
            source = re.fullmatch(r"\$\{(\w[\w.]*)\}", value)
            yield f"{path}{key}", source[1] if source else ""


def _own_keys(runtime: Any) -> list[str]:
    """Returns the top-level keys of the project's ``train.yaml``, and its config groups."""
    mains = [source.path for source in runtime.get("config_sources") or [] if source.provider == "main"]
    keys = [str(key) for path in mains for key in main_config(Path(path).resolve())]
    return keys + [str(group).partition("/")[0] for group in runtime.choices]
