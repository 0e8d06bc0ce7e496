"""The SV-softmax loss over given scores in plain TensorFlow."""

from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.arguments.sv_softmax import SvSoftmaxArguments
from fastneg.reference.checks import compilable_vector, dimension, rank, require, same_shape
from fastneg.reference.missing import without_missing


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
    """`fastneg.support_vector_guided_softmax_loss` in plain TensorFlow.

    The fused function describes the arguments. Unlike it, this one has derivatives of every order.

    Args:
        pos_score: See the fused function.
        neg_scores: See the fused function.
        margin: See the fused function.
        t: See the fused function.
        smooth: See the fused function.
        threshold: See the fused function.
        weights: See the fused function.
        name: See the fused function.

    Returns:
        The scalar loss.
    """
    with tf.name_scope(name or "support_vector_guided_softmax_loss"):
        arguments = SvSoftmaxArguments(
            pos_score=pos_score,
            neg_scores=neg_scores,
            margin=margin,
            t=t,
            smooth=smooth,
            threshold=threshold,
            weights=weights,
        )
        return arguments.scaled(sv_softmax(arguments))


def sv_softmax(arguments: SvSoftmaxArguments) -> tf.Tensor:
    """The composition itself."""
    # XLA can neither raise nor handle shapes that depend on values: there rows that are not used
    # are masked instead of dropped.
    masked = in_xla()
    if not masked:
        arguments = _checked(arguments)
    pos_score, neg_scores, weights = arguments.pos_score, arguments.neg_scores, arguments.weights
    smooth, margin, t = arguments.smooth, arguments.margin, arguments.t
    dtype = validation.compute_dtype(neg_scores.dtype)
    neg_scores = tf.ensure_shape(neg_scores, [None, None])
    if masked:
        pos_score = compilable_vector(pos_score, dimension(neg_scores, 0))
        if weights is not None:
            weights = compilable_vector(weights, dimension(neg_scores, 0))
    pos_score = tf.reshape(pos_score, [-1, 1])

    def row_losses(used: tf.Tensor | None) -> tf.Tensor:
        """Losses of the rows where `used`; the others are left out, or 0 where they cannot be."""
        positive = tf.cast(_rows(pos_score, used, masked), dtype) - margin
        negatives = tf.cast(_rows(neg_scores, used, masked), dtype)
        hard = positive - negatives < arguments.threshold

        def negative_logits(scores: tf.Tensor) -> tf.Tensor:
            return smooth * tf.where(hard, t * scores + t - 1, scores)

        logits = tf.concat(
            [smooth * positive, without_missing(negative_logits, negatives, [smooth, t])], axis=1
        )
        # logsumexp(logits) - logits[:, 0], in the form that loses no digits when it is small.
        labels = tf.zeros_like(logits[:, 0], tf.int32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return _rows(losses, used, masked) if masked else losses

    if weights is None:
        total = tf.reduce_sum(row_losses(None))
        num_rows = tf.cast(tf.shape(neg_scores)[0], dtype)
    else:
        weights = tf.reshape(weights, [-1])
        weighted, unweighted = tf.not_equal(weights, 0), tf.equal(weights, 0)
        total = tf.reduce_sum(_rows(weights, weighted, masked) * row_losses(weighted))
        # Rows of weight 0 add nothing but the gradient of their weight, which is their loss.
        total += tf.reduce_sum(
            tf.math.multiply_no_nan(
                tf.stop_gradient(row_losses(unweighted)), _rows(weights, unweighted, masked)
            )
        )
        num_rows = tf.math.count_nonzero(weighted, dtype=dtype)
    return tf.math.divide_no_nan(total, num_rows)


def _rows(values: tf.Tensor, used: tf.Tensor | None, masked: bool) -> tf.Tensor:
    """The rows where `used`; `masked`: all of them, with zeros in the place of the others."""
    if used is None:
        return values
    if not masked:
        return tf.boolean_mask(values, used)
    mask = used[:, None] if values.shape.rank == 2 else used
    return tf.where(mask, values, tf.zeros([], values.dtype))


def _checked(arguments: SvSoftmaxArguments) -> SvSoftmaxArguments:
    """The scores become such that are computed only if everything is as it must be."""
    neg_scores = arguments.neg_scores
    checks: list[Any] = []
    if neg_scores.shape.rank is None:
        require(
            checks,
            tf.equal(rank(neg_scores), 2),
            "`neg_scores` must have rank 2, [num_rows, num_negatives].",
            tf.shape(neg_scores),
        )
    with tf.control_dependencies(checks):  # A scalar has no first dimension.
        num_rows = tf.shape(neg_scores, out_type=tf.int64)[0]
    for name in ("pos_score", "weights"):
        value = getattr(arguments, name)
        if value is None or (value.shape.is_fully_defined() and _is_static(neg_scores)):
            continue
        actual = tf.shape(value, out_type=tf.int64)
        fits = same_shape(actual, num_rows[None]) | same_shape(actual, tf.stack([num_rows, 1]))
        require(
            checks,
            fits,
            f"`{name}` must have shape [num_rows] or [num_rows, 1], where num_rows is",
            num_rows,
            actual,
        )
    for name in ("smooth", "margin", "t", "threshold"):
        value = getattr(arguments, name)
        if isinstance(value, tf.Tensor) and value.shape.rank is None:
            require(
                checks, tf.equal(rank(value), 0), f"`{name}` must be a scalar.", tf.shape(value)
            )
    with tf.control_dependencies(checks):
        return arguments.replaced(
            pos_score=tf.identity(arguments.pos_score), neg_scores=tf.identity(neg_scores)
        )


def _is_static(neg_scores: tf.Tensor) -> bool:
    """Whether static checks have seen how many rows there are."""
    return neg_scores.shape.rank is not None and neg_scores.shape[0] is not None
