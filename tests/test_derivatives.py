"""Derivatives that TensorFlow forms in ways of its own: Jacobians and forward mode."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import fastneg

_RNG = np.random.default_rng(0)
LEFT, RIGHT = (tf.constant(_RNG.normal(size=(6, 4)), tf.float32) for _ in range(2))
Loss = Callable[[tf.Tensor], tf.Tensor]
LOSSES: dict[str, Loss] = {
    "rolled": lambda x: fastneg.softmax_loss_with_negative_mining(
        x, RIGHT, tf.ones(6), shifts=[1, 2]
    ),
    "shuffled": lambda x: fastneg.negative_cosine_loss(x, RIGHT, permutations=[[1, 2, 3, 4, 5, 0]]),
    "scores": lambda x: fastneg.support_vector_guided_softmax_loss(x[:, :1], x[:, 1:]),
    "pairwise": lambda x: fastneg.pairwise_loss(tf.constant([0, 1, 0, 1, 1, 0]), x[:, 0]),
    "in-batch": lambda x: fastneg.in_batch_softmax_loss(x, RIGHT),
    "in-batch rows": lambda x: fastneg.in_batch_softmax_loss(x, RIGHT, reduction="none"),
}


def _jacobian(loss: Loss) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(LEFT)
        value = loss(LEFT)
    return tape.jacobian(value, LEFT)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", LOSSES)
def test_jacobian(native: str, name: str, mode: str) -> None:
    """An eager tape's Jacobian is a graph over values that were computed outside of it."""
    loss = LOSSES[name]
    call = tf.function(_jacobian, autograph=False) if mode == "graph" else _jacobian
    with fastneg.use_backend("reference"):
        expected = _jacobian(loss)
    np.testing.assert_allclose(call(loss), expected, rtol=1e-4, atol=1e-5)


def test_forward_mode_of_rows_is_refused(native: str) -> None:
    """It differentiates gradients by their upstream gradients: they were lost without a word."""
    with (
        tf.autodiff.ForwardAccumulator(LEFT, tf.ones_like(LEFT)) as accumulator,
        pytest.raises(LookupError, match="reference"),
    ):
        accumulator.jvp(LOSSES["in-batch rows"](LEFT))
