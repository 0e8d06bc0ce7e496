"""pairwise_loss: logistic loss over the pairs of rows that labels put in order."""

from typing import Any

import tensorflow as tf

from fastneg.arguments.pairwise_logistic import PairwiseLogisticArguments
from fastneg.losses import common


def pairwise_loss(
    labels: Any,
    logits: Any,
    session_ids: Any = None,
    margin: Any = 0.0,
    temperature: Any = 1.0,
    weights: Any = 1.0,
    *,
    name: str | None = None,
) -> tf.Tensor:
    """Mean logistic loss over all pairs of rows in which the first has the larger label.

    With x the logits, and (i, j) running over the ordered pairs of rows of one session with
    labels[i] > labels[j]:

        z_ij = (x_i - x_j) / temperature - margin
        loss = sum_ij w_i log(1 + exp(-z_ij)) / #{(i, j) : w_i != 0}

    A loss over no pair is 0. No pair is formed in memory, and the time is that of sorting and a few
    passes over the rows, whatever the number of pairs: sums over many pairs come from power series
    that agree with the logistic function to 1e-12 (float64: 3e-14) of each pair's loss, and are
    added up in float64. So the result is that of all pairs, not of a sample. Pairs whose loss is
    below 1e-37 count as 0.

    In `model.compile`, `fastneg.losses.PairwiseLoss` is this loss: of a function Keras would scale
    the result by the mean of `sample_weight`.

    Args:
        labels: What the rows are ordered by: [B] or [B, 1], integer, floating point or bool. A row
            whose label is NaN is in no pair.
        logits: The rows' logits, x: [B] or [B, 1], float16, bfloat16, float32 or float64.
        session_ids: [B] or [B, 1] integers, in any order. Only rows of one session are paired. None
            for a single session. Floats that are whole numbers will do, if none can be the rounded
            form of another: float32 below 2**24, for instance.
        margin: By how much logits of a pair should differ, in units of the temperature. A number or
            scalar tensor.
        temperature: Divides differences of logits, not 0. A number or scalar tensor.
        weights: A number or scalar tensor, which scales the loss, or a weight per row, [B] or
            [B, 1], for the pairs in which the row has the larger label.
        name: Name of the scope in the graph.

    Returns:
        The loss, a scalar: float64 for float64 logits, else float32. It is differentiable with
        respect to `logits`, and to `weights`, `margin` and `temperature` where they are tensors.

    Raises:
        ValueError: An argument or a static shape is wrong.
        tf.errors.InvalidArgumentError: A run-time shape is wrong, a temperature tensor is 0, or a
            float among the session ids is no integer. The composition inside XLA cannot raise for a
            temperature, nor anything inside XLA for such a float: the loss is NaN.

    Example:
        >>> labels = tf.constant([1, 0, 1, 0])
        >>> logits = tf.constant([0.7, 0.7, 0.7, 0.7])
        >>> loss = fastneg.pairwise_loss(labels, logits)  # Every pair costs log 2.
        >>> print(f"{loss:.4f}")
        0.6931
        >>> loss = fastneg.pairwise_loss(
        ...     labels, logits, session_ids=[5, 5, 3, 3], weights=[1, 0, 3, 0]
        ... )
        >>> print(f"{loss:.4f}")
        1.3863

    Source:
        The published function of this name, `pairwise_loss(labels, logits)`; the other arguments
        are those of its successor in EasyRec. The loss is that of Burges et al., "Learning to Rank
        using Gradient Descent", ICML 2005.
    """
    with common.scope(name, "pairwise_loss"):
        arguments = PairwiseLogisticArguments(
            labels=labels,
            logits=logits,
            session_ids=session_ids,
            margin=margin,
            temperature=temperature,
            weights=weights,
        )
        return arguments.scaled(common.backend("pairwise_logistic").pairwise_logistic(arguments))
