"""sampled_softmax_loss: a softmax over many classes, estimated on a few sampled ones."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fastneg.arguments.sampled_softmax import SampledSoftmaxArguments
from fastneg.losses import common


def sampled_softmax_loss(
    weights: Any,
    biases: Any,
    labels: Any,
    inputs: Any,
    num_sampled: int,
    num_classes: int,
    num_true: int = 1,
    sampled_values: Sequence[Any] | None = None,
    remove_accidental_hits: bool = True,
    seed: Any = None,
    name: str | None = None,
) -> tf.Tensor:
    """Softmax loss over a row's own classes and S sampled ones, as `tf.nn.sampled_softmax_loss`.

    Row i's logits are those of its labels y_i1 .. y_iT and of the sampled classes s, which all rows
    share. c is how often a class is expected among the samples:

        l_it   = <x_i, w_y> + b_y - log c_y    with y = y_it
        m_is   = <x_i, w_s> + b_s - log c_s    left out where s is one of the row's labels
        loss_i = logsumexp(l_i1, .., l_iT, m_i1, .., m_iS) - mean_t l_it

    For the same `sampled_values` the values and gradients are TensorFlow's. Different are: `biases`
    may be None; float16 and bfloat16 work; the gradient of the table is a `tf.IndexedSlices` that
    names each touched row once; and nothing of size [B, S] is ever stored. Where the samples hold a
    class twice, only its last occurrence is left out, as in `tf.nn.compute_accidental_hits`.

    Args:
        weights: The table, [V, D]: a variable or tensor, a list of shards, whose rows TensorFlow
            numbers as `tf.nn.embedding_lookup` does with the strategy "div", or a variable that a
            distribution strategy has sharded. (Inside XLA, where no shape depends on values, the
            gradient names B T + S rows: what is left over names a touched one again, with zeros.)
        biases: [V], likewise; None for no biases.
        labels: [B, num_true] integers in 0 .. V - 1; also [B] where `num_true` is 1. Here, and for
            sampled classes, floats that are whole numbers will do, if none can be the rounded form
            of another: float32 below 2**24, for instance.
        inputs: [B, D]: float16, bfloat16, float32 or float64. The table is cast to this dtype
            where it has another one.
        num_sampled: S, a Python integer, 1 <= S <= V.
        num_classes: V, a Python integer.
        num_true: T, a Python integer, at least 1.
        sampled_values: The samples, as TensorFlow's candidate samplers return them: a tuple of
            sampled classes [S], expected counts of the labels [B, num_true] (or [B, 1], or a
            scalar), and expected counts of the samples [S] (or a scalar). Constants for the
            gradient. Default: `tf.random.log_uniform_candidate_sampler` with unique samples, which
            suits classes that are numbered from the most to the least frequent.
        remove_accidental_hits: Whether to leave out samples that are labels of the row.
        seed: Makes the sequence of samples repeatable. Two integers, [2], instead: the draw
            depends on them alone, as in `tf.random.stateless_uniform`. That, or `sampled_values`,
            is for `tf.recompute_grad` and `keras.remat`, which compute the loss twice and would
            draw twice. Replicas of `tf.distribute` draw for themselves, whatever the seed.
        name: Name of the scope in the graph.

    Returns:
        The losses, [B]: float64 for float64 inputs, else float32. They are differentiable with
        respect to `weights`, `biases` and `inputs`.

    Raises:
        ValueError: An argument or a static shape is wrong.
        tf.errors.InvalidArgumentError: A run-time shape is wrong, or a label or a sampled class is
            not in 0 .. V - 1, or is a float and no integer. The composition inside XLA cannot
            raise: its losses are NaN.

    Example:
        >>> table = tf.Variable(tf.random.normal([100, 8], seed=1))
        >>> inputs = tf.random.normal([4, 8], seed=2)
        >>> labels = tf.constant([[3], [0], [99], [3]])
        >>> losses = fastneg.sampled_softmax_loss(
        ...     table, None, labels, inputs, num_sampled=10, num_classes=100
        ... )
        >>> losses.shape
        TensorShape([4])

    Source:
        `tf.nn.sampled_softmax_loss`; Jean et al., "On using very large target vocabulary for neural
        machine translation", ACL 2015.
    """
    with common.scope(name, "sampled_softmax_loss"):
        arguments = SampledSoftmaxArguments(
            weights=weights,
            biases=biases,
            labels=labels,
            inputs=inputs,
            num_sampled=num_sampled,
            num_classes=num_classes,
            num_true=num_true,
            sampled_values=sampled_values,
            remove_accidental_hits=remove_accidental_hits,
            seed=seed,
        )
        return common.backend("sampled_softmax").sampled_softmax(arguments)
