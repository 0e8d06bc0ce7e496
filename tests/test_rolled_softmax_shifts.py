"""Drawn shifts: in range, different, repeatable."""

import numpy as np
import pytest
import tensorflow as tf

import fastneg
from fastneg.arguments.rolled_softmax import draw_shifts


def _draw(batch_size: int, num_negatives: int, mode: str, seed: int | None = None) -> np.ndarray:
    user_emb = tf.zeros([batch_size, 1])
    if mode == "eager":
        return draw_shifts(user_emb, batch_size, num_negatives, seed).numpy()

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 1])])
    def draw(user_emb: tf.Tensor) -> tf.Tensor:
        return draw_shifts(user_emb, None, num_negatives, seed)

    return draw(user_emb).numpy()


@pytest.mark.parametrize("mode", ["eager", "unknown batch"])
def test_uniform_on_1_to_batch_size(mode: str) -> None:
    counts = np.bincount(_draw(6, 5000, mode), minlength=7)
    assert counts[0] == counts[6] == 0
    assert np.all(np.abs(counts[1:6] - 1000) < 150)


@pytest.mark.parametrize("mode", ["eager", "unknown batch"])
@pytest.mark.parametrize("graph_seed", [None, 3])
@pytest.mark.parametrize("seed", [None, 5])
def test_a_seed_does_not_make_the_draws_equal(
    mode: str, graph_seed: int | None, seed: int | None
) -> None:
    tf.random.set_seed(graph_seed or 0)
    assert len(np.unique(_draw(1 << 20, 8, mode, seed))) == 8


def test_a_seed_makes_the_sequence_repeatable(backend: str) -> None:
    rng = np.random.default_rng(0)
    user_emb, item_emb = rng.normal(size=(2, 64, 8)).astype(np.float32)

    def sequence() -> list[float]:
        tf.random.set_seed(11)
        return [
            float(
                fastneg.softmax_loss_with_negative_mining(
                    user_emb, item_emb, np.ones(64), seed=7, gamma=10.0
                )
            )
            for _ in range(3)
        ]

    first = sequence()
    assert len(set(first)) == 3
    assert first == sequence()


def test_seed_gives_every_backend_the_same_shifts(backend: str) -> None:
    rng = np.random.default_rng(0)
    user_emb, item_emb = rng.normal(size=(2, 64, 8)).astype(np.float32)
    losses = []
    for function in (
        fastneg.softmax_loss_with_negative_mining,
        fastneg.reference.softmax_loss_with_negative_mining,
    ):
        tf.random.set_seed(1)
        losses.append(function(user_emb, item_emb, np.ones(64), seed=2))
    np.testing.assert_allclose(*losses, rtol=1e-6)
