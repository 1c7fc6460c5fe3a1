"""Defines the error that users can fix themselves, and helpers for messages and notes."""

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

log = logging.getLogger(__name__)

LONGEST = 200  # characters of a value in a message


class UserError(Exception):
    """A request of the user cannot be carried out. The message is one line that names the key, rule and value."""


def invalid(key: str, rule: str, value: Any) -> UserError:
    """The error for a value that breaks a rule: ``trainer.max_epochs must be a positive integer, got 0``."""
    shown = as_yaml(value)
    if len(shown) > LONGEST:
        shown = f"{shown[: LONGEST // 2]} ... {shown[-LONGEST // 2 :]}"
    return UserError(f"{key} must be {rule}, got {shown}")


def unknown_key(key: str, known: Sequence[str]) -> UserError:
    """The error for a key that is not in ``known``, the keys at the same level."""
    path, dot, name = key.rpartition(".")
    close = difflib.get_close_matches(name, known, n=1)
    hint = (
        f"did you mean {path}{dot}{close[0]}?"
        if close
        else f"the keys here are {', '.join(f'{path}{dot}{key}' for key in known)}"
    )
    return UserError(f"{key} is not a key: {hint}")


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Turns a failed import into a one-line error with the command that installs the project's extra ``name``.

    Args:
        what: what needs the import, such as ``data=diabetes``.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = str(error.name).partition(".")[0]
        raise UserError(f"{what} needs {library}: pip install -c constraints.txt -e '.[{name}]'") from None


def validation_error(error: "ValidationError", path: str = "", separator: str = ".") -> UserError:
    """The first error that pydantic found, as a ``UserError``; ``path`` prefixes its key."""
    first = error.errors(include_url=False)[0]
    key = separator.join([*([path] if path else []), *map(str, first["loc"])])
    match first["type"]:
        case "missing":
            return UserError(f"{key} is missing")
        case "dataclass_type" | "model_type" | "dict_type":
            return invalid(key, "a group of keys", first["input"])
        case "literal_error":
            options = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            return invalid(key, f"one of {options}", first["input"])
    return invalid(key, first["msg"].removeprefix("Input should be "), first["input"])


def as_yaml(value: Any) -> str:
    """``value`` as written in a config file: ``null``, ``true``, ``'text'``, ``[1, 2]``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(as_yaml(entry) for entry in value)}]"
    return repr(value)


def counted(number: int, unit: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {unit}" if number == 1 else f"{number:,} {unit}s"


@cache
def note_once(text: str) -> None:
    """Logs a note once per process, so once for all jobs of a serial sweep."""
    log.warning("note: %s", text)
