"""The arguments of `support_vector_guided_softmax_loss`."""

from dataclasses import dataclass

import tensorflow as tf

from fastneg import validation
from fastneg.arguments.common import Arguments


@dataclass(frozen=True, kw_only=True, eq=False)
class SvSoftmaxArguments(Arguments):
    """What `support_vector_guided_softmax_loss` was given, as every backend takes it.

    The compute dtype is float64 for float64 scores and float32 for all others. A backend raises
    tf.errors.InvalidArgumentError where run-time shapes disagree.

    Attributes:
        pos_score: [P] or [P, 1], float16, bfloat16, float32 or float64.
        neg_scores: [P, K], the same dtype.
        margin: A finite Python float, or a scalar tensor in the compute dtype, which is
            differentiated.
        t: As `margin`.
        smooth: As `margin`.
        threshold: As `margin`, but a constant for differentiation.
        weights: [P] or [P, 1] in the compute dtype, or None for 1 everywhere.
    """

    pos_score: tf.Tensor
    neg_scores: tf.Tensor
    margin: float | tf.Tensor
    t: float | tf.Tensor
    smooth: float | tf.Tensor
    threshold: float | tf.Tensor
    weights: tf.Tensor | None

    def __post_init__(self) -> None:
        """Converts, and checks what static shapes tell."""
        pos_score, neg_scores = validation.scores(
            "pos_score", self.pos_score, "neg_scores", self.neg_scores
        )
        dtype = validation.compute_dtype(neg_scores.dtype)
        num_rows = validation.static_batch_size(neg_scores, pos_score)
        weights, loss_factor = validation.weights(
            "weights", self.weights, pos_score, num_rows, dtype
        )
        self._settle(
            pos_score=pos_score,
            neg_scores=neg_scores,
            margin=validation.number_or_scalar("margin", self.margin, dtype),
            t=validation.number_or_scalar("t", self.t, dtype),
            smooth=validation.number_or_scalar("smooth", self.smooth, dtype),
            threshold=validation.number_or_scalar("threshold", self.threshold, dtype),
            weights=weights,
            loss_factor=loss_factor,
        )
