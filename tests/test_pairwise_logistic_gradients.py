"""Gradients by finite differences, upstream gradients, and what has none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pairwise_problems as problems
import pytest
import tensorflow as tf

import fastneg

LOSS = fastneg.pairwise_loss
_STEP = 1e-6
_VARIABLES = ("logits", "weights", "margin", "temperature")


def _arguments(batch_size: int = 12) -> dict[str, Any]:
    problem = problems.with_everything(problems.make(batch_size, "float64", num_labels=4, seed=3))
    return {
        "labels": problem.labels,
        "logits": problem.logits,
        **problem.options,
        "margin": np.float64(0.2),
        "temperature": np.float64(0.7),
    }


def _finite_difference(
    loss: Callable[..., tf.Tensor], arguments: dict[str, Any], name: str
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
def test_finite_differences(backend: str, name: str) -> None:
    arguments = _arguments()
    variable = tf.Variable(arguments[name])
    with tf.GradientTape() as tape:
        value = LOSS(**{**arguments, name: variable})
    actual = tape.gradient(value, variable).numpy()
    expected = _finite_difference(LOSS, arguments, name)
    if name == "weights":
        # The number of pairs jumps where a weight becomes 0: there the gradient is no slope.
        slopes = arguments["weights"] != 0
        actual, expected = actual[slopes], expected[slopes]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


def test_finite_differences_of_power_series(fused_backend: str) -> None:
    """So many rows that they meet in boxes; the logits' gradients along one direction."""
    problem = problems.make(900, "float64", num_labels=3)
    direction = np.random.default_rng(0).normal(size=900)
    result = problems.run(LOSS, problem)
    step = 1e-4
    high, low = (
        float(LOSS(problem.labels, problem.logits + sign * step * direction)) for sign in (1, -1)
    )
    np.testing.assert_allclose(
        np.sum(direction * result.grad_logits), (high - low) / (2 * step), rtol=1e-6
    )


def test_gradient_of_a_zero_weight_is_the_loss_of_its_row(backend: str) -> None:
    problem = problems.make(8, "float64", num_labels=0)
    weights = np.array([1.0, 0, 2, 0, 0, 1, 0, 0.5])
    result = problems.run(LOSS, problem.with_options(weights=weights))
    below = np.sum(problem.labels[None, :] < problem.labels[:, None], axis=1)
    alone = [
        below[row] * problems.run(LOSS, problem.with_options(weights=np.eye(8)[row])).loss
        for row in range(8)
    ]
    expected = np.array(alone) / np.sum(below[weights != 0])
    np.testing.assert_allclose(result.grad_weights, expected, rtol=1e-12)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_upstream_gradient(backend: str, dtype: str, mode: str) -> None:
    """A loss inside a larger expression: its gradient is scaled, and comes back in its dtype."""
    problem = problems.with_everything(problems.make(12, dtype, num_labels=4))

    def larger(**arguments: object) -> tf.Tensor:
        return -3.0 * LOSS(**arguments) + 1.0

    plain = problems.run(LOSS, problem, mode)
    scaled = problems.run(larger, problem, mode)
    for name, alone, inside in zip(plain._fields[1:], plain[1:], scaled[1:], strict=True):
        assert inside.dtype == alone.dtype, name
        epsilon = np.finfo(np.float32).eps if alone.dtype.itemsize > 2 else 0.01
        alone, inside = alone.astype(np.float64), inside.astype(np.float64)
        allowed = 4 * epsilon * np.abs(alone).max()
        np.testing.assert_allclose(inside, -3.0 * alone, 4 * epsilon, allowed, err_msg=name)


@pytest.mark.parametrize("name", _VARIABLES)
def test_gradient_of_one_input_only(backend: str, name: str) -> None:
    arguments = _arguments()
    everything = problems.run(
        LOSS,
        problems.Problem(
            arguments["labels"],
            arguments["logits"],
            {key: value for key, value in arguments.items() if key not in ("labels", "logits")},
        ),
    )
    variable = tf.Variable(arguments[name])
    with tf.GradientTape() as tape:
        loss = LOSS(**{**arguments, name: variable})
    expected = getattr(everything, f"grad_{name}")
    np.testing.assert_allclose(tape.gradient(loss, variable), expected, rtol=1e-13)


def test_constants_have_no_gradient(backend: str) -> None:
    labels, logits = tf.Variable([0.0, 1.0, 2.0]), tf.Variable([0.5, 0.1, 0.2])
    with tf.GradientTape() as tape:
        loss = LOSS(labels, logits)
    grad_labels, grad_logits = tape.gradient(loss, [labels, logits])
    assert grad_labels is None
    assert grad_logits is not None


def test_forward_mode(backend: str) -> None:
    problem = problems.make(30, "float64", num_labels=3)
    result = problems.run(LOSS, problem)
    direction = np.random.default_rng(0).normal(size=30)
    logits = tf.constant(problem.logits)
    with tf.autodiff.ForwardAccumulator(logits, tf.constant(direction)) as accumulator:
        loss = LOSS(problem.labels, logits)
    np.testing.assert_allclose(
        accumulator.jvp(loss), np.sum(result.grad_logits * direction), rtol=1e-10
    )


@pytest.mark.parametrize("mode", ["eager", "graph", "inner function"])
def test_second_derivative_names_the_reference(fused_backend: str, mode: str) -> None:
    def gradient(logits: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = LOSS(tf.constant([0, 1, 2, 0]), logits)
        return tape.gradient(loss, logits)

    def second(logits: tf.Tensor) -> tf.Tensor:
        inner = tf.function(gradient, autograph=False) if mode == "inner function" else gradient
        with tf.GradientTape() as tape:
            tape.watch(logits)
            first = inner(logits)
        return tape.gradient(first, logits)

    logits = tf.constant([0.3, -0.1, 0.7, 0.2])
    outer = tf.function(second, autograph=False) if mode == "graph" else second
    with pytest.raises(LookupError, match=r"reference"):
        outer(logits)
    with fastneg.use_backend("reference"):
        assert np.all(np.isfinite(second(logits)))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_persistent_tape(backend: str, mode: str) -> None:
    problem = problems.make(30, num_labels=3)
    expected = problems.run(LOSS, problem)

    def gradients(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(logits)
            loss = LOSS(problem.labels, logits)
            inside = tape.gradient(loss, logits)
        return inside, tape.gradient(loss, logits)

    function = tf.function(gradients, autograph=False) if mode == "graph" else gradients
    for actual in function(tf.constant(problem.logits)):
        np.testing.assert_allclose(actual, expected.grad_logits, rtol=1e-6, atol=1e-8)
