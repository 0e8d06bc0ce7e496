"""Trains one model and records what it cost: loss curve, quality over time, memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import tensorflow as tf

from .interactions import Interactions
from .memory import PeakMemory
from .progress import ProgressBar
from .ranking import RankingEvaluator, RankingQuality

_SECONDS_PER_CALL = 0.5
_MAX_STEPS_PER_CALL = 64

# Users, items and labels of several batches, [steps, batch_size] each.
BATCHES_SIGNATURE = tuple(tf.TensorSpec([None, None], t) for t in (tf.int32, tf.int32, tf.float32))


class TrainableModel(Protocol):
    """What a model must have to be trained and measured here, beside a Keras model's optimiser."""

    num_negatives: int
    negatives_symbol: str

    def optimise(self, users: tf.Tensor, items: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Makes one training step and returns the loss before it."""

    def ranking_tables(self) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of all users, [num_users, D], and of all items, [num_items, D]."""


@dataclass(frozen=True)
class Checkpoint:
    """Quality after some training."""

    num_steps: int
    minutes: float
    quality: RankingQuality


@dataclass
class TrainingRun:
    """What one run gave. Times count training steps alone: no tracing, no evaluation."""

    title: str
    num_negatives: int
    negatives_symbol: str
    num_planned_steps: int
    losses: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    checkpoints: list[Checkpoint] = field(default_factory=list)
    seconds: float = 0.0
    step_ms: float = float("nan")
    peak_memory_mib: float | None = None
    stage_ms: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """The number of negatives under the name that it has for this model: "K=64"."""
        return f"{self.negatives_symbol}={self.num_negatives}"

    @property
    def is_complete(self) -> bool:
        """False if the time limit ended the run."""
        return len(self.losses) == self.num_planned_steps


@dataclass(frozen=True)
class Schedule:
    """Which batches, in which order, and when to look.

    Attributes:
        time_limit_s: training seconds after which a run ends, or None.
        num_checkpoints: evaluations, evenly spread over the epochs; the last one is at the end.
            With a time limit also over the time, for runs that do not come far.
    """

    batch_size: int
    num_epochs: int
    num_checkpoints: int
    seed: int
    time_limit_s: float | None = None

    def steps_per_epoch(self, data: Interactions) -> int:
        """Full batches only: the rows left over come in another epoch's shuffle."""
        return len(data.users) // self.batch_size

    def epoch_batches(self, data: Interactions, epoch: int) -> tuple[np.ndarray, ...]:
        """Users, items and labels of an epoch, each [steps, batch_size], in a shuffled order."""
        steps = self.steps_per_epoch(data)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(data.users))
        order = order[: steps * self.batch_size].reshape(steps, self.batch_size)
        return data.users[order], data.items[order], data.labels[order]

    def checkpoint_epochs(self) -> set[int]:
        """The 0-based epochs after which quality is measured."""
        marks = np.linspace(0, self.num_epochs, min(self.num_checkpoints, self.num_epochs) + 1)
        return {round(mark) - 1 for mark in marks[1:]}

    def is_over(self, seconds: float) -> bool:
        """Whether the time limit has been reached."""
        return self.time_limit_s is not None and seconds >= self.time_limit_s

    def is_overdue(self, run: TrainingRun) -> bool:
        """Whether a training that will not finish in time has gone long without a look."""
        if self.time_limit_s is None:
            return False
        last_s = 60 * run.checkpoints[-1].minutes if run.checkpoints else 0.0
        return run.seconds - last_s >= self.time_limit_s / self.num_checkpoints


def train(
    title: str,
    model: TrainableModel,
    data: Interactions,
    evaluate: RankingEvaluator,
    schedule: Schedule,
) -> TrainingRun:
    """Trains `model`, which has been compiled with an optimiser, and measures as it goes."""
    steps_per_epoch = schedule.steps_per_epoch(data)
    num_planned_steps = schedule.num_epochs * steps_per_epoch
    run = TrainingRun(title, model.num_negatives, model.negatives_symbol, num_planned_steps)
    progress = ProgressBar(f"{title}, {run.size}", num_planned_steps)
    checkpoint_epochs = schedule.checkpoint_epochs()
    train_steps = compile_steps(model)
    memory = PeakMemory()
    losses: list[np.ndarray] = []
    step_seconds: list[float] = []

    def check(num_steps: int) -> None:
        if run.checkpoints and run.checkpoints[-1].num_steps == num_steps:
            return
        quality = evaluate(*model.ranking_tables())
        run.checkpoints.append(Checkpoint(num_steps, run.seconds / 60, quality))

    done = 0
    note = ""
    for epoch in range(schedule.num_epochs):
        batches = schedule.epoch_batches(data, epoch)
        for part in _parts(steps_per_epoch, step_seconds):
            tensors = [tf.constant(array[part]) for array in batches]
            # Evaluations leave memory behind that would be counted from then on.
            with contextlib.nullcontext() if run.checkpoints else memory.watch():
                start = time.perf_counter()
                losses.append(train_steps(*tensors).numpy())
                seconds = time.perf_counter() - start
            run.seconds += seconds
            step_seconds.append(seconds / len(losses[-1]))
            done += len(losses[-1])
            note = f"loss {losses[-1][-1]:.4f}"
            if run.checkpoints:
                note += f"  recall {run.checkpoints[-1].quality.recall:.4f}"
            progress.update(done, note)
            if schedule.is_over(run.seconds):
                break
            if schedule.is_overdue(run):
                check(done)
        stopped = done < (epoch + 1) * steps_per_epoch
        if epoch in checkpoint_epochs or stopped:
            check(done)
        if stopped:
            break
    progress.finish(done, note)
    run.losses = np.concatenate(losses)
    run.step_ms = 1e3 * float(np.median(step_seconds))
    run.peak_memory_mib = memory.mib
    return run


def compile_steps(model: TrainableModel) -> Callable[..., tf.Tensor]:
    """Traces a function that makes one training step per leading row of its inputs.

    Several steps per call keep Python and the input pipeline out of the step: Keras `fit` adds 2 to
    4 ms to each step of the same model.
    """

    @tf.function(input_signature=BATCHES_SIGNATURE)
    def train_steps(users, items, labels):
        num_steps = tf.shape(users)[0]
        losses = tf.TensorArray(tf.float32, num_steps)
        for i in tf.range(num_steps):
            losses = losses.write(i, model.optimise(users[i], items[i], labels[i]))
        return losses.stack()

    train_steps.get_concrete_function()
    return train_steps


def _parts(num_steps: int, step_seconds: list[float]) -> Iterator[slice]:
    """Cuts an epoch into calls of about half a second, going by the latest time per step."""
    start = 0
    while start < num_steps:
        length = 1
        if step_seconds:
            length = int(np.clip(_SECONDS_PER_CALL / step_seconds[-1], 1, _MAX_STEPS_PER_CALL))
        yield slice(start, start + length)
        start += length
