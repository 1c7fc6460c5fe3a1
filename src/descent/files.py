"""Files that are whole or not there, and directories that one process at a time works in."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOLCK
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from descent.errors import UserError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that becomes ``path`` when all of it is on the disk; on an error ``path`` stays as it was.

    Raises:
        UserError: the disk is full, read-only, or not there; the message has the path and the cause.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # on a read-only disk there is nothing to remove
            temporary.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__  # torch wraps what its file raises
        if isinstance(error, Exception) and isinstance(cause, OSError):
            raise UserError(f"cannot write {path}: {cause.strerror}") from error
        raise


@contextmanager
def replaced(output: Path) -> Iterator[Path]:
    """A path of its own to write to, that becomes ``output``; on an error ``output`` stays as it was."""
    temporary = output.absolute().with_name(f".{secrets.token_hex(4)}.{output.name}")
    try:
        yield temporary
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Makes ``content`` the content of ``path``, or leaves what was there.

    Raises:
        UserError: see ``atomic_file``.
    """
    with atomic_file(path) as file:
        file.write(content)


def is_locked(directory: Path) -> bool:
    """Whether a process has locked it, be it on another machine that shares the file system."""
    try:
        with FileLock(directory / ".lock").acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # which whoever locks it will say
        return False


@contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Within it nobody else can lock the directory. A process that is killed leaves it unlocked.

    It is ``flock``, which holds between machines on NFS too, and on Lustre where it is mounted so.

    Raises:
        UserError: somebody else has it, or the lock's file cannot be written, or the file system has no locks.
    """
    path = directory / ".lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path).acquire(blocking=False)
    except Timeout:
        raise UserError(f"{what} {directory} is at work in another process") from None
    except OSError as error:
        raise UserError(f"cannot {'lock' if error.errno == ENOLCK else 'write'} {path}: {error.strerror}") from error
    with lock:
        yield
