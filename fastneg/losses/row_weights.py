"""The argument `weights` of a loss over rows: a number, a scalar tensor, or one weight per row."""

from typing import Any

import tensorflow as tf

from fastneg import validation


def row_weights(
    weights: Any, labels: tf.Tensor, batch_size: int | None, dtype: tf.DType
) -> tuple[tf.Tensor | None, float]:
    """Returns weights per row, or None, and a factor for the loss.

    Args:
        weights: What the caller gave.
        labels: [B] or [B, 1].
        batch_size: B where it is static.
        dtype: The compute dtype.
    """
    if validation.is_number(weights):
        factor = validation.number("weights", weights)
        if factor != 0.0:
            return None, factor
        # No row counts, which is more than a loss times 0: NaN in an input must not survive.
        weights = tf.zeros([], dtype)
    weights = validation.real_tensor("weights", weights, dtype)
    if weights.shape.rank == 0:
        shape = tf.shape(labels) if batch_size is None else [batch_size]
        return tf.broadcast_to(weights, shape), 1.0
    validation.per_row("weights", weights, batch_size, allow_column=True)
    return weights, 1.0
