"""Turns gradients for an upstream gradient of 1 into those for the actual one."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fastneg import _tensorflow
from fastneg.backends import autodiff
from fastneg.backends.native.library import operations


def scale_grad(
    scale: tf.Tensor, unit_grads: Sequence[tf.Tensor], dtype: tf.DType
) -> list[tf.Tensor]:
    """Returns scale * unit_grads in `dtype`."""
    if _tensorflow.is_followed([scale]):
        # Forward-mode differentiation, or a loss inside a larger persistent tape: the result
        # depends on `scale` linearly, which plain operations know how to differentiate.
        if not tf.executing_eagerly():
            unit_grads = autodiff.undifferentiable(*unit_grads)
        return [tf.cast(scale * grad, dtype) for grad in unit_grads]
    return list(operations().fastneg_scale_grad(scale=scale, unit_grads=unit_grads, T=dtype))


@tf.RegisterGradient("Fastneg>ScaleGrad")  # type: ignore[untyped-decorator]
def _gradient(op: tf.Operation, *grads: Any) -> None:
    raise autodiff.second_derivative_error()
