"""Rows whose upstream gradient is 0 add nothing to any gradient, whatever they hold.

Programs mask rows by `tf.where(mask, losses, 0)`. What the masked rows hold may be anything, NaN
included, and 0 times NaN is NaN.
"""

import dataclasses
import itertools
from typing import Any

import in_batch_problems
import numpy as np
import problems
import pytest
import sampled_problems
import tensorflow as tf

import fastneg

MODES = ("eager", "graph")
LOSS = fastneg.sampled_softmax_loss
HIT = 17  # A class that is sampled, and a label of every row that is not masked.


def _masked(batch_size: int, num_true: int, **options: Any) -> sampled_problems.Problem:
    """A third of the rows is masked; the classes 190 to 199 are labels of masked rows alone."""
    problem = sampled_problems.make(batch_size, 70, 10, 200, num_true, **options)
    upstream = np.where(np.arange(batch_size) % 3 == 1, 0, 0.5 + np.arange(batch_size) % 4)
    labels, sampled = problem.labels % 190, problem.sampled % 190
    labels[:, 0] = np.where(upstream == 0, 190 + np.arange(batch_size) % 10, HIT)
    labels[(labels == HIT) & (upstream == 0)[:, None]] = 18
    sampled[sampled == HIT] = 18  # Of equal samples the last alone is a hit.
    sampled[-1] = HIT
    return dataclasses.replace(
        problem, labels=labels, sampled=sampled, upstream=upstream.astype(problem.biases.dtype)
    )


def _input(problem: sampled_problems.Problem, row: int) -> None:
    problem.inputs[row] = np.nan


def _infinite_input(problem: sampled_problems.Problem, row: int) -> None:
    problem.inputs[row, 3] = np.inf


def _count(problem: sampled_problems.Problem, row: int) -> None:
    problem.true_expected_count[row] = 0


def _label(problem: sampled_problems.Problem, row: int) -> None:
    problem.weights[problem.labels[row, 0]] = np.nan


def _bias(problem: sampled_problems.Problem, row: int) -> None:
    problem.biases[problem.labels[row, 0]] = np.inf


def _sampled_count(problem: sampled_problems.Problem, row: int) -> None:
    """Every row that is not masked has this sample as an accidental hit."""
    problem.sampled_expected_count[problem.sampled == HIT] = 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spoil", [_input, _infinite_input, _count, _label, _bias, _sampled_count])
@pytest.mark.parametrize("batch_size", [5, 300])
@pytest.mark.parametrize("num_true", [1, 2])
def test_gradients(backend: str, num_true: int, batch_size: int, spoil: Any, mode: str) -> None:
    problem = _masked(batch_size, num_true)
    truth = sampled_problems.truth(problem)
    spoil(problem, 4)
    result = sampled_problems.run(LOSS, problem, mode)
    assert not np.isfinite(result.loss[4])
    for name in ("grad_weights", "grad_biases", "grad_inputs"):
        np.testing.assert_allclose(
            getattr(result, name), getattr(truth, name), rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert np.all(result.grad_inputs[problem.upstream == 0] == 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_dtypes(backend: str, dtype: str, mode: str) -> None:
    problem = _masked(40, 1, dtype=dtype)
    truth = sampled_problems.truth(problem)
    _input(problem, 4)
    result = sampled_problems.run(LOSS, problem, mode)
    half = np.dtype(problem.inputs.dtype).itemsize == 2
    for name in ("grad_weights", "grad_biases", "grad_inputs"):
        np.testing.assert_allclose(
            getattr(result, name).astype(np.float64),
            getattr(truth, name),
            rtol=2e-2 if half else 1e-4,
            atol=5e-2 if half else 1e-5,
            err_msg=name,
        )


def test_in_xla(xla_backend: str) -> None:
    problem = _masked(40, 2)
    truth = sampled_problems.truth(problem)
    _count(problem, 4)
    result = sampled_problems.run(LOSS, problem, "xla")
    for name in ("grad_weights", "grad_biases", "grad_inputs"):
        np.testing.assert_allclose(
            getattr(result, name), getattr(truth, name), rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("mode", MODES)
def test_where_as_programs_write_it(backend: str, mode: str) -> None:
    """Row 1 cannot have been drawn, and is masked for that."""
    table, inputs = tf.constant(np.eye(4, dtype=np.float32)), tf.ones([2, 4])

    def compute(table: tf.Tensor, inputs: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([table, inputs])
            losses = LOSS(table, None, [0, 1], inputs, 1, 4, 1, ([2], [1.0, 0.0], [1.0]))
            total = tf.reduce_sum(tf.where([True, False], losses, 0.0))
        grads = tape.gradient(total, [table, inputs])
        return total, [tf.convert_to_tensor(grad) for grad in grads]

    compute = tf.function(compute, autograph=False) if mode == "graph" else compute
    total, (grad_table, grad_inputs) = compute(table, inputs)
    np.testing.assert_allclose(total, np.log(2), rtol=1e-6)
    expected = np.zeros((4, 4))
    expected[0], expected[2] = -0.5, 0.5
    np.testing.assert_allclose(grad_table, expected, rtol=1e-6)
    np.testing.assert_allclose(grad_inputs, [[-0.5, 0, 0.5, 0], [0] * 4], rtol=1e-6)


def test_a_masked_row_is_not_hidden_from_the_others(backend: str) -> None:
    """What an unmasked row uses shows, whether or not a masked one uses it too."""
    problem = _masked(40, 1)
    problem.weights[HIT] = np.nan
    result = sampled_problems.run(LOSS, problem)
    assert not np.any(np.isfinite(result.grad_inputs[problem.upstream != 0]))
    assert np.all(result.grad_inputs[problem.upstream == 0] == 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", ["rolled", "given", "pairwise", "shuffled"])
def test_a_scalar_loss_that_does_not_count(fused_backend: str, loss: str, mode: str) -> None:
    """`tf.where(tf.math.is_finite(loss), loss, 0)` keeps NaN out of every gradient."""
    rows = tf.constant(np.full((4, 3), np.nan, np.float32))
    scale = tf.constant(2.0)

    def compute(rows: tf.Tensor, scale: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([rows, scale])
            if loss == "rolled":
                value = fastneg.softmax_loss_with_negative_mining(
                    rows, rows, [1] * 4, gamma=scale, shifts=[1]
                )
            elif loss == "given":
                value = fastneg.support_vector_guided_softmax_loss(rows[:, 0], rows, smooth=scale)
            elif loss == "pairwise":
                value = fastneg.pairwise_loss([0, 1, 0, 1], rows[:, 0], temperature=scale)
            else:
                value = fastneg.negative_cosine_loss(
                    rows, rows, scale=scale, permutations=[[1, 0, 3, 2]]
                )
            total = tf.where(tf.math.is_finite(value), value, 0.0)
        return value, tape.gradient(total, [rows, scale])

    compute = tf.function(compute, autograph=False) if mode == "graph" else compute
    value, grads = compute(rows, scale)
    assert np.isnan(value)
    for grad in grads:
        np.testing.assert_array_equal(grad, np.zeros(grad.shape))


VARIANTS = ("plain", "cosine", "hard", "smoothing, re-weighted", "decoupled", "refined")


@pytest.mark.parametrize(
    ("name", "variant", "mode"),
    [
        *itertools.product(["native", "reference"], VARIANTS, MODES),
        *itertools.product(["native"], VARIANTS, ["xla"]),
        # XLA takes seconds to compile the composition.
        *itertools.product(["reference"], ["smoothing, re-weighted", "refined"], ["xla"]),
    ],
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_of_the_in_batch_loss(
    request: pytest.FixtureRequest, name: str, variant: str, bad: float, mode: str
) -> None:
    """Upstream gradients are linear from -1 to 2, so that of 31 rows row 10 has 0."""
    request.getfixturevalue(name)
    problem = in_batch_problems.variant(variant, in_batch_problems.make(31, 40, 9), "none")
    assert in_batch_problems.upstream(problem)[10] == 0
    truth = in_batch_problems.truth(problem)
    problem.query[10] = bad
    result = in_batch_problems.run(fastneg.in_batch_softmax_loss, problem, mode)
    for key, actual in result._asdict().items():
        if key == "loss" or actual is None:
            continue
        expected = getattr(truth, key)
        size = np.max(np.abs(expected))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * size, err_msg=key)
    assert np.all(result.grad_query[10] == 0)
