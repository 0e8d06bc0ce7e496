"""The native `in_batch_softmax_loss`: the operation and its gradient.

A loss per row has an upstream gradient per row. Its gradients are those of the sum of all losses,
their weights times these.
"""

from typing import Any

import tensorflow as tf

from fastneg import _tensorflow
from fastneg.arguments.in_batch_softmax import InBatchSoftmaxArguments
from fastneg.backends import autodiff
from fastneg.backends.native import xla
from fastneg.backends.native.custom_call import by_row, ranked
from fastneg.backends.native.fused_loss import FusedLoss, Grads, reshaped
from fastneg.backends.native.scale_grad import scale_grad
from fastneg.backends.native.sizes import Shape, rows, sizes, static
from fastneg.backends.native.ways import Call

_ALL_NEGATIVES = 2**31 - 1
_SCALARS = slice(2, 5)  # Temperature, margin and t among the required inputs.
_FLAGS = (
    "normalize",
    "refined",
    "positive_in_softmax",
    "bidirectional",
    "per_row",
    "averages",
    "num_hard_negatives",
    "with_scalar_grad",
    "with_t_grad",
)


def in_batch_softmax(arguments: InBatchSoftmaxArguments) -> tf.Tensor:
    """Calls the operation."""
    query = arguments.query_embeddings
    numbers = [arguments.temperature, arguments.margin, arguments.t]
    scalar_places = [
        place
        for place, value in enumerate(numbers, start=_SCALARS.start)
        if isinstance(value, tf.Tensor)
    ]
    per_row = arguments.reduction == "none"
    weights, positives = arguments.sample_weight, arguments.positives
    score_mask = arguments.score_mask
    if xla.is_the_way("in_batch_softmax"):
        if score_mask is not None:
            score_mask = ranked(score_mask, 2)
        if per_row:
            weights, positives, score_mask = (
                None if tensor is None else by_row(name, ranked(tensor), tf.shape(query)[0])
                for name, tensor in (
                    ("sample_weight", weights),
                    ("positives", positives),
                    ("score_mask", score_mask),
                )
            )
    loss = _loss(
        [
            query,
            arguments.candidate_embeddings,
            *numbers,
            arguments.label_smoothing,
            arguments.negative_weight,
        ],
        [
            weights,
            arguments.candidate_sampling_probability,
            positives,
            arguments.candidate_ids,
            arguments.candidate_mask,
            score_mask,
        ],
        dtype=query.dtype,
        differentiable=[0, 1, *scalar_places],
        normalize=arguments.normalize,
        refined=arguments.correction == "refined",
        positive_in_softmax=arguments.positive_in_softmax,
        bidirectional=arguments.bidirectional,
        per_row=per_row,
        averages=arguments.reduction == "mean",
        num_hard_negatives=min(arguments.num_hard_negatives or _ALL_NEGATIVES, _ALL_NEGATIVES),
        with_scalar_grad=bool(scalar_places),
        with_t_grad=isinstance(arguments.t, tf.Tensor),
    )
    loss.set_shape(static(rows(query)) if per_row else [])
    return loss


def _gradients(grad_loss: tf.Tensor, call: Call) -> tuple[Grads, Grads]:
    weights = call.optional[0]
    grad_weights = None
    if call.attribute("per_row"):
        call = _of_sum(grad_loss, call)
        _, unit_query, unit_candidate, losses, unit_scalars = call.outputs
        one = tf.ones([], grad_loss.dtype)
        if weights is not None:
            (losses,) = scale_grad(one, [losses], grad_loss.dtype)
            # A row that counts for nothing has no loss that could be NaN.
            grad_weights = reshaped(tf.math.multiply_no_nan(losses, grad_loss), weights)
        grad_loss = one
    else:
        _, unit_query, unit_candidate, unit_weights, unit_scalars = call.outputs
        if weights is not None:
            (grad_weights,) = scale_grad(grad_loss, [unit_weights], grad_loss.dtype)
            grad_weights = reshaped(grad_weights, weights)
    embedding_dtype = call.required[0].dtype
    grad_embeddings = scale_grad(grad_loss, [unit_query, unit_candidate], embedding_dtype)
    grad_scalars: Any = [None] * 3
    if call.attribute("with_scalar_grad"):
        (scaled,) = scale_grad(grad_loss, [unit_scalars], grad_loss.dtype)
        grad_scalars = tf.unstack(scaled, num=3)
    return (
        [*grad_embeddings, *grad_scalars, None, None],
        [grad_weights, None, None, None, None, None],
    )


def _of_sum(grad_losses: tf.Tensor, call: Call) -> Call:
    """The call of the sum of all rows' losses, each times its upstream gradient."""
    weights, *others = call.optional
    if weights is not None:
        grad_losses = tf.math.multiply_no_nan(grad_losses, tf.reshape(weights, [-1]))
    attributes = {name: call.attribute(name) for name in _FLAGS}
    attributes.update(per_row=False, averages=False)
    of_sum = _loss.with_gradients(call.required, [grad_losses, *others], like=call, **attributes)
    if _tensorflow.anything_recording() and tf.executing_eagerly():
        # In forward mode a gradient is differentiated with respect to its upstream gradients.
        autodiff.refuse_differentiation(of_sum.outputs, [grad_losses])
    return of_sum


def _output_shapes(call: Call) -> list[Shape]:
    query, candidate = call.required[:2]
    if call.attribute("per_row"):
        return [rows(query), [0], [0], [0], [0]]
    return [
        [],
        sizes(query),
        sizes(candidate),
        [0] if call.optional[0] is None else rows(query),
        [3] if call.attribute("with_scalar_grad") else [0],
    ]


_loss = FusedLoss(
    "in_batch_softmax",
    _gradients,
    _output_shapes,
    inputs={
        "query_embeddings": 2,
        "candidate_embeddings": 2,
        "temperature": 0,
        "margin": 0,
        "t": 0,
        "label_smoothing": 0,
        "negative_weight": 0,
    },
    attributes=_FLAGS,
    optional_inputs={
        "num_weights": True,
        "num_sampling_probabilities": False,
        "num_positives": False,
        "num_candidate_ids": False,
        "num_candidate_masks": False,
        "num_score_masks": False,
    },
)
