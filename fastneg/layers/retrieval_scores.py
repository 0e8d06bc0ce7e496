"""What Retrieval needs a matrix of scores for: several embeddings of a query, and batch metrics."""

from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg.arguments.in_batch_softmax import InBatchSoftmaxArguments
from fastneg.reference.in_batch_softmax import Rows, in_batch_softmax
from fastneg.reference.in_batch_softmax_checks import checked

_LEFT_OUT = tf.float32.min / 100
"""The score of candidates that are left out: they are the last, and no metric overflows."""


def max_sim_loss(heads: tf.Tensor, candidate: tf.Tensor, arguments: dict[str, Any]) -> tf.Tensor:
    """`in_batch_softmax_loss` of scores max_h <q_ih, c_j>, in plain TensorFlow.

    Args:
        heads: [B, H, D], with H at least 1.
        candidate: [C, D].
        arguments: The others of the loss.
    """
    made = _arguments(heads, candidate, arguments)
    with tf.name_scope("in_batch_softmax_loss"):
        return made.scaled(in_batch_softmax(made))


def batch_scores(
    query: tf.Tensor, candidate: tf.Tensor, arguments: dict[str, Any]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The labels, one-hot, and scores that metrics over the batch's candidates see.

    Scores are divided by temperature and corrected for probability. Candidates that are left out
    have the lowest. With H hard negatives, the columns are the positive and they, in order.

    Args:
        query: [B, D] or [B, H, D].
        candidate: [C, D].
        arguments: The others of the loss.

    Returns:
        Both [B, C] or [B, min(H + 1, C)], in the compute dtype.
    """
    made = _arguments(query, candidate, arguments)
    made = checked(made.replaced(margin=0.0, t=1.0, correction="standard"))
    rows = Rows(made)
    scores = rows.logits()
    lowest = tf.constant(_LEFT_OUT, scores.dtype)
    scores = tf.where(rows.negatives() | rows.is_positive, scores, lowest)
    labels = tf.cast(rows.is_positive, scores.dtype)
    if made.num_hard_negatives is None:
        return labels, scores
    first = tf.where(rows.is_positive, tf.constant(float("inf"), scores.dtype), scores)
    count = tf.minimum(min(made.num_hard_negatives, 2**31 - 2) + 1, rows.num_candidates)
    places = tf.math.top_k(first, count).indices
    return tf.gather(labels, places, batch_dims=1), tf.gather(scores, places, batch_dims=1)


def _arguments(
    query: tf.Tensor, candidate: tf.Tensor, arguments: dict[str, Any]
) -> InBatchSoftmaxArguments:
    """Checks one embedding of each query, and hands all of them to the composition."""
    if query.shape.rank != 3:
        return InBatchSoftmaxArguments(
            query_embeddings=query, candidate_embeddings=candidate, **arguments
        )
    if query.shape[1] == 0:
        raise ValueError(
            "`query_embeddings` must have at least one embedding for each query. "
            f"Received: {validation.shape_text(query.shape)}."
        )
    made = InBatchSoftmaxArguments(
        query_embeddings=query[:, 0], candidate_embeddings=candidate, **arguments
    )
    return made.replaced(query_embeddings=query)
