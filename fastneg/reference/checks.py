"""Run-time checks of shapes and values in plain TensorFlow, for eager execution and graphs."""

from typing import Any

import tensorflow as tf


def rank(value: tf.Tensor) -> tf.Tensor:
    """The rank of a tensor, as a tensor."""
    # TensorFlow's constant folding replaces tf.rank by what later operations need the rank to be.
    return tf.size(tf.shape(value))


def same_shape(left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """Whether two shapes are equal, whatever their ranks."""
    return tf.cond(
        tf.equal(tf.size(left), tf.size(right)),
        lambda: tf.reduce_all(left == right),
        lambda: tf.constant(False),
    )


def require(checks: list[Any], condition: tf.Tensor, requirement: str, *values: tf.Tensor) -> None:
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
