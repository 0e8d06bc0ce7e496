"""The CUDA kernels: an optional library that is built on request."""

import functools
import importlib

from fastneg.backends.native.symbols import FOLDER, symbols

# The losses that have CUDA kernels.
LOSSES = frozenset({"rolled_softmax", "shuffled_cosine", "sv_softmax"})

_PATH = FOLDER / "_cuda.so"


@functools.cache
def why_not_loaded() -> str | None:
    """Returns None if the kernels are loaded, else the reason why not."""
    if not _PATH.exists():
        return f"not built: {_why_not_built()}"
    try:
        problem = symbols().FastnegLoadCuda(str(_PATH).encode())
    except OSError as error:
        return str(error)
    return None if problem is None else str(problem.decode())


def _why_not_built() -> str:
    try:
        return str(importlib.import_module("fastneg._build_info").CUDA_PROBLEM)
    except ImportError:
        return "nothing is known of how fastneg was built"
