"""The native `support_vector_guided_softmax_loss`: the operation and its gradient."""

import tensorflow as tf

from fastneg.arguments.sv_softmax import SvSoftmaxArguments
from fastneg.backends.native.fused_loss import FusedLoss, Grads, reshaped
from fastneg.backends.native.scale_grad import narrow_grads, scale_grad
from fastneg.backends.native.sizes import Shape, rows, sizes
from fastneg.backends.native.ways import Call


def sv_softmax(arguments: SvSoftmaxArguments) -> tf.Tensor:
    """Calls the operation."""
    numbers = [arguments.smooth, arguments.margin, arguments.t, arguments.threshold]
    scalar_places = [2 + i for i, value in enumerate(numbers[:3]) if isinstance(value, tf.Tensor)]
    return _loss(
        [
            arguments.pos_score,
            arguments.neg_scores,
            *numbers,
        ],
        [arguments.weights],
        dtype=arguments.neg_scores.dtype,
        differentiable=[0, 1, *scalar_places],
        with_scalar_grad=bool(scalar_places),
    )


def _gradients(grad_loss: tf.Tensor, call: Call) -> tuple[Grads, Grads]:
    pos_score, weights = call.required[0], call.optional[0]
    _, unit_pos, unit_neg, unit_weights, unit_scalars, *narrow = call.outputs
    if call.attribute("narrow_grads"):
        grad_pos, grad_neg = narrow_grads(narrow)
    else:
        grad_pos, grad_neg = scale_grad(grad_loss, [unit_pos, unit_neg], pos_score.dtype)
    with_scalar_grad = call.attribute("with_scalar_grad")
    small = [unit_weights] * (weights is not None) + [unit_scalars] * with_scalar_grad
    grads = iter(scale_grad(grad_loss, small, grad_loss.dtype) if small else [])
    grad_weights = None if weights is None else reshaped(next(grads), weights)
    grad_scalars = tf.unstack(next(grads), num=3) if with_scalar_grad else [None] * 3
    return [reshaped(grad_pos, pos_score), grad_neg, *grad_scalars, None], [grad_weights]


def _output_shapes(call: Call) -> list[Shape]:
    neg_scores = call.required[1]
    of_scores, none = [rows(neg_scores), sizes(neg_scores)], [[0], [0]]
    narrow = call.attribute("narrow_grads")
    return [
        [],
        *(none if narrow else of_scores),
        [0] if call.optional[0] is None else rows(neg_scores),
        [3] if call.attribute("with_scalar_grad") else [0],
        *(of_scores if narrow else none),
    ]


_loss = FusedLoss(
    "sv_softmax",
    _gradients,
    _output_shapes,
    inputs={
        "pos_score": None,
        "neg_scores": 2,
        "smooth": 0,
        "margin": 0,
        "t": 0,
        "threshold": 0,
    },
    attributes=("with_scalar_grad",),
    optional_inputs={"num_weights": True},
    num_narrow=2,
)
