"""Compiled entries: cached on disk, renewed when sources change, entered by several threads."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numba import njit

from fastneg.backends.numba import threads
from fastneg.backends.numba.plan import Array


@functools.cache
def entry(make: Callable[[str], Any]) -> Any:
    """Returns the compiled form of the function that `make` makes.

    numba's cache looks at one file; the name that `make` gets stands for all that may be compiled
    into the function, which has to refer to it.
    """
    here = pathlib.Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    function = make(hashlib.sha256(sources).hexdigest())
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # No directory for the cache can be written, next to this file or in the user's home.
        return njit(**options)(function)


def frozen(array: Array) -> Array:
    """A read-only view: numba compiles anew for every combination of writeable arguments."""
    view: Array = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


# What has its machine code at hand.
_compiled: set[Hashable] = set()


def run_together(key: Hashable, call: Callable[[int], object], num_threads: int) -> None:
    """Has up to `num_threads` threads, this one among them, call `call` with a number of their own.

    Args:
        key: What machine code depends on. The first call for a key has one thread, because it may
            have to compile.
        call: Enters compiled code that shares its work among all who enter.
        num_threads: At least 1.
    """
    if key in _compiled:
        threads.start_helpers(call, num_threads - 1)
        call(0)
        return
    try:
        call(0)
    except OSError:
        # The machine code is there, but could not be written to the cache: nothing has run yet.
        call(0)
    _compiled.add(key)
