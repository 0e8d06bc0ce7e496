"""A score of -inf stands for no candidate: in the loss, and in the derivative by every argument.

Where a derivative by a scalar adds up a probability of 0 times such a score, NaN would come out.
"""

import evaluation
import in_batch_problems
import numpy as np
import pairwise_problems
import problems
import pytest
import sampled_problems
import sv_softmax_cases as cases
import tensorflow as tf

import fastneg

MODES = ("eager", "graph")
SCALARS = ("grad_smooth", "grad_margin", "grad_t")


def _masked_case(num_rows: int, width: int, dtype: str, **options: object) -> cases.Case:
    """Some rows have all their negatives, some none, the others some."""
    case = cases.make(num_rows, width, dtype, **options)
    missing = np.random.default_rng(width).random((num_rows, width)) < 0.3
    missing[0], missing[1], missing[2, 1:] = False, True, True
    case.neg_scores[missing] = np.float32(-np.inf)
    return case


def _assert_close(result: cases.Result, expected: cases.Result, dtype: str) -> None:
    half = dtype in ("float16", "bfloat16")
    for name in ("loss", "grad_pos", "grad_neg", "grad_weights", *SCALARS):
        actual = getattr(result, name)
        if actual is None:
            continue
        narrow = half and name in ("grad_pos", "grad_neg")
        np.testing.assert_allclose(
            actual.astype(np.float64),
            getattr(expected, name),
            rtol=1e-2 if narrow else 2e-5,
            atol=1e-6,
            err_msg=name,
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("width", [2, 4, 9, 40, 6000])
def test_given_scores(backend: str, width: int, dtype: str, mode: str) -> None:
    case = _masked_case(21, width, dtype)
    result = cases.run(fastneg.support_vector_guided_softmax_loss, case, mode)
    _assert_close(result, cases.truth_without_missing(case), dtype)


@pytest.mark.parametrize("mode", [*MODES, "xla"])
@pytest.mark.parametrize("width", [4, 40])
def test_given_scores_of_weighted_rows(backend: str, width: int, mode: str) -> None:
    case = cases.with_weights(_masked_case(21, width, "float32"))
    result = cases.run(fastneg.support_vector_guided_softmax_loss, case, mode)
    _assert_close(result, cases.truth_without_missing(case), "float32")


@pytest.mark.parametrize("width", [3, 40])
def test_all_negatives_are_hard(backend: str, width: int) -> None:
    """The missing ones among them, whose score is not what they were given."""
    case = _masked_case(21, width, "float32", threshold=tf.constant(np.inf))
    result = cases.run(fastneg.support_vector_guided_softmax_loss, case)
    _assert_close(result, cases.truth_without_missing(case), "float32")


@pytest.mark.parametrize("mode", [*MODES, "xla"])
def test_two_rows_by_hand(backend: str, mode: str) -> None:
    """A row costs log(1 + sum e), e = exp(3 (s - p)); slope: sum (s - p) e / (1 + sum e)."""
    case = cases.Case(
        np.float32([0.3, 0.5]),
        np.float32([[0.1, -np.inf, 0.2], [-np.inf, -np.inf, 0.4]]),
        {"smooth": 3.0},
    )
    first, second = np.exp([-0.6, -0.3]), np.exp(-0.3)
    expected = (
        -(0.2 * first[0] + 0.1 * first[1]) / (1 + first.sum()) - 0.1 * second / (1 + second)
    ) / 2
    result = cases.run(fastneg.support_vector_guided_softmax_loss, case, mode)
    np.testing.assert_allclose(result.grad_smooth, expected, rtol=1e-5)
    assert result.grad_t == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [4, 40])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_scores_beside_missing_ones_show(
    backend: str, bad: float, width: int, mode: str
) -> None:
    case = _masked_case(21, width, "float32")
    case.neg_scores[4, 1], case.neg_scores[4, 2] = bad, -np.inf
    result = cases.run(fastneg.support_vector_guided_softmax_loss, case, mode)
    for name in ("loss", "grad_smooth", "grad_margin"):
        assert not np.isfinite(getattr(result, name)), name


def _assert_as_true(result: evaluation.Result, problem: problems.Problem) -> None:
    """The truth is computed in float64, where nothing overflows."""
    truth = evaluation.truth(problem)
    half = problem.dtype.itemsize == 2
    for name in ("loss", "grad_user", "grad_item", "grad_gamma", "grad_margin", "grad_t"):
        actual, expected = getattr(result, name).astype(np.float64), getattr(truth, name)
        if name == "grad_item":  # Products with the users' first elements.
            expected[:, 0] /= 1e20
            actual[:, 0] /= 1e20
        narrow = half and name in ("grad_user", "grad_item")
        np.testing.assert_allclose(
            actual,
            expected,
            rtol=2e-2 if narrow else 1e-4,
            atol=1e-3 if narrow else 1e-5,
            err_msg=name,
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("num_negatives", [1, 4, 9, 40])
def test_products_that_overflow(backend: str, num_negatives: int, dtype: str, mode: str) -> None:
    problem = problems.overflowing(num_negatives, dtype, -1.0)
    result = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem, mode)
    _assert_as_true(result, problem)


def test_products_that_overflow_in_xla(xla_backend: str) -> None:
    problem = problems.overflowing(9, "float32", -1.0)
    result = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem, "xla")
    _assert_as_true(result, problem)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("num_negatives", [1, 4, 9, 40])
def test_accidental_hits_that_overflow(
    backend: str, num_negatives: int, sign: float, mode: str
) -> None:
    """They are left out, whatever their score is."""
    problem = problems.overflowing(num_negatives, "float32", sign)
    ids = np.arange(48)
    ids[[5, 6, 7, 8]] = 8
    problem.labels[9:] = 0  # Row 8 alone is not kept from these items by its id.
    problem.labels[:5] = 0
    problem = problem.with_options(candidate_ids=ids)
    result = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem, mode)
    _assert_as_true(result, problem)


@pytest.mark.parametrize("mode", [*MODES, "xla"])
@pytest.mark.parametrize("size", [9, 900])
@pytest.mark.parametrize(("row", "value"), [(2, np.inf), (0, -np.inf)])
def test_pairs_that_are_infinitely_right(
    backend: str, row: int, value: float, size: int, mode: str
) -> None:
    """They cost e^-infinity, which is what e^-(10^6) is in float64."""
    logits = np.random.default_rng(size).normal(size=size).astype(np.float32)
    logits[row] = 1e6 * np.sign(value)
    options = {"margin": 0.3, "temperature": 0.7}
    problem = pairwise_problems.Problem(np.arange(size) % 3, logits, options)
    truth = pairwise_problems.truth(problem)
    logits[row] = value
    result = pairwise_problems.run(fastneg.pairwise_loss, problem, mode)
    for name in ("loss", "grad_logits", "grad_margin", "grad_temperature"):
        np.testing.assert_allclose(
            getattr(result, name), getattr(truth, name), rtol=2e-5, atol=1e-7, err_msg=name
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_true", [1, 2])
def test_sampled_classes_without_a_chance(backend: str, num_true: int, mode: str) -> None:
    """A bias of -inf takes a class out, which costs e^-infinity, or e^-(10^6) in float64."""
    problem = sampled_problems.make(40, 70, 10, 200, num_true, upstream=True)
    out = np.setdiff1d(problem.sampled, problem.labels)[:9]
    assert out.size == 9
    problem.biases[out] = -1e6
    truth = sampled_problems.truth(problem)
    problem.biases[out] = -np.inf
    result = sampled_problems.run(fastneg.sampled_softmax_loss, problem, mode)
    for name, actual in result._asdict().items():
        np.testing.assert_allclose(actual, getattr(truth, name), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture(params=["native", "reference"])
def in_batch_backend(request: pytest.FixtureRequest) -> object:
    """Each backend that has the in-batch loss."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("mode", [*MODES, "xla"])
@pytest.mark.parametrize("excluded", [None, "score_mask", "candidate_ids"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_products_in_the_batch_that_overflow(
    in_batch_backend: object, reduction: str, excluded: str | None, mode: str
) -> None:
    """Beyond float32 with candidate 25: below all others, or excluded and above them."""
    options = {"temperature": 0.7, "margin": 0.125, "t": 1.25, "reduction": reduction}
    problem = in_batch_problems.make(20, 33, 9, **options)
    problem.query[:, 0], problem.candidate[:, 0] = 1e20, 0
    problem.candidate[25, 0] = 1e20 if excluded else -1e20
    if excluded == "score_mask":
        mask = np.ones((20, 33), bool)
        mask[:, 25] = False
        problem = problem.with_options(score_mask=mask)
    elif excluded == "candidate_ids":
        ids = np.arange(33)
        ids[:] = 7
        ids[26:] = np.arange(7)
        problem = problem.with_options(candidate_ids=ids)
    result = in_batch_problems.run(fastneg.in_batch_softmax_loss, problem, mode)
    truth = in_batch_problems.truth(problem)
    for name, actual in result._asdict().items():
        if actual is None:
            continue
        expected = getattr(truth, name)
        if name == "grad_candidate":  # Products with the queries' first elements.
            actual[:, 0] /= 1e20
            expected[:, 0] /= 1e20
        size = np.max(np.abs(expected))
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * size, err_msg=name)
