"""Turns the arguments of `support_vector_guided_softmax_loss` into what a backend takes."""

from typing import Any, NamedTuple

import tensorflow as tf

from fastneg import validation


class SvSoftmaxInputs(NamedTuple):
    """The arguments of `fastneg.backends.SvSoftmax`; a number as weight is `loss_factor`."""

    pos_score: tf.Tensor
    neg_scores: tf.Tensor
    smooth: float | tf.Tensor
    margin: float | tf.Tensor
    t: float | tf.Tensor
    threshold: float | tf.Tensor
    weights: tf.Tensor | None
    loss_factor: float


def prepare(
    pos_score: Any,
    neg_scores: Any,
    margin: Any,
    t: Any,
    smooth: Any,
    threshold: Any,
    weights: Any,
) -> SvSoftmaxInputs:
    """Converts, and checks what static shapes tell."""
    pos_score, neg_scores = validation.scores("pos_score", pos_score, "neg_scores", neg_scores)
    dtype = validation.compute_dtype(neg_scores.dtype)
    num_rows = validation.static_batch_size(neg_scores, pos_score)
    row_weights, loss_factor = validation.weights("weights", weights, pos_score, num_rows, dtype)
    return SvSoftmaxInputs(
        pos_score,
        neg_scores,
        validation.number_or_scalar("smooth", smooth, dtype),
        validation.number_or_scalar("margin", margin, dtype),
        validation.number_or_scalar("t", t, dtype),
        validation.number_or_scalar("threshold", threshold, dtype),
        row_weights,
        loss_factor,
    )
