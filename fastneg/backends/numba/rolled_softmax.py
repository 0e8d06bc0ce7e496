"""`softmax_loss_with_negative_mining` as TensorFlow sees the numba kernels.

Evaluation must not pay for gradients. Called eagerly, the function knows whether a tape follows. In
a graph, a constant tells the callback whether to compute them: it is false until something
differentiates the loss, and the gradient function then changes the constant in place. (TensorFlow's
own gradient of a function call rewrites the call likewise.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np
import tensorflow as tf

from fastneg import _tensorflow
from fastneg.backends import autodiff
from fastneg.backends.numba import call, inputs, threads
from fastneg.backends.numba.vector_ir import VECTOR_BYTES

# Outputs of a callback: call.Result's fields.
_NUM_OUTPUTS = len(call.Result._fields)

_SCALARS = ("gamma", "margin", "t")


def load() -> None:
    """Does nothing: what can fail has failed by the time that this module is imported."""


def describe() -> dict[str, Any]:
    """Returns numba's version, the width of vectors and the number of threads."""
    return {
        "version": numba.__version__,
        "vector_bits": 8 * VECTOR_BYTES,
        "threads": _num_threads(),
    }


def _num_threads() -> int:
    return threads.num_threads(tf.config.threading.get_intra_op_parallelism_threads())


def rolled_softmax(
    user_emb: tf.Tensor,
    item_emb: tf.Tensor,
    labels: tf.Tensor,
    shifts: tf.Tensor,
    *,
    embed_normed: bool,
    weights: tf.Tensor | None,
    gamma: float | tf.Tensor,
    margin: float | tf.Tensor,
    t: float | tf.Tensor,
    candidate_sampling_probability: tf.Tensor | None,
    candidate_ids: tf.Tensor | None,
) -> tf.Tensor:
    """Calls the kernels: `fastneg.backends.RolledSoftmax`."""
    if user_emb.dtype in (tf.float16, tf.bfloat16):
        user_emb, item_emb = tf.cast(user_emb, tf.float32), tf.cast(item_emb, tf.float32)
    differentiable = {"user_emb": user_emb, "item_emb": item_emb}
    if weights is not None:
        differentiable["weights"] = weights
    numbers = {}
    for name, value in zip(_SCALARS, (gamma, margin, t), strict=True):
        if isinstance(value, tf.Tensor):
            differentiable[name] = value
        else:
            numbers[name] = value
    constants = {"labels": labels, "shifts": shifts}
    if candidate_sampling_probability is not None:
        constants["candidate_sampling_probability"] = candidate_sampling_probability
    if candidate_ids is not None:
        constants["candidate_ids"] = candidate_ids
    numbers["embed_normed"] = embed_normed
    run = _eager if tf.executing_eagerly() else _graph
    return run(differentiable, constants, numbers)


def _compute(arrays: Mapping[str, Any], numbers: Mapping[str, Any], with_grad: bool) -> call.Result:
    """Checks shapes and values, and runs the kernels."""
    arguments = inputs.prepare({**arrays, **numbers})
    return call.rolled_softmax(
        **arguments,
        with_grad=with_grad,
        with_scalar_grad=with_grad and any(name in arrays for name in _SCALARS),
        num_threads=_num_threads(),
    )


def _unit_grads(names: Sequence[str], result: Sequence[Any]) -> list[Any]:
    """Of the kernels' results, the gradients that belong to the arguments `names`."""
    _, grad_user, grad_item, grad_weights, grad_scalars = result
    found = {"user_emb": grad_user, "item_emb": grad_item, "weights": grad_weights}
    found |= {name: grad_scalars[i] for i, name in enumerate(_SCALARS) if name in names}
    return [found[name] for name in names]


def _scaled(
    scale: tf.Tensor, grads: Sequence[Any], tensors: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    result = []
    for grad, tensor in zip(grads, tensors, strict=True):
        if tensor.shape.rank not in (grad.shape.rank, None):
            grad = tf.reshape(grad, tf.shape(tensor))
        result.append(grad if _is_one(scale) else scale * grad)
    return result


def _is_one(scale: tf.Tensor) -> bool:
    """Whether a multiplication, and a copy of what is multiplied, can be left out."""
    return not _tensorflow.is_followed([scale]) and tf.get_static_value(scale) == 1.0


def _eager(
    differentiable: dict[str, tf.Tensor], constants: dict[str, tf.Tensor], numbers: dict[str, Any]
) -> tf.Tensor:
    names, tensors = list(differentiable), list(differentiable.values())
    with_grad = autodiff.is_followed(tensors)
    arrays = {name: _as_array(value) for name, value in {**differentiable, **constants}.items()}
    try:
        result = _compute(arrays, numbers, with_grad)
    except ValueError as error:
        raise tf.errors.InvalidArgumentError(None, None, str(error)) from None
    loss = tf.convert_to_tensor(result.loss)
    if with_grad:
        grads = _unit_grads(names, [_as_tensor(value) for value in result])

        def backward(grad_loss: tf.Tensor) -> list[tf.Tensor]:
            return _scaled(grad_loss, grads, tensors)

        autodiff.attach_gradient(loss, tensors, backward)
    return loss


def _graph(
    differentiable: dict[str, tf.Tensor], constants: dict[str, tf.Tensor], numbers: dict[str, Any]
) -> tf.Tensor:
    names = list(differentiable)
    keys = [*differentiable, *constants]
    dtype = differentiable["user_emb"].dtype

    def callback(with_grad: Any, *arrays: Any) -> list[Any]:
        # TensorFlow turns a ValueError into an InvalidArgumentError.
        return list(_compute(dict(zip(keys, arrays, strict=True)), numbers, bool(with_grad)))

    @tf.custom_gradient
    def loss_of(*tensors: tf.Tensor) -> Any:
        with_grad = tf.constant(False)
        outputs = tf.numpy_function(
            callback, [with_grad, *tensors, *constants.values()], [dtype] * _NUM_OUTPUTS
        )
        outputs[0].set_shape([])

        def backward(grad_loss: tf.Tensor) -> list[tf.Tensor]:
            _tensorflow.set_constant(with_grad, True)
            for grad, shape in zip(
                outputs[1:], (*[tensors[0].shape] * 2, [None], [None]), strict=True
            ):
                grad.set_shape(shape)
            grads = _unit_grads(names, autodiff.undifferentiable(*outputs))
            return _scaled(grad_loss, grads, tensors)

        return outputs[0], backward

    return loss_of(*differentiable.values())


def _as_array(tensor: tf.Tensor) -> Any:
    """The tensor's values, where possible without a copy."""
    try:
        return np.asarray(memoryview(tensor))
    except (TypeError, ValueError, BufferError):
        return tensor.numpy()


def _as_tensor(array: Any) -> tf.Tensor:
    return tf.convert_to_tensor(array)
