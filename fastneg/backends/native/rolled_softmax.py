"""The native `softmax_loss_with_negative_mining`: the operation and its gradient."""

import tensorflow as tf

from fastneg.arguments.rolled_softmax import RolledSoftmaxArguments
from fastneg.backends.native.fused_loss import FusedLoss, Grads, reshaped
from fastneg.backends.native.scale_grad import scale_grad
from fastneg.backends.native.sizes import Shape, rows, sizes
from fastneg.backends.native.ways import Call


def rolled_softmax(arguments: RolledSoftmaxArguments) -> tf.Tensor:
    """Calls the operation."""
    numbers = [arguments.gamma, arguments.margin, arguments.t]
    scalar_places = [4 + i for i, value in enumerate(numbers) if isinstance(value, tf.Tensor)]
    return _loss(
        [
            arguments.user_emb,
            arguments.item_emb,
            arguments.labels,
            arguments.shifts,
            *numbers,
            arguments.negative_weight,
        ],
        [
            arguments.weights,
            arguments.candidate_sampling_probability,
            arguments.candidate_ids,
        ],
        dtype=arguments.user_emb.dtype,
        differentiable=[0, 1, *scalar_places],
        embed_normed=arguments.embed_normed,
        refined=arguments.correction == "refined",
        positive_in_softmax=arguments.positive_in_softmax,
        with_scalar_grad=bool(scalar_places),
    )


def _gradients(grad_loss: tf.Tensor, call: Call) -> tuple[Grads, Grads]:
    user_emb, weights = call.required[0], call.optional[0]
    _, grad_user, grad_item, unit_weights, unit_scalars = call.outputs
    grad_embeddings = scale_grad(grad_loss, [grad_user, grad_item], user_emb.dtype)
    with_scalar_grad = call.attribute("with_scalar_grad")
    small = [unit_weights] * (weights is not None) + [unit_scalars] * with_scalar_grad
    grads = iter(scale_grad(grad_loss, small, grad_loss.dtype) if small else [])
    grad_weights = None if weights is None else reshaped(next(grads), weights)
    grad_scalars = tf.unstack(next(grads), num=3) if with_scalar_grad else [None] * 3
    return [*grad_embeddings, None, None, *grad_scalars, None], [grad_weights, None, None]


def _output_shapes(call: Call) -> list[Shape]:
    user_emb, item_emb = call.required[:2]
    return [
        [],
        sizes(user_emb),
        sizes(item_emb),
        [0] if call.optional[0] is None else rows(user_emb),
        [3] if call.attribute("with_scalar_grad") else [0],
    ]


_loss = FusedLoss(
    "rolled_softmax",
    _gradients,
    _output_shapes,
    inputs={
        "user_emb": 2,
        "item_emb": 2,
        "labels": None,
        "shifts": 1,
        "gamma": 0,
        "margin": 0,
        "t": 0,
        "negative_weight": 0,
    },
    attributes=("embed_normed", "refined", "positive_in_softmax", "with_scalar_grad"),
    optional_inputs={
        "num_weights": True,
        "num_sampling_probabilities": False,
        "num_candidate_ids": False,
    },
)
