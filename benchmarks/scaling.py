"""How much faster two threads are than one: two processes that take turns.

`python scaling.py LOSS WORKLOAD CONTENDER` is such a process. It reads numbers of calls from its
standard input and answers each with the seconds that the calls took; the thread count comes from
FASTNEG_NUM_THREADS.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

TURNS = 7
TURN_SECONDS = 0.15


def thread_speedup(stem: str, workload_name: str, contender_name: str) -> float:
    """The median time of one thread over that of two."""
    workers = [_start([stem, workload_name, contender_name], threads) for threads in (1, 2)]
    try:
        calls = max(1, int(TURN_SECONDS / _ask(workers[0], 1)))
        turns = [[_ask(worker, calls) for worker in workers] for _ in range(TURNS)]
    finally:
        for worker in workers:
            worker.communicate()
    one, two = (statistics.median(times) for times in zip(*turns, strict=True))
    return one / two


def _start(arguments: list[str], threads: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env={
            **os.environ,
            "FASTNEG_NUM_THREADS": str(threads),
            "NUMBA_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(worker: subprocess.Popen[str], calls: int) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{calls}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def _serve(stem: str, workload_name: str, contender_name: str) -> None:
    from suite import load_suite

    suite = load_suite(stem)
    workload = suite.workload(workload_name)
    run = suite.contender(contender_name).build(workload, suite.make_inputs(workload))
    run(2)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
