"""Peak memory of this process over chosen stretches of time (Linux; elsewhere unknown)."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class PeakMemory:
    """Highest resident memory inside `watch()` blocks, above what was resident at the start."""

    def __init__(self) -> None:
        """Takes the present resident memory as the zero."""
        _return_free_memory()
        self._start_kib = _status_kib("VmRSS")
        self._peak_kib: int | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Counts what happens inside; what is allocated and freed outside is left out."""
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
        except OSError:
            yield
            return
        yield
        peak = _status_kib("VmHWM")
        if peak is not None and self._start_kib is not None:
            self._peak_kib = max(self._peak_kib or 0, peak - self._start_kib)

    @property
    def mib(self) -> float | None:
        """The peak in MiB, or None where the system does not tell."""
        return None if self._peak_kib is None else self._peak_kib / 1024


def _return_free_memory() -> None:
    """Hands freed heap back to the system, so that its later reuse is counted (glibc only)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _status_kib(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), None)
