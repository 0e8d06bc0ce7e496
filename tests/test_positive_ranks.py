"""positive_ranks on all backends that have it, against the float64 truth."""

from collections.abc import Iterator
from typing import Any

import bad_input
import evaluation
import in_batch_problems
import numpy as np
import oracle_in_batch_softmax as oracle
import problems
import pytest
import tensorflow as tf

import fastneg


@pytest.fixture(params=("native", "reference"))
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that has ranks."""
    return request.getfixturevalue(request.param)


def _problem(batch_size: int, num_candidates: int, dtype: str) -> dict[str, Any]:
    """Small integers: scores are exact, and many are equal."""
    rng = np.random.default_rng([batch_size, num_candidates])
    numpy_dtype = problems.DTYPES[dtype]
    return {
        "query_embeddings": rng.integers(-2, 3, (batch_size, 5)).astype(numpy_dtype),
        "candidate_embeddings": rng.integers(-2, 3, (num_candidates, 5)).astype(numpy_dtype),
        "positives": rng.integers(0, num_candidates, batch_size),
        "candidate_ids": rng.integers(0, num_candidates // 2 + 1, num_candidates),
        "candidate_mask": rng.random(num_candidates) < 0.7,
        "score_mask": rng.random((batch_size, num_candidates)) < 0.7,
    }


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("mode", evaluation.MODES)
def test_values(backend: str, mode: str, dtype: str) -> None:
    for batch_size, num_candidates in ((1, 1), (7, 9), (70, 130)):
        problem = _problem(batch_size, num_candidates, dtype)
        arguments = {name: tf.convert_to_tensor(value) for name, value in problem.items()}
        ranks = evaluation.wrap(fastneg.positive_ranks, mode, arguments)(**arguments)
        assert ranks.dtype == tf.int32
        np.testing.assert_array_equal(ranks, oracle.positive_ranks(**problem))
        for missing in tuple(problem)[2:]:
            problem.pop(missing)
            if batch_size <= num_candidates or "positives" in problem:
                ranks = fastneg.positive_ranks(**problem)
                np.testing.assert_array_equal(ranks, oracle.positive_ranks(**problem))


def test_cosines(backend: str) -> None:
    made = in_batch_problems.make(50, 80, 20, "float64")
    ranks = fastneg.positive_ranks(made.query, made.candidate, normalize=True)
    expected = oracle.positive_ranks(made.query, made.candidate, normalize=True)
    np.testing.assert_array_equal(ranks, expected)
    assert np.any(expected != oracle.positive_ranks(made.query, made.candidate))


def test_nan_is_no_hit(backend: str) -> None:
    query = np.array([[1.0], [np.nan], [1.0]], np.float32)
    candidate = np.array([[2.0], [1.0], [3.0], [np.nan]], np.float32)
    np.testing.assert_array_equal(fastneg.positive_ranks(query, candidate), [2, 3, 1])


def test_an_empty_batch(backend: str) -> None:
    for num_candidates in (0, 3):
        ranks = fastneg.positive_ranks(tf.zeros([0, 2]), tf.zeros([num_candidates, 2]))
        assert ranks.shape == (0,)
        assert ranks.dtype == tf.int32


def test_there_is_no_gradient(backend: str) -> None:
    query = tf.ones([2, 3])
    with tf.GradientTape() as tape:
        tape.watch(query)
        ranks = fastneg.positive_ranks(query, tf.ones([2, 3]))
    assert tape.gradient(ranks, query) is None


@pytest.mark.parametrize("rank", ["known", "unknown"])
def test_bad_input(backend: str, on_cpu: None, rank: str) -> None:
    good = _problem(4, 6, "float32")
    cases: bad_input.Cases = {
        "width": ({"candidate_embeddings": np.ones((6, 2))}, "width of `query_embeddings`"),
        "positives": ({"positives": [0, 1, 6, 3]}, "`positives` must be at least 0 and less than"),
        "few positives": ({"positives": [0, 1]}, "`positives` must have shape"),
        "ids": ({"candidate_ids": np.arange(4)}, "`candidate_ids` must have shape"),
        "mask": ({"candidate_mask": np.ones(4, bool)}, "`candidate_mask` must have shape"),
        "score mask": ({"score_mask": np.ones((6, 4), bool)}, "`score_mask` must have shape"),
    }
    specs = bad_input.specs_of(good, rank)
    ranks = bad_input.assert_refused_when_run(fastneg.positive_ranks, specs, good, cases)
    np.testing.assert_array_equal(ranks, oracle.positive_ranks(**good))
    with pytest.raises(ValueError, match="as many rows as `query_embeddings`, 4"):
        fastneg.positive_ranks(np.ones((4, 2)), np.ones((3, 2)))
