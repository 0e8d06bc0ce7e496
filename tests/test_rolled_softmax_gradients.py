"""Gradients by finite differences, upstream gradients, and what has none."""

from collections.abc import Callable

import evaluation
import numpy as np
import problems
import pytest
import tensorflow as tf

import fastneg

_STEP = 1e-6
_VARIABLES = ("user_emb", "item_emb", "weights", "gamma", "margin", "t")


def _arguments(*, embed_normed: bool) -> dict[str, np.ndarray]:
    problem = problems.with_everything(problems.make(9, 4, 5, "float64", seed=3))
    return {
        "user_emb": problem.user_emb,
        "item_emb": problem.item_emb,
        "labels": problem.labels,
        "shifts": problem.shifts,
        "embed_normed": embed_normed,
        **problem.options,
        "gamma": np.float64(3.0),
        "margin": np.float64(0.1),
        "t": np.float64(1.3),
    }


def _finite_difference(
    loss: Callable[..., tf.Tensor], arguments: dict[str, np.ndarray], name: str
) -> np.ndarray:
    value = np.asarray(arguments[name])
    result = np.zeros(value.shape)
    for index in np.ndindex(value.shape):
        step = np.zeros(value.shape)
        step[index] = _STEP
        high, low = (
            float(loss(**{**arguments, name: shifted})) for shifted in (value + step, value - step)
        )
        result[index] = (high - low) / (2 * _STEP)
    return result


@pytest.mark.parametrize("name", _VARIABLES)
@pytest.mark.parametrize("embed_normed", [False, True])
def test_finite_differences(backend: str, name: str, embed_normed: bool) -> None:
    loss = fastneg.softmax_loss_with_negative_mining
    arguments = _arguments(embed_normed=embed_normed)
    variable = tf.Variable(arguments[name])
    with tf.GradientTape() as tape:
        value = loss(**{**arguments, name: variable})
    actual = tape.gradient(value, variable).numpy()
    expected = _finite_difference(loss, arguments, name)
    if name == "weights":
        # The number of rows jumps where a weight becomes 0: there the gradient is no slope.
        slopes = (arguments["labels"] > 0) & (arguments["weights"] != 0)
        actual, expected = actual[slopes], expected[slopes]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


def test_gradient_of_a_zero_weight_is_the_loss_of_its_row(backend: str) -> None:
    problem = problems.make(6, 2, 4, "float64", positive_share=1.0)
    weights = np.array([1.0, 0, 2, 0, 0, 1])
    result = evaluation.run(
        fastneg.softmax_loss_with_negative_mining, problem.with_options(weights=weights)
    )
    alone = [
        evaluation.run(
            fastneg.softmax_loss_with_negative_mining, problem.with_options(weights=np.eye(6)[row])
        ).loss
        for row in range(6)
    ]
    np.testing.assert_allclose(result.grad_weights, np.array(alone) / 3, rtol=1e-12)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_upstream_gradient(backend: str, dtype: str, mode: str) -> None:
    """A loss inside a larger expression: its gradient is scaled, and comes back in its dtype."""
    problem = problems.with_everything(problems.make(12, 3, 6, dtype))

    def larger(**arguments: object) -> tf.Tensor:
        return -3.0 * fastneg.softmax_loss_with_negative_mining(**arguments) + 1.0

    plain = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem, mode)
    scaled = evaluation.run(larger, problem, mode)
    for name, alone, inside in zip(plain._fields[1:], plain[1:], scaled[1:], strict=True):
        assert inside.dtype == alone.dtype, name
        epsilon = np.finfo(np.float32).eps if alone.dtype.itemsize > 2 else 0.01
        np.testing.assert_allclose(
            inside.astype(np.float64),
            -3.0 * alone.astype(np.float64),
            rtol=16 * epsilon,
            atol=16 * epsilon * np.abs(alone.astype(np.float64)).max(),
            err_msg=name,
        )


def test_constants_have_no_gradient(backend: str) -> None:
    problem = problems.with_everything(problems.make(8, 3, 4))
    probability = tf.Variable(problem.options["candidate_sampling_probability"])
    user_emb = tf.Variable(problem.user_emb)
    with tf.GradientTape() as tape:
        loss = fastneg.softmax_loss_with_negative_mining(
            user_emb,
            problem.item_emb,
            problem.labels,
            shifts=problem.shifts,
            candidate_sampling_probability=probability,
        )
    grad_user, grad_probability = tape.gradient(loss, [user_emb, probability])
    assert grad_user is not None
    assert grad_probability is None


def test_gradient_of_one_input_only(backend: str) -> None:
    problem = problems.make(8, 3, 4)
    everything = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem)
    item_emb = tf.Variable(problem.item_emb)
    with tf.GradientTape() as tape:
        loss = fastneg.softmax_loss_with_negative_mining(
            problem.user_emb,
            item_emb,
            problem.labels,
            shifts=problem.shifts,
            **problem.options,
        )
    np.testing.assert_array_equal(tape.gradient(loss, item_emb), everything.grad_item)


def test_forward_mode(backend: str) -> None:
    problem = problems.make(8, 3, 4, "float64")
    result = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem)
    direction = np.random.default_rng(0).normal(size=problem.user_emb.shape)
    user_emb = tf.constant(problem.user_emb)
    with tf.autodiff.ForwardAccumulator(user_emb, tf.constant(direction)) as accumulator:
        loss = fastneg.softmax_loss_with_negative_mining(
            user_emb, problem.item_emb, problem.labels, shifts=problem.shifts, **problem.options
        )
    np.testing.assert_allclose(
        accumulator.jvp(loss), np.sum(result.grad_user * direction), rtol=1e-10
    )


@pytest.mark.parametrize("mode", ["eager", "graph", "inner function"])
def test_second_derivative_names_the_reference(fused_backend: str, mode: str) -> None:
    def gradient(user_emb: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            loss = fastneg.softmax_loss_with_negative_mining(
                user_emb, user_emb[::-1], tf.ones([4]), shifts=[1, 2]
            )
        return tape.gradient(loss, user_emb)

    def second(user_emb: tf.Tensor) -> tf.Tensor:
        inner = tf.function(gradient, autograph=False) if mode == "inner function" else gradient
        with tf.GradientTape() as tape:
            tape.watch(user_emb)
            first = inner(user_emb)
        return tape.gradient(first, user_emb)

    user_emb = tf.constant(problems.make(4, 2, 3).user_emb)
    outer = tf.function(second, autograph=False) if mode == "graph" else second
    with pytest.raises(LookupError, match=r"reference"):
        outer(user_emb)
    with fastneg.use_backend("reference"):
        assert np.all(np.isfinite(second(user_emb)))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_persistent_tape(backend: str, mode: str) -> None:
    problem = problems.make(8, 3, 4)
    expected = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem)

    def gradients(user_emb: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(user_emb)
            loss = fastneg.softmax_loss_with_negative_mining(
                user_emb, problem.item_emb, problem.labels, shifts=problem.shifts, **problem.options
            )
            inside = tape.gradient(loss, user_emb)
        return inside, tape.gradient(loss, user_emb)

    function = tf.function(gradients, autograph=False) if mode == "graph" else gradients
    inside, after = function(tf.constant(problem.user_emb))
    np.testing.assert_allclose(inside, expected.grad_user, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(after, expected.grad_user, rtol=1e-6, atol=1e-8)
