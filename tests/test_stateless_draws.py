"""Draws that depend on a seed of two integers alone, and what computes a loss twice."""

import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import fastneg

B, D, V = 12, 3, 50
RNG = np.random.default_rng(0)
OTHERS = RNG.normal(size=(B, D))
TABLE = RNG.normal(size=(V, D))
LABELS = RNG.integers(0, V, (B, 1))
PERMUTATIONS = np.stack([RNG.permutation(B) for _ in range(4)])
SAMPLES = (np.arange(6), np.full((B, 1), 0.3), np.full(6, 0.4))

LOSSES: dict[str, Callable[..., tf.Tensor]] = {
    "rolled_softmax": lambda rows, **draw: fastneg.softmax_loss_with_negative_mining(
        rows, OTHERS, np.ones(B), 4, gamma=10.0, **draw
    ),
    "shuffled_cosine": lambda rows, **draw: fastneg.negative_cosine_loss(rows, OTHERS, 4, **draw),
    "sampled_softmax": lambda rows, **draw: tf.reduce_mean(
        fastneg.sampled_softmax_loss(TABLE, None, LABELS, rows, 6, V, **draw)
    ),
}
GIVEN: dict[str, dict[str, Any]] = {
    "rolled_softmax": {"shifts": [1, 3, 4, 9]},
    "shuffled_cosine": {"permutations": PERMUTATIONS},
    "sampled_softmax": {"sampled_values": SAMPLES},
}
ROWS = RNG.normal(size=(B, D))
MODES = {"eager": {}, "graph": {"jit_compile": False}, "xla": {"jit_compile": True}}


def _compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    return function if mode == "eager" else tf.function(function, autograph=False, **MODES[mode])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_draw_depends_on_the_seed_alone(backend: str, name: str, mode: str) -> None:
    def twice(seed: tf.Tensor) -> list[tf.Tensor]:
        return [LOSSES[name](ROWS, seed=seed) for _ in range(2)]

    function = _compiled(twice, mode)
    seen = set()
    for seed in ([1, 2], [2, 1], [1, 3]):
        first, second = function(tf.constant(seed))
        third, _ = function(tf.constant(seed, tf.int64))
        assert first == second == third
        seen.add(float(first))
    assert len(seen) == 3
    if mode == "eager":
        assert LOSSES[name](ROWS, seed=(1, 2)) == LOSSES[name](ROWS, seed=np.array([1, 2]))


# Keras wraps TensorFlow's function, so a graph more would show nothing more of it.
@pytest.mark.parametrize(
    ("wrapper", "draw", "mode"),
    [
        *((tf.recompute_grad, "seed", mode) for mode in MODES),
        *((tf.recompute_grad, "given", mode) for mode in MODES),
        *((keras.remat, "seed", mode) for mode in ("eager", "graph")),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_recomputation(
    backend: str, name: str, mode: str, wrapper: Callable[..., Any], draw: str
) -> None:
    """The gradient is that of the very loss: as differences of it say."""
    direction = RNG.normal(size=ROWS.shape)

    def derivative(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        options = {"seed": seed} if draw == "seed" else GIVEN[name]
        loss = wrapper(lambda rows: LOSSES[name](rows, **options))
        rows = tf.constant(ROWS)
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = loss(rows)
        gradient = tape.gradient(value, rows)
        step = 1e-5 * direction
        difference = LOSSES[name](rows + step, **options) - LOSSES[name](rows - step, **options)
        return tf.reduce_sum(gradient * direction), difference / 2e-5

    actual, expected = _compiled(derivative, mode)(tf.constant([5, 7], tf.int64))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_stateless_shifts(backend: str) -> None:
    """Uniform on 1 .. B-1 like others: the loss is the mean of the losses of single shifts."""
    loss = fastneg.softmax_loss_with_negative_mining
    draw = tf.function(lambda seed: loss(ROWS, OTHERS, np.ones(B), 1, seed=seed), autograph=False)
    single = [float(loss(ROWS, OTHERS, np.ones(B), shifts=[k])) for k in range(1, B)]
    drawn = [float(draw(tf.constant([3, k]))) for k in range(1100)]
    nearest = np.argmin(np.abs(np.subtract.outer(drawn, single)), axis=1)
    counts = np.bincount(nearest, minlength=B - 1)
    np.testing.assert_allclose(np.array(single)[nearest], drawn, rtol=1e-9)
    # 100 are expected of each, with a standard deviation of 9.5.
    assert counts.min() > 55
    assert counts.max() < 145


def test_stateless_permutations_are_permutations(backend: str) -> None:
    """Backends refuse all else."""
    for k in range(20):
        assert np.isfinite(fastneg.negative_cosine_loss(ROWS, OTHERS, 3, seed=[k, 0]))


def test_stateless_samples_follow_the_sampler() -> None:
    """How often classes come is what they are expected to, and samples are unique."""
    from fastneg.arguments.log_uniform_sampler import log_uniform_sample

    num_draws, num_sampled, num_classes = 600, 5, 9
    classes = tf.range(num_classes, dtype=tf.int64)

    @tf.function(autograph=False)
    def draw(k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.stack([tf.constant(11, tf.int64), k])
        sampled, expected, _ = log_uniform_sample(classes, num_sampled, num_classes, seed)
        return sampled, expected

    counts, expected = np.zeros(num_classes), np.zeros(num_classes)
    for k in range(num_draws):
        sampled, expectation = draw(tf.constant(k, tf.int64))
        assert len(set(sampled.numpy().tolist())) == num_sampled
        counts[sampled.numpy()] += 1
        expected += expectation.numpy()
    # TensorFlow's expectations are those of draws with replacement: close, for so few classes.
    np.testing.assert_allclose(counts / num_draws, expected / num_draws, atol=0.12)


@pytest.mark.parametrize("name", LOSSES)
def test_replicas_draw_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = float(LOSSES[name](ROWS, seed=[1, 2]))
    seen = []
    for replica in range(3):
        context = types.SimpleNamespace(
            num_replicas_in_sync=3, replica_id_in_sync_group=tf.constant(replica)
        )
        with monkeypatch.context() as patch:
            patch.setattr(tf.distribute, "get_replica_context", lambda context=context: context)
            seen.append(float(LOSSES[name](ROWS, seed=[1, 2])))
            assert LOSSES[name](ROWS, seed=[1, 2]) == seen[-1]
    assert seen[0] == alone
    assert len(set(seen)) == 3
