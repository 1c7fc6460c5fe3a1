"""Turns the errors of Hydra, OmegaConf and others into one line that names the key."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from traceback import walk_tb
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from descent.config.hparams import GROUPS
from descent.config.source import SUPPLIED, find, signature_of
from descent.errors import UserError, invalid

# words of a library's message, and what it means here
MEANINGS = {
    "Config group override must be": "an option of a config group must be a name: --help lists the groups and their"
    " options",
    "RecursionError": "a value is nested too deeply",
    "Automatic gradient clipping is not supported": "clip must be none with manual optimization, where training_step"
    " clips by self.clip_gradients",
}

LONGEST = 500  # characters of a library's message; its traceback has all of it

# classes of Lightning, torch and torchmetrics that a project derives its own from
OWN_CLASSES = {"LightningModule", "LightningDataModule", "Callback", "Dataset", "Sampler", "Metric"}
LIBRARIES = ("lightning.", "torch.", "torchmetrics.", "descent.")

# each with the extra that installs it
LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}

# torch puts a worker's whole traceback into one message, with the error at the end
IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker.*\n(?:\S+\.)?(\1\b.*)", re.DOTALL)


def one_line(error: BaseException) -> str:
    """The message for any error, in one line; if a ``UserError`` caused it, that error's message."""
    if found := IN_WORKER.search(str(error)):
        return f"{_joined(found[2]).removeprefix('UserError: ')} (in a DataLoader worker)"
    cause: BaseException | None = error
    while cause and not isinstance(cause, UserError):  # Hydra wraps errors of resolvers
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return _joined(str(cause))  # a column's name may contain a line feed
    text = _joined(str(error))
    if found := re.search(r"Could not find '(.*?)' Available options in '(.+?)': (.+?) Config search", text):
        return _no_option(*found.groups())
    if found := re.search(r"Could not (?:find|load) '([\w/-]+)/([^/']*)'", text):
        return (
            _no_group(found[1]) or f"{found[1]} has no option {found[2]!r}: --help lists the groups and their options"
        )
    if found := re.search(r"Could not override '(.+?)'\.", text):
        return unknown(found[1], error.__cause__)
    if meanings := [meaning for words, meaning in MEANINGS.items() if words in f"{type(error).__name__}: {text}"]:
        return meanings[0]
    if "LexerNoViableAltException" in text or "mismatched input" in text:
        text = text.split(" See ")[0].removeprefix("LexerNoViableAltException: ").removesuffix(" ^")
        return f"{text}: a value with spaces or special characters needs quotes, key='\"value\"'"
    if found := re.match(r"(Early|Reduce).* conditioned on metric `?(.+?)`? which .*?: \[?(.+?)(?:\]|$)", text):
        key = "scheduler.monitor" if found[1] == "Reduce" else "monitor of the EarlyStopping in callbacks"
        logged = re.sub("[`']", "", found[3])
        return str(invalid(key, f"a metric that is logged ({logged})", found[2]))
    if type(error).__module__.startswith(("hydra.", "omegaconf.")):
        text, _, key = text.removesuffix(" object_type=dict").partition(" full_key: ")
        if found := re.search(r"Interpolation key '(\w+)", text):
            node: Any = getattr(error, "parent_node", None)  # where OmegaConf looked for it
            text += _similar(found[1], [*map(str, node._get_root())] if node is not None else [])
        return _refused_argument(text, key) or (f"{key}: {text}" if key else text)
    if isinstance(error, OSError) and error.strerror and error.filename is None and HydraConfig.initialized():
        return f"cannot write to {HydraConfig.get().runtime.output_dir}: {error.strerror}"
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."  # torch lists all its backends
    where = error.filename if isinstance(error, SyntaxError) else own_method(error)
    return f"{type(error).__name__} in {where}: {text}" if where else f"{type(error).__name__}: {text}"


def _similar(name: str, known: Iterable[str]) -> str:
    """What to add to a message about a name that does not exist."""
    close = difflib.get_close_matches(name, [other for other in known if other != name], n=1)
    return f": did you mean {close[0]}?" if close else ""


def _no_group(group: str) -> str | None:
    """The message for a group that ``conf/`` does not have; ``None``: it has it."""
    from descent.config.loader import Loader  # imports Hydra's

    conf: Path | None = getattr(Loader, "conf", None)
    if conf is None or (conf / group).is_dir():
        return None
    groups = [path.name for path in conf.iterdir() if path.is_dir()]
    return f"{group} is not a config group{_similar(group, groups) or ': --help lists them'}"


def _no_option(path: str, group: str, options: str) -> str:
    if (name := path.removeprefix("hydra/launcher/")) in LAUNCHERS:
        return f"launcher={name} needs a plugin: pip install -c constraints.txt -e '.[{LAUNCHERS[name]}]'"
    return f"{group} must be one of {', '.join(options.split())}, got {path.removeprefix(f'{group}/')!r}"


def _refused_argument(text: str, path: str) -> str | None:
    found = re.match(r"Error in call to target '([\w.]+)'.* unexpected keyword argument '(\w+)'", text)
    if not found:
        return None
    known = _arguments(found[1])
    return f"{path}.{found[2]} is not a key{_similar(found[2], known) or ': it has ' + ', '.join(known)}"


def own_method(error: BaseException) -> str | None:
    """The method of a project's own class that raised the error: ``MyData.train_dataloader``."""
    found = None
    for frame, _ in walk_tb(error.__traceback__):
        kinds = {kind.__name__ for kind in type(frame.f_locals.get("self")).__mro__}
        if kinds & OWN_CLASSES and not str(frame.f_globals.get("__name__")).startswith(LIBRARIES):
            found = frame.f_code.co_qualname
    return found


def _joined(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).strip()


def unknown(key: str, error: BaseException | None) -> str:
    """The message for a key that the config does not have; ``error``: OmegaConf's."""
    node: Any = getattr(error, "parent_node", None)  # where OmegaConf looked for it
    key = getattr(error, "full_key", None) or key
    path, dot, name = key.rpartition(".")
    if path == "trainer":
        from descent.config.trainer import refusal  # imports pydantic

        if refused := refusal(name):
            return refused
    known = [str(entry) for entry in node] if isinstance(node, DictConfig) else []
    takes = _arguments(node.get("_target_"))[SUPPLIED.get(path, 0) :] if isinstance(node, DictConfig) else []
    if name in takes:
        return f"{key} is not set in this config: +{key}=... sets it"
    groups = [] if dot else ["experiment", "debug"]
    if key in groups:
        return f"{key} has no such option or key: {key}=... chooses a file of conf/{key}/"
    if close := difflib.get_close_matches(name, {**dict.fromkeys([*known, *takes, *groups])}, n=1):
        return f"{key} is not a key: did you mean {path}{dot}{close[0]}?"
    if not dot:
        return f"{key} is not a key: --cfg job prints all keys"
    group = path.rpartition(".")[2]
    if not known and group in GROUPS and group != path:  # setting a key has emptied the interpolation
        return f"{key} is not a key: set {group}.{name}, if {path} is ${{{group}}}"
    if takes:
        return f"{key} is not a key: {node['_target_']} takes {', '.join(takes)}"
    return f"{key} is not a key of the {path} option chosen here, which has {', '.join(known) or 'none'}"


def _arguments(target: Any) -> list[str]:
    try:
        found = find(str(target))
        signature = signature_of(found) if found else None
    except (LookupError, AssertionError):
        return []
    return [*signature.arguments] if signature else []
