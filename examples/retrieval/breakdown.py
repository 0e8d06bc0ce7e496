"""Where a training step's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from .interactions import Interactions
from .lazy_adam import sum_duplicate_rows
from .model import TwoTower
from .training import BATCHES_SIGNATURE, Schedule

STAGES = ("lookup", "loss", "gradient rows", "optimiser")
_SECONDS_PER_CALL = 0.3
_SECONDS_PER_STAGE = 1.5
_MAX_CALLS = 10
_MAX_BATCHES = 32


def measure_stages(model: TwoTower, data: Interactions, schedule: Schedule) -> dict[str, float]:
    """Milliseconds per step of each stage; the model is trained a little further by it.

    Ever longer beginnings of a training step are timed, in the loop that training uses; a stage is
    what it adds. "loss" is the loss and its gradients by the looked-up rows, "gradient rows" sums
    the gradients of rows that a batch shows more than once.
    """
    batches = schedule.epoch_batches(data, epoch=0)
    beginnings = (_look_up, _up_to_loss, _up_to_gradient_rows, _whole_step)
    until = [_time_ms(_loop(model, beginning), batches) for beginning in beginnings]
    return {stage: max(ms, 0.0) for stage, ms in zip(STAGES, np.diff([0.0, *until]), strict=True)}


def _look_up(model, users, items, labels):
    user_emb, item_emb = model((users, items))
    return user_emb[0, 0] + item_emb[0, 0]


def _up_to_loss(model, users, items, labels):
    user_emb, item_emb = model((users, items))
    shifts = model.draw_shifts(tf.shape(users)[0], model.optimizer.iterations)
    with tf.GradientTape() as tape:
        tape.watch((user_emb, item_emb))
        loss = model.batch_loss(user_emb, item_emb, items, labels, shifts)
    grad_user, grad_item = tape.gradient(loss, (user_emb, item_emb))
    return loss + grad_user[0, 0] + grad_item[0, 0]


def _up_to_gradient_rows(model, users, items, labels):
    shifts = model.draw_shifts(tf.shape(users)[0], model.optimizer.iterations)
    with tf.GradientTape() as tape:
        user_emb, item_emb = model((users, items))
        loss = model.batch_loss(user_emb, item_emb, items, labels, shifts)
    for gradient in tape.gradient(loss, model.trainable_variables):
        loss += sum_duplicate_rows(gradient)[1][0, 0]
    return loss


def _whole_step(model, users, items, labels):
    return model.optimise(users, items, labels)


def _loop(model: TwoTower, beginning: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    @tf.function(input_signature=BATCHES_SIGNATURE)
    def loop(users, items, labels):
        total = tf.constant(0.0)
        for i in tf.range(tf.shape(users)[0]):
            total += beginning(model, users[i], items[i], labels[i])
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
