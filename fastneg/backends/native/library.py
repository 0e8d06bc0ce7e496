"""Loads the operation library and answers questions about it.

Loading happens while fastneg is imported, when a program may still change TensorFlow's settings. So
the number of threads is passed on when the first operation is asked for, by then TensorFlow refuses
changes. (A kernel cannot read the setting: where grappler folds constants there is nothing to read
it from.)
"""

import functools
import importlib
from types import ModuleType
from typing import Any

import tensorflow as tf

from fastneg.backends.native import xla
from fastneg.backends.native.symbols import FOLDER, pass_on_num_threads, symbols

_PATH = FOLDER / "_ops.so"


def load() -> None:
    """Loads the library, which registers the operations.

    Raises:
        ImportError: The library was not built.
        OSError: What it needs does not load.
        tf.errors.NotFoundError: It was built, and this TensorFlow does not load it.
        RuntimeError: FASTNEG_ISA names an instruction set that is not there.
    """
    if not _PATH.exists():
        raise ImportError(_why_not_built())
    _library()
    unavailable = symbols().FastnegUnavailableRequestedIsa()
    if unavailable is not None:
        raise RuntimeError(
            f"FASTNEG_ISA must be one of {', '.join(_available_isas())}. "
            f"Received: {unavailable.decode()}."
        )
    xla.load()


@functools.cache
def operations() -> ModuleType:
    """Returns the module with one function per operation."""
    pass_on_num_threads()
    return _library()


def describe() -> dict[str, Any]:
    """Returns the instruction sets, the number of threads and where it comes from."""
    pass_on_num_threads()
    build = importlib.import_module("fastneg._build_info")
    return {
        "isa": symbols().FastnegActiveIsa().decode(),
        "available_isas": _available_isas(),
        "threads": symbols().FastnegNumThreads(),
        "threads_from": symbols().FastnegNumThreadsReason().decode(),
        "compiler": build.COMPILER,
        "build_type": build.BUILD_TYPE,
    }


@functools.cache
def _library() -> ModuleType:
    symbols()  # Its other half is in memory then.
    return tf.load_op_library(str(_PATH))  # type: ignore[no-any-return]


def _available_isas() -> list[str]:
    names = []
    for name in symbols().FastnegAvailableIsas():
        if name is None:
            break
        names.append(name.decode())
    return names


def _why_not_built() -> str:
    try:
        build = importlib.import_module("fastneg._build_info")
    except ImportError:
        return "The native operations were not built."
    return f"The native operations were not built: {build.OPS_PROBLEM}"
