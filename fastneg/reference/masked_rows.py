"""Rows that a program masks after their loss is computed."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from fastneg.arguments.in_batch_softmax import InBatchSoftmaxArguments


def without_masked_rows(
    arguments: InBatchSoftmaxArguments,
    loss: Callable[[InBatchSoftmaxArguments, tf.Tensor | None], tf.Tensor],
) -> tf.Tensor:
    """`loss(arguments, None)`, [B]; rows with an upstream gradient of 0 add nothing to gradients.

    They may hold NaN, which times 0 is NaN. Only the upstream gradients tell which rows are masked,
    so the derivative computes the losses of the others anew.

    Args:
        arguments: Checked ones.
        loss: From arguments, and which rows are masked, [B], if any, to losses. Those of masked
            rows may be anything that is finite.
    """
    names = [
        name
        for name in (
            "query_embeddings",
            "candidate_embeddings",
            "sample_weight",
            "temperature",
            "margin",
            "t",
        )
        if isinstance(getattr(arguments, name), tf.Tensor)
    ]

    def losses_of(*tensors: tf.Tensor) -> Any:
        given = arguments.replaced(**dict(zip(names, tensors, strict=True)))

        def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
            masked = tf.equal(upstream, 0)
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                again = loss(given, masked)
            grads: list[tf.Tensor] = tape.gradient(
                again, tensors, upstream, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return grads

        return loss(given, None), backward

    losses: tf.Tensor = tf.custom_gradient(losses_of)(*(getattr(arguments, name) for name in names))
    return losses
