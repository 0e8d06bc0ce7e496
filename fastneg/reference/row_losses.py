"""What a row makes of its logits, with the positive in the softmax or out, in plain TensorFlow."""

import math
from typing import Any

import tensorflow as tf


def row_losses(logits: tf.Tensor, hits: tf.Tensor | None, arguments: Any) -> tf.Tensor:
    """Losses of rows of logits, [P, 1 + K], whose first ones are the positives'.

    Args:
        logits: Those of negatives that are left out are -inf.
        hits: Which negatives are, [P, K]; None for none.
        arguments: Of the loss.
    """
    if arguments.positive_in_softmax:
        # logsumexp(logits) - logits[:, 0], in the form that loses no digits when it is small.
        labels = tf.zeros_like(logits[:, 0], tf.int32)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    negatives = logits[:, 1:]
    kept = tf.ones_like(negatives, tf.bool) if hits is None else ~hits
    return decoupled_losses(logits[:, 0], negatives, kept, arguments)


def decoupled_losses(
    own: tf.Tensor, negatives: tf.Tensor, kept: tf.Tensor, arguments: Any
) -> tf.Tensor:
    """Losses of rows, 0 for those without a negative.

    Args:
        own: Logits of the positives, [P].
        negatives: Those of the negatives, [P, N]; -inf stands for none.
        kept: Which negatives there are, [P, N].
        arguments: `negative_weight` and `correction` of a loss, whose logits these are.
    """
    lowest = tf.constant(-math.inf, negatives.dtype)
    present = kept & tf.not_equal(negatives, lowest)
    has_negatives = tf.reduce_any(present, axis=1)
    used = tf.where(present, negatives, tf.where(has_negatives, lowest, 0)[:, None])
    log_sum = tf.reduce_logsumexp(used, axis=1)
    losses = arguments.negative_weight * log_sum - own
    if arguments.correction == "refined":
        count = tf.math.count_nonzero(kept, axis=1, dtype=negatives.dtype)
        losses *= tf.stop_gradient(tf.sigmoid(log_sum - tf.math.log(count) - own))
    return tf.where(has_negatives, losses, 0)


def correction(log_q: tf.Tensor, own_probability: tf.Tensor, arguments: Any) -> tf.Tensor:
    """What is subtracted from logits [P, 1 + K]; the positives' are the first.

    Args:
        log_q: Logarithms of the candidates' probabilities, [P, 1 + K].
        own_probability: The positives' probabilities, [P].
        arguments: Of the loss.
    """
    if arguments.correction == "refined":
        log_q -= log_of_others(own_probability)[:, None]
        log_q = tf.pad(log_q[:, 1:], [[0, 0], [1, 0]])
    return tf.stop_gradient(log_q)


def log_of_others(probability: tf.Tensor) -> tf.Tensor:
    """log(1 - q), which the refined correction adds to the logits of a row's negatives."""
    return tf.math.log(tf.maximum(1 - probability, 1e-9))
