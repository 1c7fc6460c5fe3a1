"""The one kind of error that a user can cause and mend."""

from typing import Any


class UserError(Exception):
    """Something the user asked for cannot be done. Its text is one line that names key, rule and value."""


def must(key: str, rule: str, value: Any) -> UserError:
    """The error for a value that breaks a rule: ``batch.size must be a positive integer, got -1``."""
    return UserError(f"{key} must be {rule}, got {show(value)}")


def show(value: Any) -> str:
    """``value`` as a config file spells it: ``null``, ``true``, ``'text'``, ``[1, 2]``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(show(entry) for entry in value)}]"
    return repr(value)
