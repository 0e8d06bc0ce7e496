"""The native `negative_cosine_loss`: the operation, its gradient, and the permutations it draws."""

from typing import Any

import tensorflow as tf

from fastneg.arguments.shuffled_cosine import ShuffledCosineArguments
from fastneg.backends.native.fused_loss import Call, FusedLoss, Grads, scalars
from fastneg.backends.native.library import operations
from fastneg.backends.native.scale_grad import scale_grad


def shuffled_cosine(arguments: ShuffledCosineArguments) -> tf.Tensor:
    """Calls the operation."""
    with_scalar_grad = isinstance(arguments.gamma, tf.Tensor)
    return _loss(
        [
            arguments.query,
            arguments.doc,
            arguments.permutations,
            *scalars([arguments.gamma], arguments.query.dtype),
        ],
        [arguments.candidate_sampling_probability, arguments.candidate_ids],
        differentiable=[0, 1, 3] if with_scalar_grad else [0, 1],
        with_scalar_grad=with_scalar_grad,
    )


def random_permutations(count: int, size: tf.Tensor, seed: int | None) -> tf.Tensor:
    """Calls the operation."""
    graph_seed, op_seed = tf.compat.v1.get_seed(seed)
    seeds = tf.raw_ops.RandomUniformInt(
        shape=tf.constant([count], tf.int32),
        minval=tf.constant(tf.int64.min, tf.int64),
        maxval=tf.constant(tf.int64.max, tf.int64),
        seed=graph_seed or 0,
        seed2=op_seed or 0,
    )
    permutations = operations().fastneg_random_permutations(seeds=seeds, size=size)
    permutations.set_shape([count, None])
    return permutations


def _gradients(grad_loss: tf.Tensor, call: Call) -> tuple[Grads, Grads]:
    query = call.required[0]
    _, grad_query, grad_doc, unit_scalars = call.outputs
    grads = scale_grad(grad_loss, [grad_query, grad_doc], query.dtype)
    grad_gamma = None
    if call.attribute("with_scalar_grad"):
        (grad_scalars,) = scale_grad(grad_loss, [unit_scalars], grad_loss.dtype)
        grad_gamma = tf.unstack(grad_scalars, num=3)[0]
    return [*grads, None, grad_gamma], [None, None]


def _unit_shapes(call: Call) -> list[Any]:
    query, doc = call.required[:2]
    return [query.shape, doc.shape, [3] if call.attribute("with_scalar_grad") else [0]]


_loss = FusedLoss(
    "Fastneg>ShuffledCosine",
    _gradients,
    _unit_shapes,
    attributes=("with_scalar_grad",),
    optional_inputs={"num_sampling_probabilities": False, "num_candidate_ids": False},
)
