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
    """Milliseconds per step of each stage; the model is spoilt by it.

    "lookup": embedding the batch. "loss": the loss and its gradients by the embedded rows.
    "gradient rows": summing the gradients of rows that a batch shows more than once. "optimiser":
    lazy Adam on those sums. The last two are timed with stand-in gradients, because the small
    difference of two steps with a slow loss is lost in the noise.
    """
    batches = schedule.epoch_batches(data, epoch=0)
    lookup, with_loss, with_rows, with_optimiser = (
        _time_ms(_loop(model, part), batches) for part in (_look_up, _loss, _rows, _optimise)
    )
    stages = (lookup, with_loss - lookup, with_rows - lookup, with_optimiser - with_rows)
    return dict(zip(STAGES, (max(ms, 0.0) for ms in stages), strict=True))


def _look_up(model, users, items, labels):
    user_emb, item_emb = model((users, items))
    return user_emb[0, 0] + item_emb[0, 0]


def _loss(model, users, items, labels):
    user_emb, item_emb = model((users, items))
    shifts = model.draw_shifts(tf.shape(users)[0], model.optimizer.iterations)
    with tf.GradientTape() as tape:
        tape.watch((user_emb, item_emb))
        loss = model.batch_loss(user_emb, item_emb, items, labels, shifts)
    grad_user, grad_item = tape.gradient(loss, (user_emb, item_emb))
    return loss + grad_user[0, 0] + grad_item[0, 0]


def _rows(model, users, items, labels):
    grad_user, grad_item = _stand_in_gradients(model, users, items)
    return sum_duplicate_rows(grad_user)[1][0, 0] + sum_duplicate_rows(grad_item)[1][0, 0]


def _optimise(model, users, items, labels):
    model.optimizer.apply(_stand_in_gradients(model, users, items), model.trainable_variables)
    return 0.0


def _stand_in_gradients(model, users, items):
    user_emb, item_emb = model((users, items))
    return [tf.IndexedSlices(item_emb, users), tf.IndexedSlices(user_emb, items)]


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
