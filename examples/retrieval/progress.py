"""A progress bar on a terminal, one line per finished run elsewhere."""

from __future__ import annotations

import sys
import time

_BAR_WIDTH = 30
_SECONDS_BETWEEN_DRAWS = 0.1


class ProgressBar:
    """Shows how far one training run is; writes to standard error.

    Args:
        title: what is running.
        total: number of steps.
    """

    def __init__(self, title: str, total: int) -> None:
        """Starts the clock."""
        self.title = title
        self.total = total
        self._start = time.perf_counter()
        self._last_draw = 0.0

    def update(self, done: int, note: str) -> None:
        """Redraws the bar at `done` steps, at most ten times a second."""
        now = time.perf_counter()
        if not sys.stderr.isatty() or now - self._last_draw < _SECONDS_BETWEEN_DRAWS:
            return
        self._last_draw = now
        filled = _BAR_WIDTH * done // self.total
        bar = "█" * filled + "·" * (_BAR_WIDTH - filled)
        left = (now - self._start) * (self.total - done) / max(done, 1)
        self._write(f"{self.title} {bar} {done}/{self.total}  {note}  {left:.0f} s left", end="")

    def finish(self, done: int, note: str) -> None:
        """Replaces the bar by a last line."""
        seconds = time.perf_counter() - self._start
        self._write(f"{self.title} {done}/{self.total} steps  {note}  {seconds:.0f} s", end="\n")

    def _write(self, text: str, end: str) -> None:
        start, clear = ("\r", "\x1b[K") if sys.stderr.isatty() else ("", "")
        print(f"{start}{text}{clear}", end=end, file=sys.stderr, flush=True)
