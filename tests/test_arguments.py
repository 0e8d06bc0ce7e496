"""Arguments that several losses treat alike, and ways of differentiating that few use."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from bad_input import assert_refused
from case_gradients import arguments_of
from small_cases import CASES

import fastneg

B = 8
ONES = np.ones((B, 4), np.float32)
IDENTITY = [np.arange(B)]


def _rolled(**options: Any) -> tf.Tensor:
    return fastneg.softmax_loss_with_negative_mining(ONES, ONES, ONES[:, 0], 2, **options)


def _shuffled(**options: Any) -> tf.Tensor:
    return fastneg.negative_cosine_loss(ONES, ONES, **options)


def _sampled(**options: Any) -> tf.Tensor:
    return fastneg.sampled_softmax_loss(
        **{
            "weights": np.ones((20, 4), np.float32),
            "biases": None,
            "labels": np.arange(B),
            "inputs": ONES,
            "num_sampled": 3,
            "num_classes": 20,
            **options,
        }
    )


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("seed", [1.0, "1", [1], True, np.ones(3, np.int64), np.ones(2), object()])
@pytest.mark.parametrize("loss", [_rolled, _shuffled, _sampled])
def test_seeds(loss: Callable[..., Any], seed: Any, mode: str) -> None:
    message = r"`seed` must be a Python integer or None, or two integers, \[2\]\. Rec"
    assert_refused(loss, {"seed": seed}, message, mode)
    assert np.all(np.isfinite(loss(seed=np.int32(3))))


FLAGS = {"embed_normed": _rolled, "remove_accidental_hits": _sampled}


@pytest.mark.parametrize("value", ["no", None, 1.0, np.ones(2), tf.constant(True)])
@pytest.mark.parametrize("name", FLAGS)
def test_flags(backend: str, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be True or False\. Received: "):
        FLAGS[name](**{name: value})
    for good in (np.True_, 0):
        assert np.all(np.isfinite(FLAGS[name](**{name: good})))


@pytest.mark.parametrize("count", [2**31, 10**40])
def test_more_negatives_than_can_be_counted(backend: str, count: int) -> None:
    for name, loss in (("num_negatives", _shuffled), ("num_sampled", _sampled)):
        with pytest.raises(ValueError, match=rf"`{name}` must be at most 2147483647\."):
            loss(**{name: count, **({"num_classes": 2**40} if name == "num_sampled" else {})})

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None])])
    def rolled(users: tf.Tensor) -> tf.Tensor:
        return fastneg.softmax_loss_with_negative_mining(users, users, users[:, 0], count)

    with pytest.raises(ValueError, match=r"`num_negative_samples` must be at most 2147483647\."):
        rolled(ONES)


NUMBERS = {
    "gamma": _rolled,
    "margin": _rolled,
    "t": _rolled,
    "scale": _shuffled,
    "smooth": lambda **options: fastneg.support_vector_guided_softmax_loss(
        ONES[:, 0], ONES, **options
    ),
    "threshold": lambda **options: fastneg.support_vector_guided_softmax_loss(
        ONES[:, 0], ONES, **options
    ),
    "temperature": lambda **options: fastneg.pairwise_loss(ONES[:, 0], ONES[:, 0], **options),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_float32_does_not_hold(backend: str, name: str) -> None:
    for value in (1e39, -(10**40)):
        with pytest.raises(ValueError, match=rf"`{name}` must be finite in float32\."):
            NUMBERS[name](**{name: value})


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_lists_of_arrays(backend: str, mode: str) -> None:
    """TensorFlow takes them eagerly, and fails to while a graph is traced."""

    def losses() -> list[tf.Tensor]:
        return [
            fastneg.negative_cosine_loss(list(ONES), list(ONES), permutations=IDENTITY),
            fastneg.softmax_loss_with_negative_mining(
                list(ONES), list(ONES), list(ONES[:, 0]), shifts=[np.int64(1)]
            ),
        ]

    computed = losses() if mode == "eager" else tf.function(losses, autograph=False)()
    # All rows are alike, so a positive and a negative are.
    np.testing.assert_allclose(computed, np.log(2.0), rtol=1e-6)


DIFFERENTIATED = {
    "rolled_softmax": "user_emb",
    "shuffled_cosine": "query",
    "sv_softmax": "neg_scores",
    "pairwise_logistic": "logits",
    "sampled_softmax": "inputs",
}


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_forward_mode_in_a_graph_is_refused(fused_backend: str, name: str) -> None:
    arguments = {
        key: tf.constant(value)
        for key, value in zip(CASES[name].arguments, arguments_of(name), strict=True)
    }
    primal = arguments[DIFFERENTIATED[name]]

    @tf.function(autograph=False)
    def derivative() -> Any:
        with tf.autodiff.ForwardAccumulator(primal, tf.ones_like(primal)) as accumulator:
            loss = CASES[name].loss(*arguments.values())
        return accumulator.jvp(loss)

    with pytest.raises(LookupError, match=r"Forward mode inside a tf\.function must be left to"):
        derivative()


def test_forward_mode_of_the_sampled_softmax_is_refused(fused_backend: str) -> None:
    arguments = [tf.constant(value) for value in arguments_of("sampled_softmax")]
    with (
        tf.autodiff.ForwardAccumulator(arguments[1], tf.ones_like(arguments[1])) as accumulator,
        pytest.raises(LookupError, match="second derivative"),
    ):
        accumulator.jvp(CASES["sampled_softmax"].loss(*arguments))


@pytest.mark.parametrize("name", ["sv_softmax", "pairwise_logistic"])
def test_vectorized_map(fused_backend: str, name: str) -> None:
    """The native operation is differentiated as anywhere; numba's callback says that it is not."""
    arguments = [tf.constant(value) for value in arguments_of(name)]
    place = list(CASES[name].arguments).index(DIFFERENTIATED[name])
    stacked = tf.stack([arguments[place], 2.0 * arguments[place]])

    def loss(one: tf.Tensor) -> tf.Tensor:
        return CASES[name].loss(*[*arguments[:place], one, *arguments[place + 1 :]])

    def gradients() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(stacked)
            losses = tf.vectorized_map(loss, stacked)
        return tape.gradient(losses, stacked)

    losses = tf.vectorized_map(loss, stacked)
    np.testing.assert_allclose(losses, [loss(one) for one in stacked], rtol=1e-6)
    if fused_backend == "numba":
        with pytest.raises(LookupError, match=r"tf\.vectorized_map must be left to the native"):
            gradients()
        return
    grads = gradients()
    with tf.GradientTape() as tape, fastneg.use_backend("reference"):
        tape.watch(stacked)
        losses = tf.stack([loss(one) for one in tf.unstack(stacked)])
    np.testing.assert_allclose(grads, tape.gradient(losses, stacked), rtol=1e-4, atol=1e-6)
