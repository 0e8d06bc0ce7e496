"""Gradients of losses that compute value and gradients in one go.

A fused loss yields its gradients for an upstream gradient of 1 along with its value. Here they are
handed to TensorFlow's tapes. They cannot be differentiated again, and saying so is half of the
work: a tape that is not told would silently find that they depend on nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from fastneg import _tensorflow

# From the upstream gradient to the gradients of the inputs; None for an input without one.
Backward = Callable[[tf.Tensor], Sequence[tf.Tensor | None]]


def second_derivative_error() -> LookupError:
    """Returns the error for a derivative that only the reference backend has."""
    return LookupError(
        "A second derivative must be computed by the reference backend, which is chosen with "
        'fastneg.use_backend("reference"). Received: a request to differentiate the gradient that '
        "a fused kernel computed."
    )


def is_followed(tensors: Sequence[tf.Tensor]) -> bool:
    """Whether a tape or forward accumulator follows any of `tensors`."""
    return _tensorflow.is_followed(tensors)


def attach_gradient(loss: tf.Tensor, inputs: Sequence[tf.Tensor], backward: Backward) -> None:
    """Gives an eager loss that was computed out of sight of every tape its gradient."""

    def backward_once(grad_loss: tf.Tensor) -> list[tf.Tensor | None]:
        grads = list(backward(grad_loss))
        if _tensorflow.anything_recording():
            refuse_differentiation([grad for grad in grads if grad is not None], inputs)
        return grads

    _tensorflow.record_operation("FastnegLoss", [loss], inputs, backward_once)


def refuse_tangents(inputs: Sequence[tf.Tensor]) -> None:
    """Raises if a forward accumulator follows `inputs` of a loss that is being traced.

    It would ask for the derivative of a gradient that a fused kernel computes.
    """
    if _tensorflow.has_tangents(inputs):
        raise LookupError(
            "Forward mode inside a tf.function must be left to the reference backend, which is "
            'chosen with fastneg.use_backend("reference"). Received: inputs that a '
            "tf.autodiff.ForwardAccumulator follows."
        )


def refuse_differentiation(grads: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor]) -> None:
    """Makes every active tape raise if it is asked how `grads` depend on `inputs`."""

    def refuse(*_: Any) -> None:
        raise second_derivative_error()

    _tensorflow.record_operation("FastnegGradient", grads, inputs, refuse)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def undifferentiable(*tensors: tf.Tensor) -> Any:
    """Returns its arguments, and raises if anything asks for their derivative."""

    def refuse(*_: Any) -> None:
        raise second_derivative_error()

    return tuple(tf.identity(tensor) for tensor in tensors), refuse
