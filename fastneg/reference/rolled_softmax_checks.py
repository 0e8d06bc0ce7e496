"""Checks of run-time shapes and values for the plain TensorFlow loss."""

from typing import Any

import tensorflow as tf

from fastneg.arguments.rolled_softmax import RolledSoftmaxArguments
from fastneg.reference.checks import rank, require, same_shape

# These must be [B]; labels and weights may be columns.
_VECTORS = ("candidate_sampling_probability", "candidate_ids")


def checked(arguments: RolledSoftmaxArguments) -> RolledSoftmaxArguments:
    """Embeddings, labels and shifts become such that are computed only if everything is right."""
    user_emb, item_emb, shifts = arguments.user_emb, arguments.item_emb, arguments.shifts
    checks: list[Any] = []
    if user_emb.shape.rank is None:
        require(
            checks,
            tf.equal(rank(user_emb), 2),
            "`user_emb` must have rank 2, [batch_size, embedding_dim].",
            tf.shape(user_emb),
        )
    with tf.control_dependencies(checks):  # A scalar has no first dimension.
        shape = tf.shape(user_emb, out_type=tf.int64)
        batch_size = shape[0]
    if not (user_emb.shape.is_fully_defined() and item_emb.shape.is_fully_defined()):
        require(
            checks,
            same_shape(tf.shape(item_emb, out_type=tf.int64), shape),
            "`item_emb` must have the shape of `user_emb`,",
            shape,
            tf.shape(item_emb),
        )
    for name in ("labels", "weights", *_VECTORS):
        value = getattr(arguments, name)
        if value is not None and not _is_static(value, user_emb):
            actual = tf.shape(value, out_type=tf.int64)
            fits = same_shape(actual, shape[:1])
            if name not in _VECTORS:
                fits |= same_shape(actual, tf.stack([batch_size, 1]))
            column = "" if name in _VECTORS else " or [batch_size, 1]"
            require(
                checks,
                fits,
                f"`{name}` must have shape [batch_size]{column}, where batch_size is",
                batch_size,
                actual,
            )
    for name in ("gamma", "margin", "t"):
        value = getattr(arguments, name)
        if isinstance(value, tf.Tensor) and value.shape.rank is None:
            require(
                checks, tf.equal(rank(value), 0), f"`{name}` must be a scalar.", tf.shape(value)
            )
    if shifts.shape.rank is None:
        require(
            checks,
            tf.equal(rank(shifts), 1),
            "`shifts` must have rank 1, [num_negatives].",
            tf.shape(shifts),
        )
    if not _is_static(shifts, user_emb):
        num_negatives = tf.size(shifts, out_type=tf.int64)
        require(
            checks,
            (num_negatives >= 1) & (num_negatives < batch_size) | tf.equal(batch_size, 0),
            "`num_negative_samples` must be at least 1 and less than the batch size,",
            batch_size,
            num_negatives,
        )
    require(
        checks,
        tf.reduce_all(tf.not_equal(_remainders(shifts, batch_size), 0)) | tf.equal(batch_size, 0),
        "`shifts` must not be 0 modulo the batch size,",
        batch_size,
        shifts,
    )
    with tf.control_dependencies(checks):
        return arguments.replaced(
            user_emb=tf.identity(user_emb),
            item_emb=tf.identity(item_emb),
            labels=tf.identity(arguments.labels),
            shifts=tf.identity(shifts),
        )


def is_valid(user_emb: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Whether the number and the values of `shifts` suit the batch."""
    batch_size = tf.shape(user_emb, out_type=tf.int64)[0]
    num_negatives = tf.size(shifts, out_type=tf.int64)
    enough = (num_negatives >= 1) & (num_negatives < batch_size)
    return enough & tf.reduce_all(tf.not_equal(_remainders(shifts, batch_size), 0)) | tf.equal(
        batch_size, 0
    )


def _remainders(shifts: tf.Tensor, batch_size: tf.Tensor) -> tf.Tensor:
    return shifts % tf.maximum(batch_size, 1)


def _is_static(value: tf.Tensor, user_emb: tf.Tensor) -> bool:
    """Whether static checks have seen all there is to see of the shape of `value`."""
    return bool(
        value.shape.is_fully_defined() and user_emb.shape.rank and user_emb.shape[0] is not None
    )
