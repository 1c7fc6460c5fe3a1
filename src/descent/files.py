"""Writes files atomically and locks directories."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOLCK
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from descent.errors import UserError, invalid


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. It becomes ``path`` once all of it is on the disk; on an error ``path`` does not change.

    Raises:
        UserError: the disk is full, read-only or missing; the message names the path and the cause.
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
        cause = error if isinstance(error, OSError) else error.__context__  # torch wraps errors of the file
        if isinstance(error, Exception) and isinstance(cause, OSError):
            raise UserError(f"cannot write {path}: {cause.strerror}") from error
        raise


@contextmanager
def replaced(output: Path) -> Iterator[Path]:
    """A temporary path for a file or a folder. It becomes ``output``; on an error ``output`` does not change.

    Raises:
        UserError: ``output`` is a folder with files, which are not removed.
    """
    if output.is_dir() and any(output.iterdir()):
        raise invalid("OUTPUT", "a file, or a folder that is new or empty", str(output))
    temporary = output.absolute().with_name(f".{secrets.token_hex(4)}.{output.name}")
    try:
        yield temporary
        temporary.replace(output)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes ``content`` to ``path``; on an error ``path`` does not change.

    Raises:
        UserError: see ``atomic_file``.
    """
    with atomic_file(path) as file:
        file.write(content)


def is_locked(directory: Path) -> bool:
    """Whether a process has locked the directory, on this machine or on one that shares its file system."""
    try:
        with FileLock(directory / ".lock").acquire(blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # ``locked`` reports it
        return False


@contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Locks the directory. The lock is released even if the process is killed.

    It is an ``flock``, which also works between machines on NFS, and on Lustre mounted with ``flock``.

    Raises:
        UserError: another process has the lock, the lock file cannot be written, or the file system has no locks.
    """
    path = directory / ".lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path).acquire(blocking=False)
    except Timeout:
        raise UserError(f"{what} {directory} is in use by another process") from None
    except OSError as error:
        raise UserError(f"cannot {'lock' if error.errno == ENOLCK else 'write'} {path}: {error.strerror}") from error
    with lock:
        yield
