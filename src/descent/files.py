"""Files that are whole or not there, and directories that one process at a time works in."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


@contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Within it no other process can lock the directory. A process that is killed leaves it unlocked.

    Raises:
        UserError: another process has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{what} {directory} is at work in another process") from None
        yield
