"""Loads torch's shared libraries while the config is composed. Imports no torch."""

import ctypes
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

# in the order in which torch loads them
LIBRARIES = (("libtorch_global_deps.so", ctypes.RTLD_GLOBAL), ("libtorch_python.so", ctypes.RTLD_LOCAL))


def preload_torch() -> threading.Thread | None:
    """Loads them in a thread: that takes a fifth of a second and, unlike an import, does not hold Python's lock.

    Nothing depends on it. On Linux alone, where it was measured.

    Returns:
        the thread; ``None``: there is nothing to load.
    """
    found = find_spec("torch") if sys.platform == "linux" else None
    if found is None or not found.submodule_search_locations:
        return None
    directory = Path(found.submodule_search_locations[0]) / "lib"

    def load() -> None:
        with suppress(OSError):  # the import of torch says what is wrong
            for name, mode in LIBRARIES:
                ctypes.CDLL(str(directory / name), mode)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    return thread
