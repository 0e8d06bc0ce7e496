"""NaN, infinities, zeros and huge logits in the in-batch softmax loss."""

from collections.abc import Iterator
from typing import Any

import in_batch_problems
import numpy as np
import oracle_in_batch_softmax as oracle
import pytest
import tensorflow as tf
from in_batch_problems import LOSS

B, C, D = 6, 9, 4
RNG = np.random.default_rng(0)
QUERY, CANDIDATE = (RNG.normal(size=(size, D)).astype(np.float32) for size in (B, C))
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "re-weighted": {"t": 1.2, "margin": 0.1},
    "smoothing": {"label_smoothing": 0.1},
    "hard": {"num_hard_negatives": 3},
    "decoupled": {"positive_in_softmax": False},
    "two ways": {"bidirectional": True},
}


@pytest.fixture(params=("native", "reference"))
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that has the loss."""
    return request.getfixturevalue(request.param)


def _run(query: Any, candidate: Any, **options: Any) -> tuple[Any, Any, Any]:
    query, candidate = tf.constant(query), tf.constant(candidate)
    with tf.GradientTape() as tape:
        tape.watch([query, candidate])
        loss = LOSS(query, candidate, **options)
    return loss.numpy(), *(grad.numpy() for grad in tape.gradient(loss, [query, candidate]))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_never_hidden(backend: str, name: str, bad: float) -> None:
    for place in (QUERY, CANDIDATE):
        spoilt = place.copy()
        spoilt[2, 1] = bad
        query, candidate = (spoilt if rows is place else rows for rows in (QUERY, CANDIDATE))
        loss, *_ = _run(query, candidate, reduction="none", **OPTIONS[name])
        assert not np.isfinite(loss[2])
        assert not np.isfinite(_run(query, candidate, **OPTIONS[name])[0])


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "two ways"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_what_does_not_count_may_hold_anything(backend: str, reduction: str, name: str) -> None:
    weight = np.array([1, 0, 1, 2, 1, 1], np.float32)
    mask = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0], bool)
    options = {"sample_weight": weight, "candidate_mask": mask, "reduction": reduction}
    options.update(OPTIONS[name])
    expected = _run(QUERY, CANDIDATE, **options)
    # Products of finite numbers that are not finite are too much for the composition.
    for bad in (np.nan, np.inf, -np.inf, *([3e38] if backend == "native" else [])):
        query, candidate = QUERY.copy(), CANDIDATE.copy()
        query[1], candidate[[6, 8]] = bad, bad
        for actual, exact in zip(_run(query, candidate, **options), expected, strict=True):
            np.testing.assert_allclose(actual, exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_excluded_scores_may_be_of_anything(native: str, name: str, bad: float) -> None:
    mask = np.ones((B, C), bool)
    mask[:, 7] = False
    ids = np.arange(C)
    ids[8] = ids[0]
    first = np.array([1, 0, 0, 0, 0, 0], np.float32)
    exclusions = ((7, {"score_mask": mask}), (8, {"candidate_ids": ids, "sample_weight": first}))
    for place, excluded in exclusions:
        spoilt = CANDIDATE.copy()
        spoilt[place] = bad
        expected = _run(QUERY, CANDIDATE, **excluded, **OPTIONS[name])
        results = _run(QUERY, spoilt, **excluded, **OPTIONS[name])
        for result, right in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_loss_over_no_rows(backend: str, name: str) -> None:
    spoilt = np.full_like(QUERY, np.nan)
    for query in (QUERY, spoilt):
        for weight in (0.0, tf.zeros([]), np.zeros(B, np.float32)):
            loss, *grads = _run(query, CANDIDATE, sample_weight=weight, **OPTIONS[name])
            assert loss == 0
            for grad in grads:
                np.testing.assert_array_equal(grad, 0)


def test_rows_without_negatives(backend: str) -> None:
    for options in ({}, {"positive_in_softmax": False}, {"label_smoothing": 0.2}):
        for exclusions in (
            {"candidate_ids": np.zeros(C, int)},
            {"candidate_mask": np.zeros(C, bool)},
            {"score_mask": np.zeros((B, C), bool)},
        ):
            loss, *grads = _run(QUERY, CANDIDATE, **options, **exclusions)
            np.testing.assert_allclose(loss, 0, atol=1e-7)
            for grad in grads:
                np.testing.assert_allclose(grad, 0, atol=1e-7)


def test_zero_vectors_have_finite_gradients(backend: str) -> None:
    for name, options in OPTIONS.items():
        query, candidate = QUERY.copy(), CANDIDATE.copy()
        query[3] = candidate[4] = 0
        results = _run(query, candidate, normalize=True, **options)
        exact = oracle.in_batch_softmax(query, candidate, normalize=True, **options)
        for actual, expected in zip(results, exact, strict=False):
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("scale", [30.0, 1e3, 1e8])
def test_huge_logits(backend: str, name: str, scale: float) -> None:
    query = (scale * QUERY).astype(np.float32)
    results = _run(query, CANDIDATE, **OPTIONS[name])
    exact = oracle.in_batch_softmax(query, CANDIDATE, **OPTIONS[name])
    for actual, expected in zip(results, exact, strict=False):
        largest = np.max(np.abs(expected))
        # What rounding the logits changes: they have no digits behind the point from 1e7 on.
        tolerance = 1e-5 if scale < 100 else 1e-3
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * largest)


def test_losses_close_to_0_keep_their_digits(native: str) -> None:
    query = np.array([[5.0, 0.0], [0.0, 5.0]], np.float32)
    for bidirectional in (False, True):
        loss, *_ = _run(query, query, bidirectional=bidirectional)
        np.testing.assert_allclose(loss, np.exp(-25.0), rtol=1e-5)


def test_same_bits_again(native: str) -> None:
    made = in_batch_problems.make(200, 300, 33)
    for name in in_batch_problems.VARIANTS:
        problem = in_batch_problems.variant(name, made)
        first, second = (in_batch_problems.run(LOSS, problem) for _ in range(2))
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
