"""Where a training step's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from .interactions import Interactions
from .training import BATCHES_SIGNATURE, Schedule

_SECONDS_PER_CALL = 0.3
_SECONDS_PER_STAGE = 1.5
_MAX_CALLS = 10
_MAX_BATCHES = 32


@dataclass(frozen=True)
class Stage:
    """A part of a training step.

    Attributes:
        name: shown in the report.
        run: does the part, and all that `after` does, for users, items and labels [B]; returns a
            scalar that depends on what it computes, or nothing where it changes variables.
        after: name of the stage before, whose time is not counted here; None for none.
    """

    name: str
    run: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor | float]
    after: str | None = None


def warm_up(stage: Stage, data: Interactions, schedule: Schedule) -> None:
    """Runs a stage for one batch, so that XLA has compiled what is its own of it."""
    _loop(stage)(*(tf.constant(array[:1]) for array in schedule.epoch_batches(data, epoch=0)))


def measure_stages(
    stages: Sequence[Stage], data: Interactions, schedule: Schedule
) -> dict[str, float]:
    """Milliseconds per step of each stage, by name; the model is spoilt by it."""
    batches = schedule.epoch_batches(data, epoch=0)
    total_ms = {stage.name: _time_ms(_loop(stage), batches) for stage in stages}
    before_ms = {None: 0.0, **total_ms}
    return {s.name: max(total_ms[s.name] - before_ms[s.after], 0.0) for s in stages}


def _loop(stage: Stage) -> Callable[..., tf.Tensor]:
    @tf.function(input_signature=BATCHES_SIGNATURE)
    def loop(users, items, labels):
        total = tf.constant(0.0)
        for i in tf.range(tf.shape(users)[0]):
            total += stage.run(users[i], items[i], labels[i])
        return total

    return loop


def _time_ms(loop: Callable[..., tf.Tensor], batches: tuple[np.ndarray, ...]) -> float:
    """The best of a few calls, in milliseconds per batch; slow steps are timed fewer times."""

    def seconds_per_batch(count: int) -> float:
        tensors = [tf.constant(array[:count]) for array in batches]
        start = time.perf_counter()
        loop(*tensors)
        return (time.perf_counter() - start) / count

    loop.get_concrete_function()
    seconds_per_batch(1)
    step_s = seconds_per_batch(1)
    count = int(np.clip(_SECONDS_PER_CALL / step_s, 1, min(_MAX_BATCHES, len(batches[0]))))
    num_calls = int(np.clip(_SECONDS_PER_STAGE / (count * step_s), 1, _MAX_CALLS))
    return 1e3 * min(seconds_per_batch(count) for _ in range(num_calls))
