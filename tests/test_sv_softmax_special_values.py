"""Values at the edge: no rows, no negatives, NaN and Inf, overflow."""

import numpy as np
import problems
import pytest
import sv_softmax_cases as cases
import tensorflow as tf

import fastneg

MODES = ("eager", "graph")
LOSS = fastneg.support_vector_guided_softmax_loss
# Rows that share a vector, rows longer than one, rows too long to be kept in the first-level cache.
WIDTHS = (3, 4, 40, 6000)


def _assert_zero(result: cases.Result) -> None:
    for name, value in zip(result._fields, result, strict=True):
        if value is not None:
            np.testing.assert_array_equal(value.astype(np.float64), 0.0, err_msg=name)


@pytest.mark.parametrize(
    ("mode", "dtype"), [("graph", "float32"), *(("eager", dtype) for dtype in problems.DTYPES)]
)
@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (4, 0)], ids=str)
def test_no_rows_or_no_negatives(
    backend: str, shape: tuple[int, int], dtype: str, mode: str
) -> None:
    case = cases.make(*shape, dtype)
    _assert_zero(cases.run(LOSS, case, mode))
    weights = np.ones(shape[0], problems.compute_dtype(case.dtype))
    result = cases.run(LOSS, case.with_options(weights=weights), mode)
    _assert_zero(result)
    assert result.grad_neg.shape == shape
    assert result.grad_pos.shape == result.grad_weights.shape == shape[:1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [0.0, np.nan])
@pytest.mark.parametrize("width", WIDTHS)
def test_all_weights_zero(backend: str, width: int, bad: float, mode: str) -> None:
    case = cases.make(6, width, weights=np.zeros(6, np.float32))
    case.neg_scores[2, 1] += bad
    _assert_zero(cases.run(LOSS, case, mode))


@pytest.mark.parametrize("weights", [0, 0.0, tf.constant(0.0)])
def test_weight_zero_hides_nan(backend: str, weights: object) -> None:
    case = cases.make(6, 5)
    case.pos_score[2] = np.nan
    _assert_zero(cases.run(lambda **arguments: LOSS(weights=weights, **arguments), case))


@pytest.mark.parametrize("mode", [*MODES, "xla"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("width", WIDTHS)
def test_bad_scores_in_a_row_of_weight_zero(
    backend: str, width: int, bad: float, mode: str
) -> None:
    """The row adds nothing; the gradient of its weight is its loss, which is not finite."""
    weights = np.array([1, 0, 1, 1, 0.5, 1], np.float32)
    case = cases.make(6, width, weights=weights)
    clean = cases.run(LOSS, case, mode)
    case.neg_scores[1, 0] = bad
    case.pos_score[1] = bad
    result = cases.run(LOSS, case, mode)
    for name in ("loss", "grad_pos", "grad_neg", "grad_smooth", "grad_margin", "grad_t"):
        np.testing.assert_array_equal(getattr(result, name), getattr(clean, name), err_msg=name)
    np.testing.assert_array_equal(~np.isfinite(result.grad_weights), weights == 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("width", WIDTHS)
def test_bad_negative_shows(backend: str, width: int, bad: float, mode: str) -> None:
    """And stays in its row."""
    case = cases.make(40, width)
    clean = cases.run(LOSS, case, mode)
    case.neg_scores[3, width - 1] = bad
    result = cases.run(LOSS, case, mode)
    assert not np.isfinite(result.loss)
    others = np.arange(40) != 3
    np.testing.assert_array_equal(result.grad_neg[others], clean.grad_neg[others])
    np.testing.assert_array_equal(result.grad_pos[others], clean.grad_pos[others])
    assert not np.all(np.isfinite(result.grad_neg[3]))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("width", WIDTHS)
def test_bad_positive_shows(backend: str, width: int, bad: float, mode: str) -> None:
    case = cases.make(40, width)
    case.pos_score[3] = bad
    result = cases.run(LOSS, case, mode)
    assert not np.isfinite(result.loss)
    assert np.all(np.isfinite(result.grad_neg[np.arange(40) != 3]))


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("width", [4, 9, 40, 6000])
def test_minus_infinity_stands_for_no_negative(backend: str, width: int, dtype: str) -> None:
    case = cases.make(20, width, dtype)
    shorter = cases.Case(case.pos_score, case.neg_scores[:, 2:], case.options)
    case.neg_scores[:, :2] = -np.inf
    with tf.GradientTape() as tape:
        neg_scores = tf.constant(case.neg_scores)
        tape.watch(neg_scores)
        loss = LOSS(case.pos_score, neg_scores, **case.options)
    grad = tape.gradient(loss, neg_scores).numpy()
    expected = cases.truth(shorter)
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-5)
    np.testing.assert_array_equal(grad[:, :2].astype(np.float64), 0.0)
    np.testing.assert_allclose(
        grad[:, 2:].astype(np.float64),
        expected.grad_neg,
        rtol=2e-2 if np.dtype(case.dtype).itemsize == 2 else 1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("smooth", [1e4, -1e4, 1e30])
@pytest.mark.parametrize("width", WIDTHS)
def test_huge_smooth(backend: str, width: int, smooth: float, dtype: str) -> None:
    case = cases.make(33, width, dtype, smooth=smooth)
    plain = cases.run(fastneg.reference.support_vector_guided_softmax_loss, case)
    result, truth = cases.run(LOSS, case), cases.truth(case)
    np.testing.assert_allclose(result.loss, truth.loss, rtol=1e-5)
    assert np.all(np.isfinite(result.grad_neg))
    if smooth < 1e20:
        cases.assert_as_accurate(result, plain, truth, case)


@pytest.mark.parametrize("width", WIDTHS)
def test_scores_far_apart(backend: str, width: int) -> None:
    """Rows with a negative far above the positive, beside rows without one."""
    case = cases.make(50, width)
    case.neg_scores[::3, width // 2] += 500
    case.neg_scores[::7] -= 1000
    case.pos_score[::11] += 1e6
    plain = cases.run(fastneg.reference.support_vector_guided_softmax_loss, case)
    cases.assert_as_accurate(cases.run(LOSS, case), plain, cases.truth(case), case)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("width", WIDTHS)
def test_extreme_weights(backend: str, width: int, scale: float) -> None:
    """A small weight does not underflow on the way to a gradient that is a number."""
    case = cases.make(20, width, smooth=10.0)
    case.neg_scores[::2, 0] += 3.5
    weights = np.full(20, scale, np.float32)
    result = cases.run(LOSS, case.with_options(weights=weights))
    truth = cases.truth(case)
    largest = np.max(np.abs(truth.grad_neg))
    np.testing.assert_allclose(
        result.grad_neg / scale, truth.grad_neg, rtol=1e-4, atol=1e-5 * largest
    )
    np.testing.assert_allclose(result.loss / scale, truth.loss, rtol=1e-5)
