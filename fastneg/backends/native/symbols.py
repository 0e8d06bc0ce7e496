"""The C functions of `libfastneg.so`, which knows no framework."""

import ctypes
import functools
from pathlib import Path

import tensorflow as tf

FOLDER = Path(__file__).parents[2]
PATH = FOLDER / "libfastneg.so"


@functools.cache
def symbols() -> ctypes.CDLL:
    """Loads the library.

    Raises:
        OSError: It is not there, or does not load.
    """
    library = ctypes.CDLL(str(PATH))
    for function in (
        "FastnegActiveIsa",
        "FastnegLoadCuda",
        "FastnegNumThreadsReason",
        "FastnegRegisterXlaHandler",
        "FastnegUnavailableRequestedIsa",
    ):
        getattr(library, function).restype = ctypes.c_char_p
    library.FastnegAvailableIsas.restype = ctypes.POINTER(ctypes.c_char_p)
    library.FastnegNumThreads.restype = ctypes.c_int
    library.FastnegSetIntraOpThreads.argtypes = [ctypes.c_int]
    library.FastnegLoadCuda.argtypes = [ctypes.c_char_p]
    library.FastnegRegisterXlaHandler.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_bool,
    ]
    return library


def pass_on_num_threads() -> None:
    """Tells the operations TensorFlow's setting, which limits their number of threads."""
    symbols().FastnegSetIntraOpThreads(tf.config.threading.get_intra_op_parallelism_threads())
