"""What is left out of a sum by a logit of -inf is left out of its derivatives as well."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def without_missing(
    function: Callable[[tf.Tensor], tf.Tensor],
    values: tf.Tensor,
    scalars: Sequence[Any],
    excluded: tf.Tensor | None = None,
) -> tf.Tensor:
    """`function(values)`, elementwise, whose results of -inf pass nothing on to derivatives.

    A derivative by a scalar would else be 0 times the infinite value, which is NaN.

    Args:
        function: From values to what is -inf where a value stands for none.
        values: A tensor.
        scalars: What `function` multiplies values with. Where none of them is a tensor there is no
            derivative by one, and nothing to be done.
        excluded: Results that nothing depends on, whatever the values are; they may become -inf.
    """
    results = function(values)
    if not any(isinstance(scalar, tf.Tensor) for scalar in scalars):
        return results
    lowest = tf.constant(-math.inf, results.dtype)
    missing = tf.equal(results, lowest)
    if excluded is not None:
        missing |= excluded
    present = function(tf.where(missing, tf.zeros([], values.dtype), values))
    return tf.where(missing, lowest, present)
