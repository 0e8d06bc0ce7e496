"""The threads of fastneg's pool in this process, as Linux tells of them."""

import time
from pathlib import Path

_TASKS = Path("/proc/self/task")
_SLEPT = "voluntary_ctxt_switches:"


def rests() -> dict[str, int]:
    """How often each thread has gone to sleep, once all of them sleep."""
    before, now = None, _rests()
    while now != before:
        time.sleep(0.02)
        before, now = now, _rests()
    return now


def wait_for_more_than(before: dict[str, int]) -> None:
    """Waits until a thread has gone to sleep since, which it does when it was at work."""
    deadline = time.monotonic() + 60
    while rests() == before:
        assert time.monotonic() < deadline, "No thread of the pool was woken."


def _rests() -> dict[str, int]:
    tasks = [task for task in _TASKS.iterdir() if (task / "comm").read_text() == "fastneg\n"]
    return {task.name: _rests_of(task) for task in tasks}


def _rests_of(task: Path) -> int:
    lines = (task / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(_SLEPT))
