"""Rows that a gradient does not depend on add nothing to it, whatever they hold.

What is left out of a loss has a gradient of 0, and may hold NaN or infinity: 0 times that is NaN.
"""

from typing import Any

import tensorflow as tf

_SMALLEST_SQUARED_NORM = 1e-12


@tf.custom_gradient  # type: ignore[untyped-decorator]
def products(left: tf.Tensor, right: tf.Tensor) -> Any:
    """All dot products of rows of `left`, [M, D], and `right`, [N, D].

    A product whose upstream gradient is 0 adds nothing to the rows' gradients.
    """

    def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return _sums_of_used(upstream, right), _sums_of_used(tf.transpose(upstream), left)

    return tf.matmul(left, right, transpose_b=True), backward


def _sums_of_used(factors: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """`factors`, [M, N], times `rows`, [N, D], where 0 times anything is 0."""
    spoilt = ~tf.reduce_all(tf.math.is_finite(rows), axis=1)

    def with_care() -> tf.Tensor:
        sums = tf.matmul(factors, tf.where(spoilt[:, None], tf.zeros([], rows.dtype), rows))
        touched = tf.reduce_any(tf.not_equal(factors, 0) & spoilt, axis=1, keepdims=True)
        return tf.where(touched, tf.constant(float("nan"), rows.dtype), sums)

    sums: tf.Tensor = tf.cond(tf.reduce_any(spoilt), with_care, lambda: tf.matmul(factors, rows))
    return sums


@tf.custom_gradient  # type: ignore[untyped-decorator]
def largest(scores: tf.Tensor) -> Any:
    """The largest of each candidate's scores [M, H, N]; an upstream gradient of 0 gives 0."""

    def backward(upstream: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(scores)
            maxima = tf.reduce_max(scores, axis=1)
        grad = tape.gradient(maxima, scores, upstream)
        return tf.where(tf.equal(upstream, 0)[:, None], tf.zeros([], scores.dtype), grad)

    return tf.reduce_max(scores, axis=1), backward


@tf.custom_gradient  # type: ignore[untyped-decorator]
def l2_normalize(rows: tf.Tensor) -> Any:
    """`tf.nn.l2_normalize` of the last axis; a row whose upstream gradient is 0 gets 0."""

    def backward(upstream: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(rows)
            normalized = _l2_normalize(rows)
        grad = tape.gradient(normalized, rows, upstream)
        used = tf.reduce_any(tf.not_equal(upstream, 0), axis=-1, keepdims=True)
        return tf.where(used, grad, tf.zeros([], rows.dtype))

    return _l2_normalize(rows), backward


def _l2_normalize(rows: tf.Tensor) -> tf.Tensor:
    return tf.nn.l2_normalize(rows, axis=-1, epsilon=_SMALLEST_SQUARED_NORM)
