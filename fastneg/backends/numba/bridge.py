"""How TensorFlow sees kernels in numba that compute a scalar loss and all its gradients in one go.

Evaluation must not pay for gradients. Called eagerly, `fused_loss` knows whether a tape follows. In
a graph, a constant tells the callback whether to compute them: it is false until something
differentiates the loss, and the gradient function then changes the constant in place. (TensorFlow's
own gradient of a function call rewrites the call likewise.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fastneg import _tensorflow
from fastneg.backends import autodiff
from fastneg.backends.numba import threads

# From the arguments as arrays, and whether gradients are wanted, to the loss and the gradients for
# an upstream gradient of 1, empty where not wanted: always as many arrays of the compute dtype. A
# ValueError becomes an InvalidArgumentError.
Compute = Callable[[Mapping[str, Any], bool], Sequence[Any]]

# Of these results, the gradients of some arguments, given by name.
UnitGrads = Callable[[Sequence[str], Sequence[Any]], Sequence[Any]]


def num_threads() -> int:
    """The number of threads that a call may use."""
    return threads.num_threads(tf.config.threading.get_intra_op_parallelism_threads())


def fused_loss(
    differentiable: Mapping[str, tf.Tensor],
    constants: Mapping[str, tf.Tensor | None],
    compute: Compute,
    unit_grads: UnitGrads,
    *,
    num_outputs: int,
) -> tf.Tensor:
    """Returns the loss as a tensor that can be differentiated.

    Args:
        differentiable: The arguments that have a gradient, in the compute dtype.
        constants: The other tensors among the arguments; those that are None are left out.
        compute: The kernels.
        unit_grads: Finds gradients among their results.
        num_outputs: How many arrays `compute` returns.
    """
    given = {name: value for name, value in constants.items() if value is not None}
    if tf.executing_eagerly():
        return _eager(dict(differentiable), given, compute, unit_grads)
    return _graph(dict(differentiable), given, compute, unit_grads, num_outputs)


def _eager(
    differentiable: dict[str, tf.Tensor],
    constants: dict[str, tf.Tensor],
    compute: Compute,
    unit_grads: UnitGrads,
) -> tf.Tensor:
    names, tensors = list(differentiable), list(differentiable.values())
    with_grad = autodiff.is_followed(tensors)
    arrays = {name: _as_array(value) for name, value in {**differentiable, **constants}.items()}
    try:
        result = compute(arrays, with_grad)
    except ValueError as error:
        raise tf.errors.InvalidArgumentError(None, None, str(error)) from None
    loss = tf.convert_to_tensor(result[0])
    if with_grad:
        grads = unit_grads(names, [tf.convert_to_tensor(value) for value in result])

        def backward(grad_loss: tf.Tensor) -> list[tf.Tensor]:
            return _scaled(grad_loss, grads, tensors)

        autodiff.attach_gradient(loss, tensors, backward)
    return loss


def _graph(
    differentiable: dict[str, tf.Tensor],
    constants: dict[str, tf.Tensor],
    compute: Compute,
    unit_grads: UnitGrads,
    num_outputs: int,
) -> tf.Tensor:
    autodiff.refuse_tangents(list(differentiable.values()))
    names = list(differentiable)
    keys = [*differentiable, *constants]
    dtype = next(iter(differentiable.values())).dtype

    def callback(with_grad: Any, *arrays: Any) -> list[Any]:
        # TensorFlow turns a ValueError into an InvalidArgumentError.
        return list(compute(dict(zip(keys, arrays, strict=True)), bool(with_grad)))

    @tf.custom_gradient
    def loss_of(*tensors: tf.Tensor) -> Any:
        def results(with_grad: tf.Tensor) -> Any:
            arguments = [with_grad, *tensors, *constants.values()]
            return tf.numpy_function(callback, arguments, [dtype] * num_outputs)

        with_grad = tf.constant(False)
        outputs = results(with_grad)
        outputs[0].set_shape([])
        loss = only_differentiable_here(outputs[0])

        def backward(grad_loss: tf.Tensor) -> list[tf.Tensor]:
            if _tensorflow.can_be_changed(with_grad.op):
                _tensorflow.set_constant(with_grad, True)
                values = outputs
            else:
                values = results(tf.constant(True))
            grads = unit_grads(names, autodiff.undifferentiable(*values))
            return _scaled(grad_loss, grads, tensors)

        return loss, backward

    return loss_of(*differentiable.values())


def only_differentiable_here(value: tf.Tensor) -> tf.Tensor:
    """Makes what loses sight of a custom gradient raise, where it would find gradients of 0."""
    return tf.raw_ops.PreventGradient(
        input=value,
        message="tf.vectorized_map must be left to the native or the reference backend, which are "
        'chosen with fastneg.use_backend("reference").',
    )


def _scaled(
    scale: tf.Tensor, grads: Sequence[Any], tensors: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    result = []
    for grad, tensor in zip(grads, tensors, strict=True):
        if grad.shape.rank is None or grad.shape.rank != tensor.shape.rank:
            grad = tf.reshape(grad, tf.shape(tensor))
            grad.set_shape(tensor.shape)
        # Not 0 * NaN: a loss that does not count has gradient 0 whatever its value is.
        result.append(grad if _is_one(scale) else tf.math.multiply_no_nan(grad, scale))
    return result


def _is_one(scale: tf.Tensor) -> bool:
    """Whether a multiplication, and a copy of what is multiplied, can be left out."""
    return not _tensorflow.is_followed([scale]) and tf.get_static_value(scale) == 1.0


def _as_array(tensor: tf.Tensor) -> Any:
    """The tensor's values, where possible without a copy."""
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError, BufferError):
        return tensor.numpy()
