"""Checks a ``_target_`` and the keyword arguments of its class before anything slow is imported.

Names, defaults and annotations come from the class's source. The class itself checks ranges that it does not annotate.
"""

import ast
import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from descent.config.annotations import UnknownTypeError, type_of, words
from descent.config.source import Argument, Found, derives, find, is_at, signature_of
from descent.config.types import Rule, check
from descent.config.unbuilt import BUILD, unbuilt_in
from descent.errors import UserError, invalid

# The base class of each group's classes.
KINDS = {
    "optimizer": "torch.optim.Optimizer",
    "scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "model": "lightning.pytorch.LightningModule",
    "data": "lightning.pytorch.LightningDataModule",
    "callbacks": "lightning.pytorch.Callback",
    "logger": "lightning.pytorch.loggers.Logger",
}


def check_target(
    spec: Mapping[str, Any],
    path: str,
    packages: Sequence[str],
    supplied: int = 0,
    choice: str | None = None,
    cwd: Path | None = None,
) -> dict[str, Any]:
    """Checks that a class may be used, and that it takes the given arguments.

    Args:
        spec: ``_target_`` and the keyword arguments.
        path: the key of the node, ``optimizer`` or ``callbacks.mine``; begins each key in a message.
        packages: a ``_target_`` must be in one of them.
        supplied: how many of the first arguments the caller supplies, such as the parameters of an optimizer.
        choice: the option that was chosen, for messages.
        cwd: where relative paths start, for arguments annotated as ``Path``; ``None``: the current directory.

    Returns:
        ``spec`` with absolute paths.

    Raises:
        UserError: a class that is not allowed or does not exist, an unknown or missing key, a value of the wrong type.
    """
    found = find_class(spec.get("_target_"), path, packages)
    signature = signature_of(found) if found else None
    taken = [*signature.arguments][supplied:] if signature else []
    who = f"{path}={choice}" if choice else spec["_target_"]
    checked = dict(spec)
    for name, value in spec.items():
        key = f"{path}.{name}"
        check_finite(value, key)
        if name == "_target_" or signature is None:
            continue
        if name in taken:
            checked[name] = check_value(value, key, signature.arguments[name], cwd)
        elif not signature.any_key or name in signature.arguments:
            close = difflib.get_close_matches(str(name), taken, n=1)
            hint = f"; did you mean {path}.{close[0]}?" if close else ""
            raise UserError(f"{key} is not a key: {who} takes {', '.join(taken) or 'none'}{hint}")
    check_nested([*spec.values()], path, packages)
    for name in taken:
        if signature and signature.arguments[name].required and name not in spec:
            raise UserError(f"{path}.{name} is missing: {who} needs it")
    return checked


def find_class(target: Any, path: str, packages: Sequence[str]) -> Found | None:
    """The source of the class that a ``_target_`` names; ``None``: it has no source to read.

    Raises:
        UserError: there is no such class, it is not in ``packages``, or it lacks the base class that the group needs.
    """
    key = f"{path}._target_"
    if target is None:
        raise UserError(f"{key} is missing: it names the class, in {', '.join(packages)}")
    if not isinstance(target, str) or not re.fullmatch(r"\w+(\.\w+)+", target) or not _within(target, packages):
        raise invalid(key, _allowed(packages), target)
    kind = KINDS.get(path.partition(".")[0])
    try:
        found = find(target)
    except LookupError as error:
        raise UserError(f"{invalid(key, 'a class that exists', target)}: {error.args[0]}") from None
    if found is None:
        return None
    if not isinstance(found.node, ast.ClassDef):
        raise invalid(key, "a class", target)
    if not _within(found.module.name, packages):  # imported from another package
        raise invalid(key, _allowed(packages), f"{found.module.name}.{found.node.name}")
    if kind and (is_at(found, kind) or derives(found, kind) is False):
        raise invalid(key, f"a class derived from {kind}", target)
    return found


def derives_from(target: str, base: str) -> bool:
    """Whether the class ``target`` is ``base`` or derives from it; ``False`` if the source does not tell."""
    found = find(target)
    return bool(found and derives(found, base))


def check_value(value: Any, key: str, argument: Argument, cwd: Path | None = None) -> Any:
    """Checks ``value`` against the annotation of an argument, and returns it; a path is made absolute."""
    if argument.annotation is None or is_default(value, argument):
        return value
    # build_scheduler builds the parts of a SequentialLR
    if not key.startswith("scheduler.") and (unbuilt := unbuilt_in(value, argument)):
        own = isinstance(value, Mapping) and "_target_" in value
        part, what = (key.rpartition(".")[2], "a dict") if own else ("each", f"a {type(value).__name__} of dicts")
        call = BUILD[unbuilt[1]].format(part=part, key=key, kind=unbuilt[0])
        raise UserError(
            f"{key} must be annotated as {what}, got {ast.unparse(argument.annotation)}: a nested _target_ is not built"
            f" for the class; build it by {call} from descent.training.build"
        )
    if nested_targets(value):
        return value
    try:
        kind = type_of(argument.annotation, argument.module)
    except UnknownTypeError:
        return value
    text = words(kind)
    checked = check(Annotated[kind, Rule(text)] if text else kind, value, key, cwd)
    return checked if type(checked) is type(value) else value


def is_default(value: Any, argument: Argument) -> bool:
    if argument.default is None:
        return False
    try:
        default = ast.literal_eval(argument.default)
    except ValueError:
        return False
    default = [*default] if isinstance(default, tuple) else default
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)


def check_finite(value: Any, key: str) -> None:
    """Raises an error for a number that is not finite, or too large to be a sensible setting."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            check_finite(entry, f"{key}.{name}")
    elif isinstance(value, list):
        for entry in value:
            check_finite(entry, key)
    elif isinstance(value, float) and not (math.isfinite(value) and abs(value) < 1e30):
        raise invalid(key, "a number between -1e30 and 1e30", value)


def nested_targets(value: Any) -> list[Mapping[str, Any]]:
    """The nodes in ``value``, at any depth, that have a ``_target_``."""
    inside = [*value.values()] if isinstance(value, Mapping) else value if isinstance(value, list) else []
    own = [value] if isinstance(value, Mapping) and "_target_" in value else []
    return own + [node for entry in inside for node in nested_targets(entry)]


def check_nested(value: Any, path: str, packages: Sequence[str]) -> None:
    """Raises an error for a ``_target_`` that is not allowed, at any depth of ``value``."""
    for node in nested_targets(value):
        target = node["_target_"]
        if not isinstance(target, str) or not _within(target, packages):
            raise invalid(f"each _target_ in {path}", _allowed(packages), target)


def _allowed(packages: Sequence[str]) -> str:
    return f"a class in {', '.join(packages)} (the key packages lists them)"


def _within(path: str, packages: Sequence[str]) -> bool:
    return any(path == package or path.startswith(f"{package}.") for package in packages)
