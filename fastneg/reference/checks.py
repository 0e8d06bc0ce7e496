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
        lambda: tf.reduce_all(tf.equal(left, right)),
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


def compilable(value: tf.Tensor, *shape: Any) -> tf.Tensor:
    """`value`, with which XLA compiles only if it has this shape.

    XLA can raise nothing at run time, but knows every shape when it compiles. Without this some
    operations would take what does not fit: broadcast it, clip indices, or end the process.
    """
    if value.shape.is_fully_defined() and not any(isinstance(size, tf.Tensor) for size in shape):
        return value
    # An operation that takes equal shapes only, and of which nothing is left when it is compiled.
    return tf.stack([value, tf.zeros(shape, value.dtype)])[0]


def compilable_vector(values: tf.Tensor, size: Any) -> tf.Tensor:
    """The same for what has one number for each of `size` rows, returned as a vector."""
    return compilable(tf.reshape(values, [-1]), size)


def dimension(value: tf.Tensor, axis: int) -> Any:
    """A dimension: an int where that is known."""
    static = value.shape[axis] if value.shape.rank is not None else None
    return tf.shape(value)[axis] if static is None else static
