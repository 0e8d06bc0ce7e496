"""A few threads of our own for compiled functions that release the GIL.

numba's own parallel loops are not used: which threading layer they run on is one choice for the
whole process; its OpenMP layer aborts after a fork and its built-in layer when two threads call at
once, and both happen in training programs.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

_MAX_THREADS = 256

Job = Callable[[int], object]


class _Pool:
    """Threads that wait for jobs; a job is called with the number of the thread, 1 or more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: list[SimpleQueue[Job]] = []

    def start(self, job: Job, num_helpers: int) -> None:
        """Has `num_helpers` threads call `job`, some time soon."""
        with self._lock:
            while len(self._queues) < num_helpers:
                queue: SimpleQueue[Job] = SimpleQueue()
                worker = len(self._queues) + 1
                threading.Thread(
                    target=_serve, args=(queue, worker), name=f"fastneg-{worker}", daemon=True
                ).start()
                self._queues.append(queue)
        for queue in self._queues[:num_helpers]:
            queue.put(job)


def _serve(queue: SimpleQueue[Job], worker: int) -> None:
    while True:
        queue.get()(worker)


_pool = _Pool()


def _forget_pool() -> None:
    # A forked child has the pool's memory, but none of its threads.
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def start_helpers(job: Job, num_helpers: int) -> None:
    """Has other threads call `job(number)`, number = 1 .. num_helpers, some time soon.

    Does not wait: what the helpers and the caller share must tell them when there is nothing left
    to do, and a helper may come when all is done.
    """
    if num_helpers > 0:
        _pool.start(job, num_helpers)


def available_processors() -> int:
    """Processors that this process may use: its affinity mask, cut by a cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    return max(1, min(processors, _quota(), _MAX_THREADS))


def _quota() -> int:
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()[:2]
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return _MAX_THREADS


def num_threads(intra_op_threads: int = 0) -> int:
    """FASTNEG_NUM_THREADS where that is a positive integer, else `intra_op_threads`, else all."""
    asked = os.environ.get("FASTNEG_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return min(int(asked), _MAX_THREADS)
    return intra_op_threads if intra_op_threads > 0 else available_processors()
