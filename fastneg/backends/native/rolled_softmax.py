"""The native `softmax_loss_with_negative_mining`: the operation and its gradient.

One operation computes the loss and, if its attribute `with_grad` says so, all gradients for an
upstream gradient of 1. Evaluation must not pay for gradients, so the attribute is false until
something is known to differentiate: a tape, when called eagerly; in a graph the gradient function,
which then sets the attribute of the operation in place, as TensorFlow's own gradient of a function
call rewrites the call.
"""

from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from fastneg import _tensorflow
from fastneg.backends import autodiff
from fastneg.backends.native.library import operations
from fastneg.backends.native.scale_grad import scale_grad


class _Outputs(NamedTuple):
    loss: tf.Tensor
    grad_user: tf.Tensor
    grad_item: tf.Tensor
    grad_weights: tf.Tensor
    grad_scalars: tf.Tensor


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
    """Calls the operation: `fastneg.backends.RolledSoftmax`."""
    with_scalar_grad = any(isinstance(value, tf.Tensor) for value in (gamma, margin, t))
    if user_emb.dtype == tf.float64:
        # Numbers become float32 by themselves, which is right for every other dtype.
        gamma, margin, t = (tf.convert_to_tensor(value, tf.float64) for value in (gamma, margin, t))
    tensors = dict(
        user_emb=user_emb,
        item_emb=item_emb,
        labels=labels,
        shifts=shifts,
        gamma=gamma,
        margin=margin,
        t=t,
        weights=_optional(weights),
        sampling_probability=_optional(candidate_sampling_probability),
        candidate_ids=_optional(candidate_ids),
    )
    attributes = dict(embed_normed=embed_normed, with_scalar_grad=with_scalar_grad)
    operation = operations().fastneg_rolled_softmax
    if not tf.executing_eagerly():
        return operation(**tensors, **attributes).loss

    differentiable = [user_emb, item_emb]
    if weights is not None:
        differentiable.append(weights)
    scalars = [value for value in (gamma, margin, t) if isinstance(value, tf.Tensor)]
    if with_scalar_grad:
        differentiable += scalars
    if not _tensorflow.is_followed(differentiable):
        return operation(**tensors, **attributes).loss
    with _tensorflow.stop_recording():
        outputs = _Outputs(*operation(**tensors, **attributes, with_grad=True))

    def backward(grad_loss: tf.Tensor) -> list[tf.Tensor]:
        grads = _scaled(grad_loss, outputs, user_emb, weights, with_scalar_grad)
        result = [grads.user, grads.item]
        if weights is not None:
            result.append(grads.weights)
        if with_scalar_grad:
            result += [
                grad
                for grad, value in zip(grads.scalars, (gamma, margin, t), strict=True)
                if isinstance(value, tf.Tensor)
            ]
        return result

    autodiff.attach_gradient(outputs.loss, differentiable, backward)
    return outputs.loss


class _Grads(NamedTuple):
    user: tf.Tensor
    item: tf.Tensor
    weights: tf.Tensor | None
    scalars: list[tf.Tensor | None]


@tf.RegisterGradient("Fastneg>RolledSoftmax")  # type: ignore[untyped-decorator]
def _gradient(op: Any, grad_loss: tf.Tensor, *_: Any) -> list[tf.Tensor | None]:
    num_weights = op.get_attr("num_weights")
    user_emb = op.inputs[0]
    weights = op.inputs[7] if num_weights else None
    grads = _scaled(grad_loss, _with_grad(op), user_emb, weights, op.get_attr("with_scalar_grad"))
    no_grads = [None] * (len(op.inputs) - 7 - num_weights)
    grad_weights = [grads.weights] if num_weights else []
    return [grads.user, grads.item, None, None, *grads.scalars, *grad_weights, *no_grads]


def _scaled(
    grad_loss: tf.Tensor,
    outputs: _Outputs,
    user_emb: tf.Tensor,
    weights: tf.Tensor | None,
    with_scalar_grad: bool,
) -> _Grads:
    grad_user, grad_item = scale_grad(
        grad_loss, [outputs.grad_user, outputs.grad_item], user_emb.dtype
    )
    small = []
    if weights is not None:
        small.append(outputs.grad_weights)
    if with_scalar_grad:
        small.append(outputs.grad_scalars)
    grad_weights, grad_scalars = None, [None] * 3
    if small:
        small = scale_grad(grad_loss, small, grad_loss.dtype)
        if with_scalar_grad:
            grad_scalars = tf.unstack(small.pop(), num=3)
        if weights is not None:
            grad_weights = small.pop()
            if weights.shape.rank != 1:
                grad_weights = tf.reshape(grad_weights, tf.shape(weights))
    return _Grads(grad_user, grad_item, grad_weights, grad_scalars)


def _with_grad(op: Any) -> _Outputs:
    """Outputs of an operation that is about to be differentiated, gradients among them."""
    if op.get_attr("with_grad"):
        return _Outputs(*op.outputs)
    # `op` may be a stand-in that a tape recorded; its outputs know the real one.
    node = None if isinstance(op.outputs[0], tf.__internal__.EagerTensor) else op.outputs[0].op
    if node is None:
        return _recomputed(op)
    node._set_attr("with_grad", attr_value_pb2.AttrValue(b=True))
    outputs = _Outputs(*node.outputs)
    outputs.grad_user.set_shape(node.inputs[0].shape)
    outputs.grad_item.set_shape(node.inputs[0].shape)
    outputs.grad_scalars.set_shape([None])
    return outputs


def _recomputed(op: Any) -> _Outputs:
    """Runs an operation once more, now with gradients: for callers that evade `rolled_softmax`."""
    counts = [
        op.get_attr(name)
        for name in ("num_weights", "num_sampling_probabilities", "num_candidate_ids")
    ]
    required, optional = list(op.inputs[:7]), list(op.inputs[7:])
    lists = [[optional.pop(0) for _ in range(count)] for count in counts]
    return _Outputs(
        *operations().fastneg_rolled_softmax(
            *required,
            *lists,
            embed_normed=op.get_attr("embed_normed"),
            with_grad=True,
            with_scalar_grad=op.get_attr("with_scalar_grad"),
        )
    )


def _optional(tensor: tf.Tensor | None) -> list[tf.Tensor]:
    return [] if tensor is None else [tensor]
