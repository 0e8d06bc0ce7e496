"""An excluded candidate adds nothing to any gradient, whatever it holds.

What is left out has a coefficient of 0, and 0 times NaN is NaN.
"""

from typing import Any

import evaluation
import in_batch_problems
import numpy as np
import problems
import pytest
import shuffled_problems
import tensorflow as tf

import fastneg

MODES = ("eager", "graph")
BAD = (np.nan, np.inf)
IN_BATCH = fastneg.in_batch_softmax_loss


@pytest.fixture(params=["native", "reference"])
def in_batch_backend(request: pytest.FixtureRequest) -> object:
    """Each backend that has the in-batch loss."""
    return request.getfixturevalue(request.param)


def _assert_close(result: Any, expected: Any, dtype: str = "float32") -> None:
    half = dtype in ("float16", "bfloat16")
    for name, actual, exact in zip(result._fields, result, expected, strict=True):
        if actual is None:
            continue
        size = np.max(np.abs(exact), initial=1e-3)
        narrow = half and actual.dtype.itemsize == 2
        np.testing.assert_allclose(
            actual.astype(np.float64),
            exact,
            rtol=2e-2 if narrow else 1e-4,
            atol=(1e-2 if narrow else 1e-5) * size,
            err_msg=name,
        )


def _without(problem: in_batch_problems.Problem, by: str, column: int) -> in_batch_problems.Problem:
    """The problem with a candidate that is nobody's positive excluded for all rows."""
    batch_size, num_candidates = len(problem.query), len(problem.candidate)
    if by == "candidate_mask":
        mask = np.arange(num_candidates) != column
        return problem.with_options(candidate_mask=mask)
    if by == "score_mask":
        mask = np.array(problem.options.get("score_mask", np.ones((batch_size, num_candidates))))
        mask[:, column] = 0
        return problem.with_options(score_mask=mask.astype(bool))
    # All positives have one id, which the candidate has too.
    ids = np.arange(num_candidates)
    ids[:batch_size] = ids[column] = 7
    return problem.with_options(candidate_ids=ids)


@pytest.mark.parametrize("by", ["score_mask", "candidate_ids", "candidate_mask"])
@pytest.mark.parametrize("variant", ["plain", "cosine", "hard", "smoothing, re-weighted"])
def test_in_the_batch(in_batch_backend: object, variant: str, by: str) -> None:
    for bad in BAD:
        problem = in_batch_problems.variant(variant, in_batch_problems.make(21, 43, 9))
        problem = _without(problem, by, 30)
        truth = in_batch_problems.truth(problem)
        problem.candidate[30] = bad
        _assert_close(in_batch_problems.run(IN_BATCH, problem), truth)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("variant", ["decoupled", "refined", "two ways", "two ways, decoupled"])
def test_other_losses_in_the_batch(in_batch_backend: object, variant: str, reduction: str) -> None:
    problem = in_batch_problems.variant(variant, in_batch_problems.make(21, 43, 9), reduction)
    problem = _without(problem, "score_mask", 30)
    truth = in_batch_problems.truth(problem)
    problem.candidate[30, 4] = np.nan
    _assert_close(in_batch_problems.run(IN_BATCH, problem), truth)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", [(1, 2, 1), (130, 257, 31), (150, 301, 128), (40, 700, 8)])
def test_sizes_in_the_batch(in_batch_backend: object, shape: tuple[int, ...], dtype: str) -> None:
    problem = in_batch_problems.make(*shape, dtype=dtype, temperature=2.0)
    column = shape[1] - 1
    problem = _without(problem, "score_mask", column)
    truth = in_batch_problems.truth(problem)
    problem.candidate[column] = np.nan
    _assert_close(in_batch_problems.run(IN_BATCH, problem), truth, dtype)


@pytest.mark.parametrize(
    ("variant", "mode"),
    [("plain", "eager"), ("hard", "graph"), ("cosine", "graph"), ("cosine", "xla")],
)
def test_excluded_by_some_rows_of_the_batch(
    in_batch_backend: object, variant: str, mode: str
) -> None:
    """Rows that have the candidate show it, in loss and gradient; the others do not."""
    problem = in_batch_problems.variant(variant, in_batch_problems.make(21, 43, 9), "none")
    mask = np.ones((21, 43), bool)
    mask[4:, 30] = False
    problem = problem.with_options(score_mask=mask)
    truth = in_batch_problems.truth(problem)
    problem.candidate[30] = np.nan
    result = in_batch_problems.run(IN_BATCH, problem, mode)
    assert np.all(np.isnan(result.loss[:4]))
    assert np.all(np.isnan(result.grad_query[:4]))
    np.testing.assert_allclose(result.loss[4:], truth.loss[4:], rtol=1e-5)
    np.testing.assert_allclose(result.grad_query[4:], truth.grad_query[4:], rtol=1e-4, atol=1e-5)


def test_queries_of_several_heads() -> None:
    """Two equal heads score what one does, and share its gradient."""
    problem = _without(in_batch_problems.make(5, 9, 4, reduction="sum"), "score_mask", 8)
    truth = in_batch_problems.truth(problem)
    problem.candidate[8] = np.nan
    heads = tf.constant(np.stack([problem.query] * 2, axis=1))
    candidates = tf.constant(problem.candidate)
    mask = tf.constant(problem.options["score_mask"])
    with tf.GradientTape() as tape:
        tape.watch([heads, candidates])
        loss = fastneg.layers.Retrieval()(heads, candidates, score_mask=mask)
    grad_heads, grad_candidates = tape.gradient(loss, [heads, candidates])
    np.testing.assert_allclose(loss, truth.loss, rtol=1e-5)
    factor = in_batch_problems.upstream(problem)
    np.testing.assert_allclose(
        tf.reduce_sum(grad_heads, axis=1) * factor, truth.grad_query, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(grad_candidates * factor, truth.grad_candidate, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("normalize", [False, True])
def test_a_row_without_weight_overflows(
    in_batch_backend: object, normalize: bool, mode: str
) -> None:
    """Its products, or its norm, are beyond float32, and none of its numbers is."""
    weights = np.ones(20, np.float32)
    weights[3] = 0
    options = {"temperature": 0.7, "margin": 0.125, "t": 1.25, "sample_weight": weights}
    problem = in_batch_problems.make(20, 33, 9, **options, normalize=normalize)
    truth = in_batch_problems.truth(problem)
    problem.query[3] *= np.float32(1e38)
    result = in_batch_problems.run(IN_BATCH, problem, mode)
    grad_weight = np.delete(result.grad_weight, 3)
    _assert_close(
        result._replace(grad_weight=grad_weight),
        truth._replace(grad_weight=np.delete(truth.grad_weight, 3)),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("embed_normed", [False, True])
@pytest.mark.parametrize("num_negatives", [1, 4, 9, 40])
def test_rolled(backend: str, num_negatives: int, embed_normed: bool, mode: str) -> None:
    for bad in BAD:
        problem = problems.make(48, num_negatives, 9, embed_normed=embed_normed, gamma=2.0)
        problem = problems.with_hit(problem, 5)
        truth = evaluation.truth(problem)
        problem.item_emb[5] = bad
        result = evaluation.run(fastneg.softmax_loss_with_negative_mining, problem, mode)
        assert np.isfinite(result.loss)
        _assert_close(result, truth)


def test_rolled_in_xla(xla_backend: str) -> None:
    problem = problems.make(48, 9, 9, gamma=2.0)
    problem = problems.with_hit(problem, 5)
    truth = evaluation.truth(problem)
    problem.item_emb[5] = np.nan
    _assert_close(evaluation.run(fastneg.softmax_loss_with_negative_mining, problem, "xla"), truth)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", [(130, 17, 31), (129, 128, 8), (150, 33, 300), (70, 5, 128)])
def test_rolled_sizes(backend: str, shape: tuple[int, ...], dtype: str) -> None:
    problem = problems.make(*shape, dtype=dtype, gamma=2.0)
    problem = problems.with_hit(problem, 5)
    truth = evaluation.truth(problem)
    problem.item_emb[5] = np.nan
    _assert_close(evaluation.run(fastneg.softmax_loss_with_negative_mining, problem), truth, dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_negatives", [1, 4, 9, 40])
def test_shuffled(backend: str, num_negatives: int, mode: str) -> None:
    """A document is always some query's own: the others with its id do not see what it holds."""
    problem = shuffled_problems.make(40, num_negatives, 9)
    ids = np.arange(40)
    ids[:30] = 7
    problem = problem.with_options(candidate_ids=ids)
    doc = problem.doc.copy()
    doc[5] = np.nan
    spoilt = shuffled_problems.Problem(problem.query, doc, problem.permutations, problem.options)
    truth = shuffled_problems.truth(problem)
    result = shuffled_problems.run(fastneg.negative_cosine_loss, spoilt, mode)
    assert np.isnan(result.loss)
    rows = np.delete(np.arange(30), 5)
    np.testing.assert_allclose(
        result.grad_query[rows], truth.grad_query[rows], rtol=1e-4, atol=1e-5
    )
