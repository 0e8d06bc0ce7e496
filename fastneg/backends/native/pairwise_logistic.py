"""The native `pairwise_loss`: the operation and its gradient."""

import tensorflow as tf

from fastneg.arguments.pairwise_logistic import PairwiseLogisticArguments
from fastneg.backends.native.fused_loss import FusedLoss, Grads, reshaped
from fastneg.backends.native.scale_grad import scale_grad
from fastneg.backends.native.sizes import Shape, rows
from fastneg.backends.native.ways import Call


def pairwise_logistic(arguments: PairwiseLogisticArguments) -> tf.Tensor:
    """Calls the operation."""
    numbers = [arguments.margin, arguments.temperature]
    scalar_places = [2 + i for i, value in enumerate(numbers) if isinstance(value, tf.Tensor)]
    return _loss(
        [arguments.labels, arguments.logits, *numbers],
        [arguments.session_ids, arguments.weights],
        dtype=arguments.logits.dtype,
        differentiable=[1, *scalar_places],
        with_scalar_grad=bool(scalar_places),
    )


def _gradients(grad_loss: tf.Tensor, call: Call) -> tuple[Grads, Grads]:
    logits, weights = call.required[1], call.optional[1]
    _, unit_logits, unit_weights, unit_scalars = call.outputs
    (grad_logits,) = scale_grad(grad_loss, [unit_logits], logits.dtype)
    with_scalar_grad = call.attribute("with_scalar_grad")
    small = [unit_weights] * (weights is not None) + [unit_scalars] * with_scalar_grad
    grads = iter(scale_grad(grad_loss, small, grad_loss.dtype) if small else [])
    grad_weights = None if weights is None else reshaped(next(grads), weights)
    grad_scalars = tf.unstack(next(grads), num=2) if with_scalar_grad else [None] * 2
    return [None, reshaped(grad_logits, logits), *grad_scalars], [None, grad_weights]


def _output_shapes(call: Call) -> list[Shape]:
    per_row = rows(call.required[1])
    return [
        [],
        per_row,
        [0] if call.optional[1] is None else per_row,
        [2] if call.attribute("with_scalar_grad") else [0],
    ]


_loss = FusedLoss(
    "pairwise_logistic",
    _gradients,
    _output_shapes,
    inputs={"labels": None, "logits": None, "margin": 0, "temperature": 0},
    attributes=("with_scalar_grad",),
    optional_inputs={"num_session_ids": False, "num_weights": True},
)
