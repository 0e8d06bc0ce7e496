"""support_vector_guided_softmax_loss: softmax over given scores, support vectors emphasised."""

from typing import Any

import tensorflow as tf

from fastneg.arguments.sv_softmax import SvSoftmaxArguments
from fastneg.losses import common


def support_vector_guided_softmax_loss(
    pos_score: Any,
    neg_scores: Any,
    margin: Any = 0,
    t: Any = 1,
    smooth: Any = 1.0,
    threshold: Any = 0,
    weights: Any = 1.0,
    *,
    name: str | None = None,
) -> tf.Tensor:
    """Softmax loss of a positive score against K negative ones, support vectors emphasised.

    For each row, with the positive's score c_0 and the negatives' c_1 .. c_K:

        p    = c_0 - margin
        s_k  = t c_k + t - 1  if p - c_k < threshold (a hard negative)  else  c_k
        loss = sum_i w_i (logsumexp(smooth p, smooth s_1, .., smooth s_K) - smooth p)
               / #{i : w_i != 0}

    where i runs over the rows. The choice between hard and easy is a constant for the gradient. A
    loss over no rows is 0, and so is that of a row without negatives. Scores of rows of weight 0 do
    not matter, whatever they are. A negative of score -inf is as good as absent.

    Args:
        pos_score: Scores of the positives, [P] or [P, 1]: float16, bfloat16, float32 or float64.
        neg_scores: Scores of the negatives, [P, K], the same dtype.
        margin: Subtracted from the positive's score. A number or scalar tensor.
        t: Emphasis of hard negatives, 1 for none. A number or scalar tensor.
        smooth: Scale of the logits (the inverse of a temperature). A number or scalar tensor.
        threshold: Negatives are hard unless the positive beats them by this much. A number or
            scalar tensor; a constant for the gradient.
        weights: A number or scalar tensor, which scales the loss, or a weight per row: [P] or
            [P, 1].
        name: Name of the scope in the graph.

    Returns:
        The loss, a scalar: float64 for float64 scores, else float32. It is differentiable with
        respect to the scores, and to `weights`, `smooth`, `margin` and `t` where they are tensors.

    Raises:
        ValueError: An argument or a static shape is wrong.
        tf.errors.InvalidArgumentError: A run-time shape is wrong.

    Example:
        >>> pos_score = tf.constant([0.8, 0.3])
        >>> neg_scores = tf.constant([[0.1, 0.9, -0.2], [0.0, 0.1, 0.5]])
        >>> loss = fastneg.support_vector_guided_softmax_loss(
        ...     pos_score, neg_scores, margin=0.1, t=1.2, smooth=10.0
        ... )
        >>> print(f"{loss:.4f}")
        5.9034

    Source:
        The function of this name published at https://developer.aliyun.com/article/873405, after
        Wang et al., "Support Vector Guided Softmax Loss for Face Recognition", arXiv 1812.11317.
    """
    with common.scope(name, "support_vector_guided_softmax_loss"):
        arguments = SvSoftmaxArguments(
            pos_score=pos_score,
            neg_scores=neg_scores,
            margin=margin,
            t=t,
            smooth=smooth,
            threshold=threshold,
            weights=weights,
        )
        return arguments.scaled(common.backend("sv_softmax").sv_softmax(arguments))
