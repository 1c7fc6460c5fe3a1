"""Loads torch's shared libraries while the config is checked. Imports no torch."""

import ctypes
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

# the largest, after what torch itself loads first
LIBRARIES = (("libtorch_global_deps.so", "RTLD_GLOBAL"), ("libtorch_cpu.so", "RTLD_LOCAL"))


def preload_torch() -> threading.Thread | None:
    """Loads them in a thread, which takes a fifth of a second of the import of torch.

    By the C library's ``dlopen``, because ``ctypes.CDLL`` would hold Python's lock meanwhile. Where it fails, the
    import says why. On Linux alone, where it was measured.

    Returns:
        the thread; ``None``: there is nothing to load.
    """
    found = find_spec("torch") if sys.platform == "linux" and "torch" not in sys.modules else None
    if found is None or not found.submodule_search_locations:
        return None
    directory = Path(found.submodule_search_locations[0]) / "lib"
    load = ctypes.CDLL(None).dlopen
    load.argtypes, load.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p

    def run() -> None:
        for name, mode in LIBRARIES:
            load(os.fsencode(directory / name), os.RTLD_NOW | getattr(os, mode))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
