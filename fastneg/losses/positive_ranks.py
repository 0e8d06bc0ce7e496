"""positive_ranks: how many candidates come before each query's own."""

from typing import Any

import tensorflow as tf

from fastneg.arguments.in_batch_softmax import PositiveRanksArguments
from fastneg.losses import common


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
    """The place of each query's positive among all candidates, 0 for the first.

    Row i's positive is candidate p(i): i, or `positives[i]`. Its rank is the number of the row's
    negatives with a larger score, or with the same one and a smaller index: whether it is among the
    first k for every k at once. Which candidates are negatives is as in `in_batch_softmax_loss`. A
    score of NaN counts as larger than any positive's, and a positive's as smaller than any other.

    Hit rate or Recall@k of one positive per row is the mean of `ranks < k`, the mean reciprocal
    rank that of `1 / (ranks + 1)`, NDCG@k that of `log(2) / log(ranks + 2)` where `ranks < k`.

    Args:
        query_embeddings: [B, D]: float16, bfloat16, float32 or float64.
        candidate_embeddings: [C, D], the same dtype; C >= B without `positives`.
        positives: [B] integers, 0 <= p(i) < C; None for p(i) = i.
        normalize: Whether rows are L2-normalised first, as `tf.nn.l2_normalize` does.
        candidate_ids: [C] integers. Candidates with the id of a row's positive are left out.
        candidate_mask: [C] bool, false for candidates that are left out.
        score_mask: [B, C] bool, false for candidates that are left out of a row.
        name: Name of the scope in the graph.

    Returns:
        The ranks, [B], int32. They have no gradient.

    Raises:
        ValueError: An argument or a static shape is wrong.
        tf.errors.InvalidArgumentError: A run-time shape is wrong, or a positive is out of range.
            The composition cannot raise inside XLA: its ranks are -1 there.

    Example:
        >>> queries = tf.constant([[1.0, 0.0], [0.0, 1.0]])
        >>> candidates = tf.constant([[3.0, 1.0], [5.0, 2.0], [4.0, 9.0]])
        >>> fastneg.positive_ranks(queries, candidates).numpy()
        array([2, 1], dtype=int32)
    """
    with common.scope(name, "positive_ranks"):
        arguments = PositiveRanksArguments(
            query_embeddings=query_embeddings,
            candidate_embeddings=candidate_embeddings,
            positives=positives,
            normalize=normalize,
            candidate_ids=candidate_ids,
            candidate_mask=candidate_mask,
            score_mask=score_mask,
        )
        return arguments.marked(common.backend("positive_ranks").positive_ranks(arguments))
