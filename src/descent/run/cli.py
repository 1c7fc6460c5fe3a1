"""From Hydra's command line and config to a run. Imports no torch."""

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
from descent.errors import UserError, invalid
from descent.files import is_locked, write_atomically
from descent.processes import common_name
from descent.run.command import command, run_safely
from descent.run.result import Result, Status, is_finished, read_result
from descent.signals import asked_to_stop, stop_mark

if TYPE_CHECKING:
    from descent.config.schema import Config

SEVERAL = ("callbacks", "logger")  # groups of which several options may be chosen, each with a node of its own


def run(main: Callable[[], None], conf: Path) -> None:
    """Runs a Hydra command, with a ``--help`` of the project's own.

    Args:
        main: decorated with ``hydra.main``.
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
    """The command line as Hydra reads it, flags in the midst of the overrides included: it then gets them last."""
    parser = get_args_parser()
    parser.error = lambda message: sys.exit(f"error: {message}: --hydra-help lists the flags")  # type: ignore
    arguments = parser.parse_intermixed_args()
    flags = [word for word in sys.argv[1:] if word != "--"]
    for override in arguments.overrides:
        flags.remove(override)  # once: a flag's value may be the same word
    sys.argv[1:] = [*arguments.overrides, *flags]
    return arguments


def run_job(cfg: DictConfig) -> Result:
    """One run, from Hydra's composed config.

    Outside a sweep the process ends with the run's exit code. A sweep goes on, and a job of it that was interrupted
    goes on from its last checkpoint.
    """
    hydra = HydraConfig.get()
    sweep = hydra.mode == RunMode.MULTIRUN
    line = shlex.join(["python", "scripts/train.py", *hydra.overrides.task])
    run_dir = Path(hydra.runtime.output_dir)
    overrides = hydra.overrides.task
    if sweep and (ended := _ended_before(run_dir)):
        return Result(ended, cfg.seed, line)
    # torchrun and Slurm start a run once more in its own directory, after a failure or a preemption
    again = common_name() is not None and (run_dir / "checkpoints/last.ckpt").is_file()
    result = run_safely(
        lambda: to_config(cfg, hydra.runtime, overrides), run_dir, line, resume=sweep or again, brief=sweep
    )
    if not sweep and result.status != "completed":
        sys.exit(result.exit_code)
    return result


def _ended_before(run_dir: Path) -> Status | None:
    """How a job of a sweep has ended before it began here; ``None``: it begins.

    A job of a sweep that was killed may still be at work: it is waited for. One that a cluster queues again may have
    ended in the last moment.
    """
    mark, waits = stop_mark(run_dir.parent), False
    while asked_to_stop(mark) is None and is_locked(run_dir):
        if not waits:
            print(f"waiting for {run_dir.name}, at work in another process", flush=True)
        waits = True
        time.sleep(1)
    if asked_to_stop(mark) is not None:
        return "interrupted"
    return read_result(run_dir)["status"] if is_finished(run_dir) else None


def load_config(conf: Path, overrides: Sequence[str], run_dir: Path | None = None) -> "Config":
    """The checked config of a command line, for tests, notebooks and other programs.

    Args:
        conf: the directory of the config groups.
        overrides: as on the command line: ``["optimizer=adam", "optimizer.lr=0.1"]``.
        run_dir: of the run that is to have it: kept there in ``.hydra``, as ``train.py`` does, for ``evaluate.py``,
            ``predict.py`` and ``resume.py``.

    Raises:
        UserError: a value breaks its rule, or ``run_dir`` has a finished run of another config.
        HydraException: an unknown option or key.
    """
    from descent.config.identity import config_digest

    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        composed = compose("train", list(overrides), return_hydra_config=True)
    tree = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    config = to_config(tree, composed.hydra.runtime, overrides)
    if run_dir is not None:
        if is_finished(run_dir) and read_result(run_dir).get("config_digest") != config_digest(config):
            raise invalid("run_dir", "a directory without a finished run of another config", str(run_dir))
        (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
        runtime = {key: composed.hydra.runtime[key] for key in ("choices", "cwd")}
        for name, node in (("config", tree), ("hydra", OmegaConf.create({"hydra": {"runtime": runtime}}))):
            write_atomically(run_dir / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(node).encode())
    return config


def to_config(cfg: DictConfig, runtime: Any, overrides: Sequence[str] = (), saved: bool = False) -> "Config":
    """Hydra's config as a typed and checked ``Config``.

    Args:
        cfg: without the node ``hydra``.
        runtime: of it, ``hydra.runtime``: the options that were chosen, and the directory that relative paths start at.
        overrides: of the command line, of which those that go nowhere are kept in ``unused``.
        saved: it is that of a run, whose keys have been checked before.
    """
    from descent.config.parse import parse  # pydantic comes in here
    from descent.config.schema import Config, keys_of
    from descent.config.unused import unused_keys

    choices = {str(group): option for group, option in runtime.choices.items() if option is not None}
    # who does the jobs of a sweep is nothing of the jobs'
    chosen = {
        group: option for group, option in choices.items() if group.partition("/")[0] not in ("hydra", "launcher")
    }
    chosen = {group: ",".join(map(str, cfg[group])) for group in SEVERAL if cfg.get(group)} | chosen
    for group in (*GROUPS, "experiment", "debug"):
        if group not in runtime.choices and group not in SEVERAL and (group in cfg or group not in GROUPS):
            # Hydra takes optimizer=[sgd,adam] and merges the two
            raise UserError(f"{group} must be one option: -m {group}=... runs several, one after another")
    if lacking := [key for key in keys_of(Config, needed=True) if key not in cfg]:
        raise UserError(f"{lacking[0]} is missing")  # before other keys are found to be interpolated from it
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    tree: Any = OmegaConf.to_container(cfg, resolve=True)
    own = [*tree] if saved else _own_keys(runtime) if {*tree} - {*keys_of(Config)} else []
    config = parse({str(k): v for k, v in tree.items()}, chosen, Path(runtime.cwd), own, dict(_links(raw)))
    return replace(config, unused=unused_keys(cfg, runtime.choices, overrides))


def _links(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """The keys below ``path`` whose value is interpolated, each with the key whose value it is, or an empty text."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _links(value, f"{path}{key}.")
        elif isinstance(value, str) and re.search(r"(?<!\\)\$\{", value):
            source = re.fullmatch(r"\$\{(\w[\w.]*)\}", value)
            yield f"{path}{key}", source[1] if source else ""


def _own_keys(runtime: Any) -> list[str]:
    """What stands at the top of the project's ``train.yaml``."""
    mains = [source.path for source in runtime.get("config_sources") or [] if source.provider == "main"]
    return [str(key) for path in mains for key in main_config(Path(path).resolve())]
