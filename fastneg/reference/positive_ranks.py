"""Ranks of positives in plain TensorFlow, with all scores in one matrix."""

from typing import Any

import tensorflow as tf

from fastneg._tensorflow import in_xla
from fastneg.arguments.in_batch_softmax import PositiveRanksArguments
from fastneg.reference.in_batch_softmax import Rows, positives_are_valid
from fastneg.reference.in_batch_softmax_checks import checked, compilable_arguments


def positive_ranks(
    query_embeddings: Any,
    candidate_embeddings: Any,
    positives: Any = None,
    *,
    normalize: bool = False,
    candidate_ids: Any = None,
    candidate_mask: Any = None,
    score_mask: Any = None,
    name: str | None = None,
) -> tf.Tensor:
    """`fastneg.positive_ranks` as a composition of TensorFlow operations.

    Args:
        query_embeddings: See the fused function.
        candidate_embeddings: See the fused function.
        positives: See the fused function.
        normalize: See the fused function.
        candidate_ids: See the fused function.
        candidate_mask: See the fused function.
        score_mask: See the fused function.
        name: See the fused function.

    Returns:
        [B], int32.
    """
    with tf.name_scope(name or "positive_ranks"):
        arguments = PositiveRanksArguments(
            query_embeddings=query_embeddings,
            candidate_embeddings=candidate_embeddings,
            positives=positives,
            normalize=normalize,
            candidate_ids=candidate_ids,
            candidate_mask=candidate_mask,
            score_mask=score_mask,
        )
        return arguments.marked(ranks(arguments))


def ranks(arguments: PositiveRanksArguments) -> tf.Tensor:
    """The composition itself."""
    # XLA cannot raise: there invalid positives make ranks of -1.
    compiled = in_xla()
    arguments = compilable_arguments(arguments) if compiled else checked(arguments)
    rows = Rows(arguments)
    own = rows.own_scores[:, None]
    behind = rows.columns > rows.positives[:, None]
    beaten = (rows.scores < own) | (tf.equal(rows.scores, own) & behind)
    result = tf.math.count_nonzero(rows.negatives() & ~beaten, axis=1, dtype=tf.int32)
    return tf.where(positives_are_valid(arguments), result, -1) if compiled else result
