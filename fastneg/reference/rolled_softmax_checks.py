"""Checks of run-time shapes and values for the plain TensorFlow loss."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf


def checked(
    user_emb: tf.Tensor,
    item_emb: tf.Tensor,
    labels: tf.Tensor,
    shifts: tf.Tensor,
    columns: Mapping[str, tf.Tensor | None],
    vectors: Mapping[str, tf.Tensor | None],
    scalars: Mapping[str, float | tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the first four tensors, to be computed only if everything is as it must be.

    Args:
        user_emb: Must have rank 2.
        item_emb: Must have the shape of `user_emb`.
        labels: Must be [B] or [B, 1].
        shifts: Must be [K], 1 <= K < B, none 0 modulo B.
        columns: By name, what must be [B] or [B, 1].
        vectors: By name, what must be [B].
        scalars: By name, what must be a scalar.
    """
    checks: list[Any] = []
    if user_emb.shape.rank is None:
        _require(
            checks,
            _rank(user_emb) == 2,
            "`user_emb` must have rank 2, [batch_size, embedding_dim].",
            tf.shape(user_emb),
        )
    with tf.control_dependencies(checks):  # A scalar has no first dimension.
        shape = tf.shape(user_emb, out_type=tf.int64)
        batch_size = shape[0]
    if not (user_emb.shape.is_fully_defined() and item_emb.shape.is_fully_defined()):
        _require(
            checks,
            _same(tf.shape(item_emb, out_type=tf.int64), shape),
            "`item_emb` must have the shape of `user_emb`,",
            shape,
            tf.shape(item_emb),
        )
    for name, value in {"labels": labels, **columns, **vectors}.items():
        if value is not None and not _is_static(value, user_emb):
            actual = tf.shape(value, out_type=tf.int64)
            fits = _same(actual, shape[:1])
            if name not in vectors:
                fits |= _same(actual, tf.stack([batch_size, 1]))
            column = "" if name in vectors else " or [batch_size, 1]"
            _require(
                checks,
                fits,
                f"`{name}` must have shape [batch_size]{column}, where batch_size is",
                batch_size,
                actual,
            )
    for name, value in scalars.items():
        if isinstance(value, tf.Tensor) and value.shape.rank is None:
            _require(
                checks, tf.equal(_rank(value), 0), f"`{name}` must be a scalar.", tf.shape(value)
            )
    if shifts.shape.rank is None:
        _require(
            checks,
            _rank(shifts) == 1,
            "`shifts` must have rank 1, [num_negatives].",
            tf.shape(shifts),
        )
    if not _is_static(shifts, user_emb):
        num_negatives = tf.size(shifts, out_type=tf.int64)
        _require(
            checks,
            (num_negatives >= 1) & (num_negatives < batch_size) | (batch_size == 0),
            "`num_negative_samples` must be at least 1 and less than the batch size,",
            batch_size,
            num_negatives,
        )
    _require(
        checks,
        tf.reduce_all(_remainders(shifts, batch_size) != 0) | (batch_size == 0),
        "`shifts` must not be 0 modulo the batch size,",
        batch_size,
        shifts,
    )
    with tf.control_dependencies(checks):
        return (
            tf.identity(user_emb),
            tf.identity(item_emb),
            tf.identity(labels),
            tf.identity(shifts),
        )


def is_valid(user_emb: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Whether the number and the values of `shifts` suit the batch."""
    batch_size = tf.shape(user_emb, out_type=tf.int64)[0]
    num_negatives = tf.size(shifts, out_type=tf.int64)
    enough = (num_negatives >= 1) & (num_negatives < batch_size)
    return enough & tf.reduce_all(_remainders(shifts, batch_size) != 0) | (batch_size == 0)


def _remainders(shifts: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
    return shifts % tf.maximum(batch_size, 1)


def _is_static(value: tf.Tensor, user_emb: tf.Tensor) -> bool:
    """Whether static checks have seen all there is to see of the shape of `value`."""
    return bool(
        value.shape.is_fully_defined() and user_emb.shape.rank and user_emb.shape[0] is not None
    )


def _rank(value: tf.Tensor) -> tf.Tensor:
    # TensorFlow's constant folding replaces tf.rank by what later operations need the rank to be.
    return tf.size(tf.shape(value))


def _same(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Whether two shapes are equal, whatever their ranks."""
    return tf.cond(
        tf.equal(tf.size(left), tf.size(right)),
        lambda: tf.reduce_all(left == right),
        lambda: tf.constant(False),
    )


def _require(checks: list[Any], condition: tf.Tensor, requirement: str, *values: tf.Tensor) -> None:
    """Adds a check whose message ends with the values, the received one last."""
    *context, received = values
    if not tf.executing_eagerly():
        # One after the other, so that the first thing wrong is what is reported.
        with tf.control_dependencies(checks):
            data = [requirement, *context, "Received:", received]
            checks.append(tf.raw_ops.Assert(condition=condition, data=data))
    elif not condition:
        known = "".join(f" {value.numpy().tolist()}." for value in context)
        message = f"{requirement}{known} Received: {received.numpy().tolist()}."
        raise tf.errors.InvalidArgumentError(None, None, message)
