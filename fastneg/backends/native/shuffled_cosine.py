"""The native `negative_cosine_loss`: the operation, its gradient, and the permutations it draws."""

import tensorflow as tf

from fastneg.arguments.seeds import Seed, uniform_integers
from fastneg.arguments.shuffled_cosine import ShuffledCosineArguments
from fastneg.backends.native import xla
from fastneg.backends.native.custom_call import Description, Result, custom_call
from fastneg.backends.native.fused_loss import FusedLoss, Grads
from fastneg.backends.native.library import operations
from fastneg.backends.native.scale_grad import scale_grad
from fastneg.backends.native.sizes import Shape, Size, sizes
from fastneg.backends.native.ways import Call


def shuffled_cosine(arguments: ShuffledCosineArguments) -> tf.Tensor:
    """Calls the operation."""
    with_scalar_grad = isinstance(arguments.gamma, tf.Tensor)
    return _loss(
        [
            arguments.query,
            arguments.doc,
            arguments.permutations,
            arguments.gamma,
            arguments.negative_weight,
        ],
        [arguments.candidate_sampling_probability, arguments.candidate_ids],
        dtype=arguments.query.dtype,
        differentiable=[0, 1, 3] if with_scalar_grad else [0, 1],
        refined=arguments.correction == "refined",
        positive_in_softmax=arguments.positive_in_softmax,
        with_scalar_grad=with_scalar_grad,
    )


def random_permutations(count: int, size: tf.Tensor, seed: Seed) -> tf.Tensor:
    """Calls the operation."""
    seeds = uniform_integers(count, tf.int64.min, tf.int64.max, seed)
    if xla.is_the_way("random_permutations"):
        return _permutations_in_xla(count, seeds, size)
    permutations = operations().fastneg_random_permutations(seeds=seeds, size=size)
    permutations.set_shape([count, None])
    return permutations


def _permutations_in_xla(count: int, seeds: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    # A size that is not known yet is that of a tensor, if only of one without elements.
    static_size = tf.get_static_value(size)
    rows = tf.zeros([size, 0], tf.bool)
    (permutations,) = custom_call(
        Description("Fastneg>RandomPermutations", {}, {}),
        [seeds, size],
        [Result(tf.int32, [count, Size(rows, 0) if static_size is None else int(static_size)])],
        xla.platforms("random_permutations"),
        witnesses=[rows],
    )
    return permutations


def _gradients(grad_loss: tf.Tensor, call: Call) -> tuple[Grads, Grads]:
    query = call.required[0]
    _, grad_query, grad_doc, unit_scalars = call.outputs
    grads = scale_grad(grad_loss, [grad_query, grad_doc], query.dtype)
    grad_gamma = None
    if call.attribute("with_scalar_grad"):
        (grad_scalars,) = scale_grad(grad_loss, [unit_scalars], grad_loss.dtype)
        grad_gamma = tf.unstack(grad_scalars, num=3)[0]
    return [*grads, None, grad_gamma, None], [None, None]


def _output_shapes(call: Call) -> list[Shape]:
    query, doc = call.required[:2]
    return [[], sizes(query), sizes(doc), [3] if call.attribute("with_scalar_grad") else [0]]


_loss = FusedLoss(
    "shuffled_cosine",
    _gradients,
    _output_shapes,
    inputs={"query": 2, "doc": 2, "permutations": 2, "gamma": 0, "negative_weight": 0},
    attributes=("refined", "positive_in_softmax", "with_scalar_grad"),
    optional_inputs={"num_sampling_probabilities": False, "num_candidate_ids": False},
)
