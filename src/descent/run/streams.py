"""Protects standard output and standard error against a closed pipe or terminal and a full disk."""

import errno
import os
import sys
from typing import Any, TextIO, cast

NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)  # a closed pipe, terminal or stream


class Output:
    """Wraps a stream so that writes never fail: text that cannot be written is dropped.

    Attributes:
        error: from the first write that failed; ``None``: none has failed.
    """

    error: OSError | None = None

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _drop(self, error: OSError) -> None:
        self.error = self.error or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())  # discards the buffer and all later writes
        os.close(nowhere)


def protect() -> None:
    """Wraps standard output and standard error in ``Output``."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before Python started
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for the whole process
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a column's name may have letters that the terminal cannot show
        setattr(sys, name, cast(TextIO, Output(stream)))


def lost() -> str | None:
    """Returns why standard output could not be written; ``None``: it could, or nobody reads it."""
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    if error is None or error.errno in NOBODY_READS:
        return None
    return str(error.strerror)
