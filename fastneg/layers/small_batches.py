"""Fewer negatives for a batch of few rows, such as the last one of an epoch.

The function `fastneg.softmax_loss_with_negative_mining` refuses a batch of at most K rows. In a
model that would end a training run with its first epoch, or an evaluation at its last batch.
"""

from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.arguments.rolled_softmax import draw_shifts
from fastneg.arguments.seeds import seed_of_replica


def limit_negatives(
    num_negatives: int, seed: int | None, arguments: dict[str, Any]
) -> dict[str, Any]:
    """Returns arguments with which min(K, B - 1) negatives are drawn.

    A batch of one row has no negatives; an empty one takes its place, the loss of which is 0, too.

    Args:
        num_negatives: K. If it is no number of negatives, the function is left to say so.
        seed: Of the shifts.
        arguments: Other arguments of the function, `user_emb` [B, D] among them. What is not None,
            and not a scalar, has B rows.

    Returns:
        The arguments, `num_negative_samples` and, where B is known later than now, `shifts`.
    """
    rows = {
        name: validation.to_tensor(name, value)
        for name, value in arguments.items()
        if value is not None and not validation.is_number(value)
    }
    rows = {name: value for name, value in rows.items() if value.shape.rank != 0}
    valid = isinstance(num_negatives, int) and num_negatives >= 1
    if not valid or rows["user_emb"].shape.rank != 2:
        return {**arguments, "num_negative_samples": num_negatives}

    batch_size = validation.static_batch_size(*rows.values())
    if batch_size is None:
        size = tf.shape(rows["user_emb"])[0]
        shifts = draw_shifts(rows["user_emb"], None, num_negatives, seed_of_replica(seed))
        return {
            **arguments,
            **_without_a_single_row(rows, size),
            "num_negative_samples": num_negatives,
            "shifts": shifts[: tf.maximum(size - 1, 1)],
        }
    if batch_size == 1:
        rows = {name: value[1:] for name, value in rows.items()}
    elif batch_size > 1:
        num_negatives = min(num_negatives, batch_size - 1)
    return {**arguments, **rows, "num_negative_samples": num_negatives}


def _without_a_single_row(rows: dict[str, tf.Tensor], size: tf.Tensor) -> dict[str, tf.Tensor]:
    if in_xla():
        # There a size is a constant, and a slice becomes part of what reads it. The branches of a
        # cond would have to agree about it.
        first = tf.cast(size == 1, tf.int32)
        return {name: value[first:] for name, value in rows.items()}
    # Unlike a slice, a cond copies nothing, neither here nor in the gradient.
    chosen: dict[str, tf.Tensor] = tf.cond(
        size == 1, lambda: {name: value[1:] for name, value in rows.items()}, lambda: rows
    )
    return chosen
