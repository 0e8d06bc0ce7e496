"""Loads the operation library and answers questions about it.

Loading happens while fastneg is imported, when a program may still change TensorFlow's settings. So
the number of threads is passed on when the first operation is asked for, by then TensorFlow refuses
changes. (A kernel cannot read the setting: where grappler folds constants there is nothing to read
it from.)
"""

import ctypes
import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorflow as tf

from fastneg.backends.native import cuda, xla

_PATH = Path(__file__).parents[2] / "_ops.so"


def load() -> None:
    """Loads the library, which registers the operations.

    Raises:
        ImportError: The library was not built.
        tf.errors.NotFoundError: It was built, and this TensorFlow does not load it.
        RuntimeError: FASTNEG_ISA names an instruction set that is not there.
    """
    if not _PATH.exists():
        raise ImportError(_why_not_built())
    _library()
    unavailable = _symbols().FastnegUnavailableRequestedIsa()
    if unavailable is not None:
        raise RuntimeError(
            f"FASTNEG_ISA must be one of {', '.join(_available_isas())}. "
            f"Received: {unavailable.decode()}."
        )
    xla.library.load()
    cuda.library.load()


@functools.cache
def operations() -> ModuleType:
    """Returns the module with one function per operation."""
    _pass_on_num_threads()
    return _library()


def describe() -> dict[str, Any]:
    """Returns the instruction sets, the number of threads and where it comes from."""
    _pass_on_num_threads()
    build = importlib.import_module("fastneg._build_info")
    return {
        "isa": _symbols().FastnegActiveIsa().decode(),
        "available_isas": _available_isas(),
        "threads": _symbols().FastnegNumThreads(),
        "threads_from": _symbols().FastnegNumThreadsReason().decode(),
        "compiler": build.COMPILER,
        "build_type": build.BUILD_TYPE,
    }


def _pass_on_num_threads() -> None:
    _symbols().FastnegSetIntraOpThreads(tf.config.threading.get_intra_op_parallelism_threads())


@functools.cache
def _library() -> ModuleType:
    return tf.load_op_library(str(_PATH))  # type: ignore[no-any-return]


def _available_isas() -> list[str]:
    names = []
    for name in _symbols().FastnegAvailableIsas():
        if name is None:
            break
        names.append(name.decode())
    return names


@functools.cache
def _symbols() -> ctypes.CDLL:
    symbols = ctypes.CDLL(str(_PATH))
    for function in (
        "FastnegActiveIsa",
        "FastnegNumThreadsReason",
        "FastnegUnavailableRequestedIsa",
    ):
        getattr(symbols, function).restype = ctypes.c_char_p
    symbols.FastnegAvailableIsas.restype = ctypes.POINTER(ctypes.c_char_p)
    symbols.FastnegNumThreads.restype = ctypes.c_int
    symbols.FastnegSetIntraOpThreads.argtypes = [ctypes.c_int]
    return symbols


def _why_not_built() -> str:
    try:
        build = importlib.import_module("fastneg._build_info")
    except ImportError:
        return "The native operations were not built."
    return f"The native operations were not built: {build.OPS_PROBLEM}"
