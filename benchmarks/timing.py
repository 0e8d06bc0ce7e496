"""Builds contenders, checks their results, and says how often to call them for a fair reading."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from typing import Any

import numpy as np
from memory import allocator_peak
from suite import Contender, Run, Suite, Workload

ROUNDS = 5
SAMPLES = 3
SAMPLE_SECONDS = 0.03
SLOW_SECONDS = 0.2  # A call this long is a sample by itself, and three of them are enough.
SLOW_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A contender that gave the right answer, and how to time it."""

    run: Run
    rounds: int  # In how many rounds it takes part.
    samples: int  # Per round; each is one run of `calls` calls.
    calls: int
    warmup_calls: int
    peak_extra_bytes: int | None = None


class Timing:
    """Holds the contenders of one size at a time, in all its dtypes."""

    def __init__(self, suite: Suite, contenders: dict[str, Contender]) -> None:
        """Knows the contenders by name; builds them when they are first asked for."""
        self.suite = suite
        self.contenders = contenders
        self._size: Workload | None = None
        self._prepared: dict[tuple[Workload, str], Prepared | str] = {}
        self._problems: dict[Workload, tuple[Any, Any]] = {}

    def prepare(self, workload: Workload, name: str) -> Prepared | str:
        """The call to time, or what is wrong with its result."""
        size = dataclasses.replace(workload.in_float32, compares_all=False)
        if size != self._size:
            self._prepared.clear()
            self._problems.clear()
            gc.collect()
            self._size = size
        if workload not in self._problems:
            inputs = self.suite.make_inputs(workload)
            self._problems[workload] = inputs, self.suite.compute_truth(inputs)
        if (workload, name) not in self._prepared:
            self._prepared[workload, name] = self._build(workload, name)
        return self._prepared[workload, name]

    def _build(self, workload: Workload, name: str) -> Prepared | str:
        contender = self.contenders[name]
        inputs, truth = self._problems[workload]
        try:
            run = contender.build(workload, inputs)
            loss, *grads = (np.asarray(value) for value in run(1))
        except Exception as error:  # Whatever a contender raises is its result here.
            return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        if contender.kind != "overhead":
            problem = self.suite.describe_error(truth, float(loss), tuple(grads))
            if problem:
                return problem
        prepared = _calibrate(run)
        if contender.kind == "TensorFlow form":
            peak = allocator_peak(lambda: run(1))
            prepared = dataclasses.replace(prepared, peak_extra_bytes=peak)
        return prepared


def _calibrate(run: Run) -> Prepared:
    seconds = math.inf
    for _ in range(3):
        start = time.perf_counter()
        run(1)
        seconds = min(seconds, time.perf_counter() - start)
        if seconds > SLOW_SECONDS:
            return Prepared(run, SLOW_ROUNDS, samples=1, calls=1, warmup_calls=0)
    calls = max(1, int(SAMPLE_SECONDS / seconds))
    start = time.perf_counter()
    run(calls)
    calls = max(1, int(calls * SAMPLE_SECONDS / (time.perf_counter() - start)))
    return Prepared(run, ROUNDS, SAMPLES, calls, warmup_calls=max(1, calls // 4))
