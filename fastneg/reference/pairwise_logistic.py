"""The pairwise logistic loss in plain TensorFlow."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.arguments.pairwise_logistic import PairwiseLogisticArguments
from fastneg.reference import checks
from fastneg.reference.checks import compilable_vector, dimension
from fastneg.reference.missing import without_missing


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
    """`fastneg.pairwise_loss` in plain TensorFlow.

    The fused function describes the arguments. Unlike it, this one has derivatives of every order,
    and needs memory for every pair.

    Args:
        labels: See the fused function.
        logits: See the fused function.
        session_ids: See the fused function.
        margin: See the fused function.
        temperature: See the fused function.
        weights: See the fused function.
        name: See the fused function.

    Returns:
        The scalar loss.
    """
    with tf.name_scope(name or "pairwise_loss"):
        arguments = PairwiseLogisticArguments(
            labels=labels,
            logits=logits,
            session_ids=session_ids,
            margin=margin,
            temperature=temperature,
            weights=weights,
        )
        return arguments.scaled(pairwise_logistic(arguments))


def pairwise_logistic(arguments: PairwiseLogisticArguments) -> tf.Tensor:
    """The composition itself."""
    # XLA can neither raise nor handle shapes that depend on values: there a temperature of 0 makes
    # the loss NaN, and pairs that do not count are masked instead of dropped.
    masked = in_xla()
    if not masked:
        arguments = _checked(arguments)
    labels, logits, weights = arguments.labels, arguments.logits, arguments.weights
    margin, temperature = arguments.margin, arguments.temperature
    total_loss = _masked_total if masked else _total

    dtype = validation.compute_dtype(logits.dtype)
    logits = tf.cast(_vector(logits), dtype)

    def fitting(values: tf.Tensor) -> tf.Tensor:
        return compilable_vector(values, dimension(logits, 0)) if masked else _vector(values)

    labels = fitting(tf.cast(labels, tf.int8) if labels.dtype == tf.bool else labels)
    ordered = labels[:, None] > labels[None, :]
    if arguments.session_ids is not None:
        session_ids = fitting(arguments.session_ids)
        ordered &= tf.equal(session_ids[:, None], session_ids[None, :])

    def exponents(differences: tf.Tensor) -> tf.Tensor:
        return margin - differences / temperature

    def losses(differences: tf.Tensor) -> tf.Tensor:
        return tf.nn.softplus(without_missing(exponents, differences, [temperature]))

    if weights is None:
        num_pairs = tf.math.count_nonzero(ordered, dtype=dtype)
        total = total_loss(ordered, logits, losses, None)
    else:
        weights = fitting(weights)
        counted = ordered & tf.not_equal(weights, 0)[:, None]
        num_pairs = tf.math.count_nonzero(counted, dtype=dtype)
        total = total_loss(counted, logits, losses, weights)
        # Rows of weight 0 add nothing but the gradient of their weight, which is their loss.
        uncounted = ordered & tf.equal(weights, 0)[:, None]

        def constant_losses(differences: tf.Tensor) -> tf.Tensor:
            return tf.stop_gradient(losses(differences))

        total += total_loss(uncounted, logits, constant_losses, weights)
    loss = tf.math.divide_no_nan(total, num_pairs)
    if masked:
        invalid = tf.equal(tf.cast(temperature, dtype), 0)
        loss = tf.where(invalid, tf.constant(math.nan, dtype), loss)
    return loss


_Losses = Callable[[tf.Tensor], tf.Tensor]


def _total(
    counted: tf.Tensor, logits: tf.Tensor, losses: _Losses, weights: tf.Tensor | None
) -> tf.Tensor:
    """The weighted sum of losses over the pairs that count, in the form that is cheaper."""
    # Measured: a place for every pair is faster than lists of pairs from a fifth of them on.
    is_dense = 5 * tf.math.count_nonzero(counted) > tf.size(counted, out_type=tf.int64)
    return tf.cond(
        is_dense,
        lambda: _masked_total(counted, logits, losses, weights),
        lambda: _gathered_total(counted, logits, losses, weights),
    )


def _gathered_total(
    counted: tf.Tensor, logits: tf.Tensor, losses: _Losses, weights: tf.Tensor | None
) -> tf.Tensor:
    """The same, with tensors for the pairs that count alone."""
    first, second = tf.unstack(tf.cast(tf.where(counted), tf.int32), num=2, axis=1)
    values = losses(tf.gather(logits, first) - tf.gather(logits, second))
    if weights is not None:
        values = tf.math.multiply_no_nan(values, tf.gather(weights, first))
    return tf.reduce_sum(values)


def _masked_total(
    counted: tf.Tensor, logits: tf.Tensor, losses: _Losses, weights: tf.Tensor | None
) -> tf.Tensor:
    """The same with a place for every pair."""
    # What does not count is 0 before anything is computed with it: else NaN in it would come back
    # as 0 * NaN in a gradient.
    zero = tf.zeros([], logits.dtype)
    differences = tf.where(counted, logits[:, None] - logits[None, :], zero)
    values = tf.reduce_sum(tf.where(counted, losses(differences), zero), axis=1)
    if weights is not None:
        values = tf.math.multiply_no_nan(values, weights)
    return tf.reduce_sum(values)


def _checked(arguments: PairwiseLogisticArguments) -> PairwiseLogisticArguments:
    """Labels and logits become such that are computed only if everything is as it must be."""
    logits, temperature = arguments.logits, arguments.temperature
    found: list[Any] = []
    shape = tf.shape(logits, out_type=tf.int64)
    size = tf.size(logits, out_type=tf.int64)
    if logits.shape.rank is None or None in logits.shape[1:]:
        checks.require(
            found,
            _is_row_shape(shape, size),
            "`logits` must have shape [batch_size] or [batch_size, 1].",
            shape,
        )
    for name in ("labels", "session_ids", "weights"):
        value = getattr(arguments, name)
        if value is None or (value.shape.is_fully_defined() and logits.shape.is_fully_defined()):
            continue
        actual = tf.shape(value, out_type=tf.int64)
        checks.require(
            found,
            _is_row_shape(actual, size),
            f"`{name}` must have shape [batch_size] or [batch_size, 1], where batch_size is",
            size,
            actual,
        )
    for name in ("margin", "temperature"):
        number = getattr(arguments, name)
        if isinstance(number, tf.Tensor) and number.shape.rank is None:
            is_scalar = tf.equal(checks.rank(number), 0)
            checks.require(found, is_scalar, f"`{name}` must be a scalar.", tf.shape(number))
    if isinstance(temperature, tf.Tensor):
        nonzero = tf.reduce_all(tf.not_equal(temperature, 0))
        checks.require(found, nonzero, "`temperature` must not be 0.", temperature)
    with tf.control_dependencies(found):
        return arguments.replaced(labels=tf.identity(arguments.labels), logits=tf.identity(logits))


def _is_row_shape(shape: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
    column = tf.stack([batch_size, tf.ones([], tf.int64)])
    return checks.same_shape(shape, batch_size[None]) | checks.same_shape(shape, column)


def _vector(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1])
