"""Peak memory over chosen stretches of time."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

_DEVICE = "CPU:0"
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_MIB = 1 << 20


class PeakMemory:
    """Highest memory in use inside `watch()` blocks, above what was in use at the start.

    TensorFlow's allocator knows it, if it is one that keeps freed memory for later, as with oneDNN.
    Else it is the resident memory of this process (Linux; elsewhere unknown).
    """

    def __init__(self) -> None:
        """Takes the memory that is in use now as the zero."""
        self._allocator = _allocated("current") is not None
        if self._allocator:
            self._start = _allocated("current")
        else:
            _return_free_memory()
            self._start = _resident("VmRSS")
        self._peak: int | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Counts what happens inside; what is allocated and freed outside is left out."""
        try:
            self._forget_peak()
        except OSError:
            yield
            return
        yield
        peak = _allocated("peak") if self._allocator else _resident("VmHWM")
        if peak is not None and self._start is not None:
            self._peak = max(self._peak or 0, peak - self._start)

    @property
    def mib(self) -> float | None:
        """The peak in MiB, or None where the system does not tell."""
        return None if self._peak is None else self._peak / _MIB

    def _forget_peak(self) -> None:
        if self._allocator:
            tf.config.experimental.reset_memory_stats(_DEVICE)
        else:
            _CLEAR_REFS.write_text(_RESET_PEAK)


def _allocated(which: str) -> int | None:
    """Bytes that TensorFlow's allocator has given out, "current" or "peak", if it counts them."""
    try:
        return tf.config.experimental.get_memory_info(_DEVICE)[which]
    except ValueError:
        return None


def _return_free_memory() -> None:
    """Hands freed heap back to the system, so that its later reuse is counted (glibc only)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str) -> int | None:
    """Bytes of this process, "VmRSS" or "VmHWM"."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    kib = next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), None)
    return None if kib is None else kib * 1024
