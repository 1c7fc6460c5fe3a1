"""Files that are whole or not there, and directories that one process at a time works in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

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
    """Within it nobody else can lock the directory. A process that is killed leaves it unlocked.

    Raises:
        UserError: somebody else has it, or the lock's file cannot be written.
    """
    path = directory / ".lock"
    lock = FileLock(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{what} {directory} is at work in another process") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()
