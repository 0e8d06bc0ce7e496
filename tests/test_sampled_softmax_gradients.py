"""Gradients by finite differences, upstream gradients, and what has none."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import sampled_problems
import tensorflow as tf

import fastneg

LOSS = fastneg.sampled_softmax_loss
_STEP = 1e-6


def _total(problem: sampled_problems.Problem, **changes: Any) -> float:
    changed = dataclasses.replace(problem, **changes)
    return float(np.sum(sampled_problems.run(LOSS, changed).loss * problem.upstream))


@pytest.mark.parametrize("name", ["weights", "biases", "inputs"])
@pytest.mark.parametrize("num_true", [1, 2])
def test_finite_differences(backend: str, num_true: int, name: str) -> None:
    problem = sampled_problems.make(6, 5, 4, 9, num_true, "float64", upstream=True)
    value = getattr(problem, name)
    expected = np.zeros_like(value)
    for index in np.ndindex(value.shape):
        step = np.zeros_like(value)
        step[index] = _STEP
        high, low = (_total(problem, **{name: moved}) for moved in (value + step, value - step))
        expected[index] = (high - low) / (2 * _STEP)
    actual = getattr(sampled_problems.run(LOSS, problem), f"grad_{name}")
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("upstream", [0.0, 1.0, -2.5, "one row", "all but one", "ramp"])
def test_upstream_gradient(backend: str, upstream: float | str, mode: str) -> None:
    """Equal ones scale what the forward pass has computed, others do not: both are right."""
    problem = sampled_problems.make(70, 20, 9, 40, dtype="float64")
    values = {
        "one row": np.eye(1, 70, 3)[0],
        "all but one": 1 - np.eye(1, 70, 69)[0],
        "ramp": np.linspace(-1, 2, 70),
    }.get(upstream, np.full(70, upstream))
    problem = dataclasses.replace(problem, upstream=values)
    result = sampled_problems.run(LOSS, problem, mode)
    for name, actual, exact in zip(
        result._fields, result, sampled_problems.truth(problem), strict=True
    ):
        np.testing.assert_allclose(actual, exact, rtol=1e-10, atol=1e-12, err_msg=name)


def test_rows_that_do_not_count_hide_their_nan(fused_backend: str) -> None:
    """An upstream gradient of 0 for all rows gives zeros, whatever the losses are."""
    problem = sampled_problems.make(4, 3, 5, 9)
    problem.inputs[1] = np.nan
    problem = dataclasses.replace(problem, upstream=np.zeros(4, np.float32))
    if fused_backend == "native":
        result = sampled_problems.run(LOSS, problem)
        np.testing.assert_array_equal(result.grad_inputs, 0)
        np.testing.assert_array_equal(result.grad_weights, 0)


def test_expected_counts_are_constants(backend: str) -> None:
    problem = sampled_problems.make(6, 5, 4, 9)
    counts = [
        tf.Variable(problem.true_expected_count),
        tf.Variable(problem.sampled_expected_count),
    ]
    inputs = tf.Variable(problem.inputs)
    with tf.GradientTape() as tape:
        loss = LOSS(
            problem.weights, None, problem.labels, inputs, 5, 9, 1, (problem.sampled, *counts)
        )
    grad_inputs, *grad_counts = tape.gradient(loss, [inputs, *counts])
    assert grad_inputs is not None
    assert grad_counts == [None, None]


@pytest.mark.parametrize("name", ["weights", "biases", "inputs"])
def test_gradient_of_one_argument_only(backend: str, name: str) -> None:
    problem = sampled_problems.make(30, 20, 9, 40)
    everything = sampled_problems.run(LOSS, problem)
    arguments = {key: getattr(problem, key) for key in ("weights", "biases", "inputs")}
    arguments[name] = tf.Variable(arguments[name])
    with tf.GradientTape() as tape:
        loss = LOSS(
            labels=problem.labels,
            num_sampled=20,
            num_classes=40,
            sampled_values=(
                problem.sampled,
                problem.true_expected_count,
                problem.sampled_expected_count,
            ),
            **arguments,
        )
    grad = tf.convert_to_tensor(tape.gradient(loss, arguments[name]))
    np.testing.assert_array_equal(grad, getattr(everything, f"grad_{name}"))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_second_derivative_names_the_reference(fused_backend: str, mode: str) -> None:
    problem = sampled_problems.make(6, 5, 4, 9)

    def second(inputs: tf.Tensor) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(inputs)
            with tf.GradientTape() as inner:
                inner.watch(inputs)
                loss = LOSS(problem.weights, None, problem.labels, inputs, 5, 9)
            gradient = inner.gradient(loss, inputs)
        return outer.gradient(gradient, inputs)

    function = second if mode == "eager" else tf.function(second, autograph=False)
    with pytest.raises(LookupError, match="reference"):
        function(tf.constant(problem.inputs))


def test_second_derivative_of_the_reference() -> None:
    problem = sampled_problems.make(3, 4, 2, 9, dtype="float64", upstream=True)

    def gradient(inputs: Any) -> np.ndarray:
        changed = dataclasses.replace(problem, inputs=inputs)
        return sampled_problems.truth(changed).grad_inputs

    inputs = tf.constant(problem.inputs)
    samples = (problem.sampled, problem.true_expected_count, problem.sampled_expected_count)
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            loss = fastneg.reference.sampled_softmax_loss(
                problem.weights, problem.biases, problem.labels, inputs, 4, 9, 1, samples
            )
            total = tf.reduce_sum(loss * problem.upstream)
        first = inner.gradient(total, inputs)
        row = tf.reduce_sum(first[:, 0])
    hessian = outer.gradient(row, inputs)
    for index in np.ndindex(problem.inputs.shape):
        step = np.zeros_like(problem.inputs)
        step[index] = _STEP
        slope = (gradient(problem.inputs + step) - gradient(problem.inputs - step)) / (2 * _STEP)
        np.testing.assert_allclose(hessian[index], slope[:, 0].sum(), rtol=1e-5, atol=1e-7)
