"""Values at the edge: no pairs, NaN and Inf, overflow, tiny losses."""

import numpy as np
import pairwise_problems as problems
import pytest
import tensorflow as tf

import fastneg

MODES = ("eager", "graph", "xla")
LOSS = fastneg.pairwise_loss

# Rows one by one, and in boxes.
SIZES = (9, 900)


def _assert_zero(result: problems.Result) -> None:
    for name, value in zip(result._fields, result, strict=True):
        if value is not None:
            np.testing.assert_array_equal(value.astype(np.float64), 0.0, err_msg=name)


def _problem(size: int, **options: object) -> problems.Problem:
    """A third of the rows has label 0, a third label 1, a third label 2."""
    logits = np.random.default_rng(size).normal(size=size).astype(np.float32)
    return problems.Problem(np.arange(size) % 3, logits, options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("size", [0, 1, 6])
def test_no_pair(backend: str, dtype: str, mode: str, size: int) -> None:
    if size == 0 and mode == "xla":
        pytest.skip("XLA has no use for tensors without elements.")
    logits = np.linspace(-1, 1, size).astype(problems.DTYPES[dtype])
    weights = np.ones(size, problems.compute_dtype(logits.dtype))
    problem = problems.Problem(np.ones(size), logits, {"weights": weights})
    result = problems.run(LOSS, problem, mode)
    _assert_zero(result)
    assert result.grad_logits.shape == result.grad_weights.shape == (size,)


@pytest.mark.parametrize("mode", MODES)
def test_sessions_of_one_row(backend: str, mode: str) -> None:
    _assert_zero(problems.run(LOSS, _problem(30, session_ids=np.arange(30)), mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_all_weights_zero(backend: str, bad: float, size: int, mode: str) -> None:
    problem = _problem(size, weights=np.zeros(size, np.float32))
    problem.logits[3] += bad
    result = problems.run(LOSS, problem, mode)
    # Inside XLA, and in the reference, the weights' gradients are 0 as well: nothing is divided.
    _assert_zero(result._replace(grad_weights=None))


@pytest.mark.parametrize("weights", [0, 0.0, tf.constant(0.0)])
def test_weight_zero_hides_nan(backend: str, weights: object) -> None:
    problem = _problem(9)
    problem.logits[2] = np.nan
    _assert_zero(problems.run(lambda **arguments: LOSS(weights=weights, **arguments), problem))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_nan_in_a_used_row_shows(backend: str, size: int, mode: str) -> None:
    problem = _problem(size)
    problem.logits[size // 2] = np.nan
    result = problems.run(LOSS, problem, mode)
    assert np.isnan(result.loss)
    assert np.isnan(result.grad_logits[size // 2])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_logits_as_plain_tensorflow_has_them(
    backend: str, bad: float, above: bool, size: int, mode: str
) -> None:
    """Infinitely right pairs cost nothing, infinitely wrong ones everything."""
    problem = _problem(size)
    row = 2 if above else 0  # Labels 2 and 0.
    problem.logits[row] = bad
    result = problems.run(LOSS, problem, mode)
    if (bad > 0) == above:
        finite = np.arange(size) != row
        counts = np.bincount(problem.labels)
        pairs = counts[0] * counts[1] + counts[0] * counts[2] + counts[1] * counts[2]
        others = problems.Problem(problem.labels[finite], problem.logits[finite], {})
        own = size - counts[problem.labels[row]]
        expected = problems.truth(others).loss * (pairs - own) / pairs
        np.testing.assert_allclose(result.loss, expected, rtol=1e-5)
        assert np.all(np.isfinite(result.grad_logits[finite]))
        assert result.grad_logits[row] == 0
    else:
        assert result.loss == np.inf


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_logit_in_an_unused_row_does_not_matter(
    backend: str, bad: float, size: int, mode: str
) -> None:
    """Rows in sessions of their own, and rows whose label is NaN."""
    ids = np.zeros(size, np.int64)
    ids[4] = 1
    labels = (np.arange(size) % 3).astype(np.float32)
    labels[7] = np.nan
    problem = problems.Problem(labels, _problem(size).logits, {"session_ids": ids})
    clean = problems.run(LOSS, problem, mode)
    problem.logits[[4, 7]] = bad
    result = problems.run(LOSS, problem, mode)
    for name, expected, actual in zip(clean._fields, clean, result, strict=True):
        if expected is not None:
            np.testing.assert_array_equal(actual, expected, err_msg=name)
    assert np.all(result.grad_logits[[4, 7]] == 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_nan_in_a_row_of_weight_zero(backend: str, size: int, mode: str) -> None:
    """A row above all others adds nothing; the gradient of its weight is its loss, NaN."""
    problem = _problem(size)
    problem.labels[5] = 3
    weights = np.ones(size, np.float32)
    weights[5] = 0
    problem = problem.with_options(weights=weights)
    clean = problems.run(LOSS, problem, mode)
    problem.logits[5] = np.nan
    result = problems.run(LOSS, problem, mode)
    others = np.arange(size) != 5
    np.testing.assert_allclose(result.loss, clean.loss, rtol=1e-5)
    np.testing.assert_allclose(
        result.grad_logits[others], clean.grad_logits[others], 1e-4, 1e-5 / size
    )
    assert result.grad_logits[5] == 0
    np.testing.assert_array_equal(np.isnan(result.grad_weights), ~others)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("huge", [1e4, 1e30])
def test_huge_logits(backend: str, dtype: str, size: int, huge: float) -> None:
    """No overflow: each pair costs 0 or the difference."""
    labels = np.arange(size) % 2
    right = np.where(labels > 0, huge, -huge).astype(dtype)
    result = problems.run(LOSS, problems.Problem(labels, right, {}))
    assert result.loss == 0
    assert np.all(result.grad_logits == 0)
    wrong = problems.run(LOSS, problems.Problem(labels, -right, {}))
    np.testing.assert_allclose(wrong.loss, 2 * huge, rtol=1e-5)
    counts = np.bincount(labels)
    np.testing.assert_allclose(
        wrong.grad_logits, np.where(labels > 0, -1 / counts[1], 1 / counts[0]), rtol=1e-5
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("distance", [5.0, 20.0, 60.0])
def test_tiny_losses_keep_their_digits(backend: str, size: int, distance: float) -> None:
    """Of a model that is right about every pair: softplus(-d) = e^-d, not 1 - (1 - e^-d)."""
    labels = np.arange(size) % 2
    noise = np.random.default_rng(0).normal(size=size) / 8
    logits = (labels * distance + noise).astype(np.float32)
    problem = problems.Problem(labels, logits, {})
    result, truth = problems.run(LOSS, problem), problems.truth(problem)
    np.testing.assert_allclose(result.loss, truth.loss, rtol=2e-5)
    np.testing.assert_allclose(result.grad_logits, truth.grad_logits, rtol=2e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("outlier", [-3e8, -1e4, 1e4, 1e9, 1e30, -1e30])
@pytest.mark.parametrize("rows", [[0], [1], [2], [0, 3, 6], [0, 1]], ids=str)
def test_outliers_do_not_spoil_the_others(
    backend: str, rows: list[int], outlier: float, size: int
) -> None:
    """Their boxes would be far away from all others."""
    problem = _problem(size)
    problem.logits[rows] = outlier
    result, truth = problems.run(LOSS, problem), problems.truth(problem)
    np.testing.assert_allclose(result.loss, truth.loss, rtol=1e-5)
    np.testing.assert_allclose(result.grad_logits, truth.grad_logits, 1e-4, 1e-5 / size)


@pytest.mark.parametrize("name", ["margin", "temperature"])
@pytest.mark.parametrize("size", SIZES)
def test_nan_in_a_scalar_tensor_shows(backend: str, name: str, size: int) -> None:
    assert np.isnan(problems.run(LOSS, _problem(size, **{name: np.nan})).loss)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("size", SIZES)
def test_infinite_margin(backend: str, size: int, value: float) -> None:
    assert problems.run(LOSS, _problem(size, margin=value)).loss == max(value, 0)


@pytest.mark.parametrize("size", SIZES)
def test_infinite_temperature_makes_every_pair_a_draw(backend: str, size: int) -> None:
    result = problems.run(LOSS, _problem(size, temperature=np.inf))
    np.testing.assert_allclose(result.loss, np.log(2), rtol=1e-5)
    np.testing.assert_array_equal(result.grad_logits, 0)
