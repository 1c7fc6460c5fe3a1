"""Files that are whole or not there."""

import os
from contextlib import suppress
from pathlib import Path

from descent.errors import UserError


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Makes ``content`` the content of ``path``, or leaves what was there.

    Raises:
        UserError: the disk is full, read-only, or not there; the message has the path and the cause.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # on a read-only disk there is nothing to remove
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from error
