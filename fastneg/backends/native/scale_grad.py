"""Turns gradients for an upstream gradient of 1 into those for the actual one."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fastneg import _tensorflow
from fastneg.backends import autodiff
from fastneg.backends.native.custom_call import is_custom_call
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
    if _come_from_xla(unit_grads):
        return [tf.cast(_scaled(scale, grad), dtype) for grad in unit_grads]
    return list(operations().fastneg_scale_grad(scale=scale, unit_grads=unit_grads, T=dtype))


def narrow_grads(grads: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Gradients that are rounded already, for an upstream gradient of 1."""
    return list(grads) if tf.executing_eagerly() else [_final(grad) for grad in grads]


def _final(grad: tf.Tensor) -> tf.Tensor:
    message = str(autodiff.second_derivative_error())
    return tf.raw_ops.PreventGradient(input=grad, message=message)


def _scaled(scale: tf.Tensor, unit_grad: tf.Tensor) -> tf.Tensor:
    """Plain operations, which XLA fuses with what uses the gradient."""
    unit_grad = _final(unit_grad)
    # Not 0 times the gradient: a loss that does not count has gradient 0 whatever its value is.
    return tf.where(scale == 0, tf.zeros_like(unit_grad), scale * unit_grad)


def _come_from_xla(unit_grads: Sequence[tf.Tensor]) -> bool:
    if tf.executing_eagerly():
        return any(not grad.device.endswith("CPU:0") for grad in unit_grads)
    return any(is_custom_call(grad) for grad in unit_grads)


@tf.RegisterGradient("Fastneg>ScaleGrad")  # type: ignore[untyped-decorator]
def _gradient(op: tf.Operation, *grads: Any) -> None:
    raise autodiff.second_derivative_error()
