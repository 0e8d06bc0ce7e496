"""What there is to load, and to know, of the numba backend."""

from typing import Any

import numba

from fastneg.backends.numba import bridge
from fastneg.backends.numba.vector_ir import VECTOR_BYTES


def load() -> None:
    """Does nothing: what can fail has failed by the time that this module is imported."""


def runs_in_xla(loss: str) -> bool:
    """XLA cannot call back into Python."""
    return False


def describe() -> dict[str, Any]:
    """Returns numba's version, the width of vectors and the number of threads."""
    return {
        "version": numba.__version__,
        "vector_bits": 8 * VECTOR_BYTES,
        "threads": bridge.num_threads(),
    }
