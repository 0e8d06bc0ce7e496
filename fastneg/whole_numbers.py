"""Integers that have become floats: Keras makes floats of labels and of much else.

Nothing is rounded. A number is taken if it is whole, and so small that no other integer becomes the
same float: 16777217 is 16777216 as a float32, so neither of the two is taken from one.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from fastneg._tensorflow import in_xla

_WHOLE_BELOW = {
    tf.bfloat16: 2.0**8,
    tf.float16: 2.0**11,
    tf.float32: 2.0**24,
    tf.float64: 2.0**53,
}

# Takes the place of an id that is none where nothing can be raised, inside XLA.
NO_ID = tf.int64.min


def whole_numbers(name: str, given: Any, floats: tf.Tensor, otherwise: int) -> tf.Tensor:
    """Converts floats to int64.

    Args:
        name: The argument's name.
        given: The argument.
        floats: The argument as a tensor.
        otherwise: What takes the place of numbers that are not whole, inside XLA.

    Raises:
        ValueError: A constant holds no integer.
        tf.errors.InvalidArgumentError: Another tensor holds none: at once, or when the graph runs.
    """
    if not hasattr(given, "dtype"):
        floats = _as_float64(given, floats)  # Lists become float32 unless told otherwise.
    limit = _WHOLE_BELOW[floats.dtype]
    requirement = (
        f"`{name}` must be integers, which {floats.dtype.name} holds exactly below "
        f"2**{int(math.log2(limit))}."
    )
    constant = tf.get_static_value(floats)
    if constant is not None:
        known = np.asarray(constant, np.float64)
        whole = (np.floor(known) == known) & (np.abs(known) < limit)
        if whole.all():
            return tf.constant(known.astype(np.int64))
        message = f"{requirement} Received: {known[~whole][0]}."
        if isinstance(given, tf.Tensor) and tf.executing_eagerly():
            raise tf.errors.InvalidArgumentError(None, None, message)
        raise ValueError(message)
    numbers = tf.cast(floats, tf.float64)
    whole = tf.equal(tf.floor(numbers), numbers) & (tf.abs(numbers) < limit)
    if in_xla():
        numbers = tf.where(whole, numbers, tf.constant(otherwise, tf.float64))
    else:
        wrong = tf.boolean_mask(numbers, tf.logical_not(whole))[:1]
        check = tf.debugging.Assert(tf.reduce_all(whole), [requirement, "Received:", wrong])
        with tf.control_dependencies([check]):
            numbers = tf.identity(numbers)
    return tf.cast(numbers, tf.int64)


def _as_float64(given: Any, floats: tf.Tensor) -> tf.Tensor:
    try:
        return tf.convert_to_tensor(given, tf.float64)
    except (TypeError, ValueError):  # A list of tensors.
        return floats
