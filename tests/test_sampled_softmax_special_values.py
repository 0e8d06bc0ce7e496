"""Values at the edge: NaN and infinity, overflow, counts of zero."""

import dataclasses

import numpy as np
import pytest
import sampled_problems

import fastneg

LOSS = fastneg.sampled_softmax_loss


def _problem(dtype: str = "float32") -> sampled_problems.Problem:
    problem = sampled_problems.make(40, 70, 10, 100, dtype=dtype)
    return dataclasses.replace(problem, labels=np.arange(40)[:, None] % 30 + 70)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_input_row(backend: str, bad: float, mode: str) -> None:
    """Its own loss is NaN, the others' are not."""
    problem = _problem()
    problem.inputs[7, 3] = bad
    result = sampled_problems.run(LOSS, problem, mode)
    assert np.flatnonzero(~np.isfinite(result.loss)).tolist() == [7]
    assert not np.all(np.isfinite(result.grad_weights))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_sampled_row(backend: str, bad: float) -> None:
    problem = _problem()
    problem.weights[problem.sampled[69], 2] = bad
    assert not np.any(
        np.isfinite(sampled_problems.run(LOSS, problem).loss[problem.inputs[:, 2] > 0])
    )


def test_bad_label_row(backend: str) -> None:
    problem = dataclasses.replace(_problem(), sampled=np.arange(70))
    problem.weights[problem.labels[5, 0], 0] = np.nan
    loss = sampled_problems.run(LOSS, problem).loss
    assert np.flatnonzero(np.isnan(loss)).tolist() == [5, 35]


def test_bad_rows_that_nobody_names_do_not_matter(backend: str) -> None:
    problem = sampled_problems.make(20, 30, 10, 100)
    unnamed = np.ones(100, bool)
    unnamed[problem.sampled] = unnamed[problem.labels[:, 0]] = False
    assert unnamed.any()
    problem.weights[unnamed] = np.nan
    problem.biases[unnamed] = np.inf
    result = sampled_problems.run(LOSS, problem)
    assert np.all(np.isfinite(result.loss))
    assert np.all(np.isfinite(result.grad_weights))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e3, 1e15])
def test_logits_far_beyond_exp(backend: str, scale: float, dtype: str) -> None:
    problem = _problem(dtype)
    problem = dataclasses.replace(problem, weights=(problem.weights * scale).astype(dtype))
    result = sampled_problems.run(LOSS, problem)
    truth = sampled_problems.truth(problem)
    epsilon = np.finfo(dtype).eps
    np.testing.assert_allclose(
        result.loss, truth.loss, rtol=1e2 * epsilon, atol=1e2 * epsilon * scale
    )
    assert np.all(np.isfinite(result.grad_inputs))


def test_hit_with_a_logit_far_above_all_others(backend: str) -> None:
    """What is left out does not drown what stays, not even in the choice of a reference."""
    problem = sampled_problems.make(8, 20, 4, 30, dtype="float32", biases=False)
    sampled = np.arange(20)
    counts = np.ones(20, np.float32)
    counts[3] = 1e-38
    problem = dataclasses.replace(
        problem,
        labels=np.full((8, 1), 3),
        sampled=sampled,
        sampled_expected_count=counts,
        true_expected_count=np.full((8, 1), 1e30, np.float32),
    )
    truth = sampled_problems.truth(problem)
    result = sampled_problems.run(LOSS, problem)
    np.testing.assert_allclose(result.loss, truth.loss, rtol=1e-5)
    np.testing.assert_allclose(result.grad_inputs, truth.grad_inputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("ahead", [15.0, 30.0, 80.0, 1000.0])
def test_largest_logits_among_the_last_samples(backend: str, ahead: float, dtype: str) -> None:
    """What the first ones tell of the size of logits does not hold for those."""
    problem = sampled_problems.make(150, 300, 20, 1000, dtype=dtype, upstream=True)
    problem.biases[problem.sampled[290:]] += ahead
    plain = sampled_problems.run(fastneg.reference.sampled_softmax_loss, problem)
    result = sampled_problems.run(LOSS, problem)
    sampled_problems.assert_as_accurate(result, plain, sampled_problems.truth(problem), problem)


@pytest.mark.parametrize("count", [0.0, -1.0, np.nan])
def test_counts_that_have_no_logarithm(backend: str, count: float) -> None:
    """As in TensorFlow: an infinite logit, or none at all, makes the loss NaN or infinite."""
    problem = _problem()
    counts = problem.true_expected_count.copy()
    counts[4] = count
    loss = sampled_problems.run(LOSS, dataclasses.replace(problem, true_expected_count=counts)).loss
    assert np.flatnonzero(~np.isfinite(loss)).tolist() == [4]


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_one_class(backend: str, mode: str) -> None:
    """The only sample is the label: nothing is left, the loss is 0 and so are the gradients."""
    result = sampled_problems.run(LOSS, sampled_problems.make(3, 1, 4, 1), mode)
    np.testing.assert_array_equal(result.loss, 0)
    np.testing.assert_array_equal(result.grad_weights, 0)
    np.testing.assert_array_equal(result.grad_inputs, 0)
