"""metrics.FactorizedTopK: kinds of catalogues, by scores and by ids, against the truth."""

from typing import Any

import keras
import numpy as np
import oracle_in_batch_softmax as oracle
import pytest
import tensorflow as tf

from fastneg.metrics import FactorizedTopK

KS = (1, 5, 10, 50)
_RNG = np.random.default_rng(42)
CANDIDATES = _RNG.normal(size=(100, 4)).astype(np.float32)
QUERY = _RNG.normal(size=(10, 4)).astype(np.float32)
OWN = _RNG.integers(0, 100, 10)
WEIGHTS = _RNG.uniform(size=(10, 1)).astype(np.float32)
STRINGS, NUMBERS = np.arange(100).astype(str), np.arange(100)[::-1] * 3


def _dataset(*tensors: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(tensors if len(tensors) > 1 else tensors[0]).batch(32)


CATALOGUES: dict[str, tuple[Any, Any]] = {
    "array": (CANDIDATES, OWN),
    "variable": (tf.Variable(CANDIDATES), OWN),
    "of Keras": (keras.Variable(CANDIDATES), OWN),
    "dataset": (_dataset(CANDIDATES), OWN),
    "strings": ((STRINGS, CANDIDATES), STRINGS[OWN]),
    "numbers": ((NUMBERS, CANDIDATES), NUMBERS[OWN]),
    "dataset of strings": (_dataset(STRINGS, CANDIDATES), STRINGS[OWN]),
    "dataset of numbers": (_dataset(NUMBERS, CANDIDATES), NUMBERS[OWN]),
}
"""Catalogues, and the ids of the queries' own candidates there."""


def _results(metric: FactorizedTopK) -> list[float]:
    return [float(value) for value in metric.result().values()]


@pytest.mark.parametrize("by_ids", [False, True])
@pytest.mark.parametrize("name", CATALOGUES)
@pytest.mark.parametrize("graph", [False, True])
def test_values(name: str, by_ids: bool, graph: bool) -> None:
    candidates, ids = CATALOGUES[name]
    metric = FactorizedTopK(candidates, KS)
    update = tf.function(metric.update_state) if graph else metric.update_state
    ranks = oracle.positive_ranks(QUERY, CANDIDATES, OWN)
    for rows in (slice(0, 7), slice(7, 10)):  # In two batches.
        update(
            tf.constant(QUERY[rows]),
            tf.constant(CANDIDATES[OWN[rows]]),
            true_candidate_ids=tf.constant(ids[rows]) if by_ids else None,
            sample_weight=tf.constant(WEIGHTS[rows]),
        )
    expected = [np.average(ranks < k, weights=WEIGHTS[:, 0]) for k in KS]
    np.testing.assert_allclose(_results(metric), expected, rtol=1e-6)
    assert list(metric.result()) == [f"factorized_top_k/top_{k}_categorical_accuracy" for k in KS]
    metric.reset_state()
    assert _results(metric) == [0, 0, 0, 0]


def test_ties_and_candidates_elsewhere() -> None:
    zeros = np.zeros([20, 3], np.float32)
    query, own = np.ones([2, 3], np.float32), np.array([[1, 0, 0], [-1, 0, 0]], np.float32)
    metric = FactorizedTopK(zeros, ks=(1, 20, 21))
    metric.update_state(query, own)  # One is before all, one behind all.
    assert _results(metric) == [0.5, 0.5, 1]
    metric.reset_state()
    metric.update_state(query, zeros[:2])  # Equal scores are not above.
    assert _results(metric) == [1, 1, 1]
    metric.reset_state()
    metric.update_state(query, zeros[:2], true_candidate_ids=[[0], [19]])  # The first is above.
    assert _results(metric) == [0.5, 1, 1]
    metric.reset_state()
    metric.update_state(query, zeros[:2], true_candidate_ids=[20, -1])  # Not in the catalogue.
    assert _results(metric) == [0, 0, 0]
    metric.reset_state()
    metric.update_state(np.zeros([0, 3], np.float32), zeros[:0])
    metric.update_state(query, own, sample_weight=0.0)
    assert _results(metric) == [0, 0, 0]


def test_a_variable_is_read_at_each_update() -> None:
    variable = tf.Variable(tf.zeros([3, 1]))
    metric = FactorizedTopK(variable, ks=[1])
    update = tf.function(metric.update_state)
    for _ in range(2):
        update(tf.ones([1, 1]), tf.ones([1, 1]))
        variable.assign(tf.fill([3, 1], 2.0))
    assert _results(metric) == [0.5]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes(dtype: str) -> None:
    rng = np.random.default_rng(0)  # Small integers: scores are exact.
    candidates, query = rng.integers(-3, 4, (37, 5)), rng.integers(-3, 4, (9, 5))
    own = rng.integers(0, 37, 9)
    cast = [tf.cast(tf.constant(rows), dtype) for rows in (candidates, query)]
    metric = FactorizedTopK(cast[0], ks=(1, 3, 10))
    metric.update_state(cast[1], tf.gather(cast[0], own), true_candidate_ids=own)
    ranks = oracle.positive_ranks(query, candidates, own)
    np.testing.assert_allclose(_results(metric), [np.mean(ranks < k) for k in (1, 3, 10)])


def test_a_catalogue_without_candidates() -> None:
    for ids in (None, OWN):
        metric = FactorizedTopK(CANDIDATES[:0], ks=[1])
        metric.update_state(QUERY, QUERY, true_candidate_ids=ids)
        # Nobody is put before an embedding, and an id that is not there is not found.
        assert _results(metric) == [1.0 if ids is None else 0.0]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`ks` must be at least 1"):
        FactorizedTopK(CANDIDATES, ks=[0])
    for ks in ([], 3):
        with pytest.raises(ValueError, match="`ks` must be positive integers, at least one"):
            FactorizedTopK(CANDIDATES, ks=ks)
    with pytest.raises(ValueError, match="`candidates` must have the width of `query_embeddings`"):
        FactorizedTopK(CANDIDATES[:, :2]).update_state(QUERY, QUERY, true_candidate_ids=OWN)
    with pytest.raises(ValueError, match="`candidates` must be a dataset of batches"):
        FactorizedTopK(tf.data.Dataset.from_tensor_slices(CANDIDATES))
    with pytest.raises(ValueError, match="`candidates` must have rank 2"):
        FactorizedTopK(CANDIDATES[0])
    with pytest.raises(ValueError, match=r"`ids of candidates` must have shape \[100\]"):
        FactorizedTopK((STRINGS[:4], CANDIDATES))
    with pytest.raises(ValueError, match=r"or \(ids, embeddings\). Received: a tuple of 3"):
        FactorizedTopK((STRINGS, CANDIDATES, CANDIDATES))
    metric = FactorizedTopK((NUMBERS, CANDIDATES))
    with pytest.raises(ValueError, match="`true_candidate_ids` must have the dtype of the cat"):
        metric.update_state(QUERY, QUERY, true_candidate_ids=STRINGS[OWN])
    with pytest.raises(ValueError, match=r"`true_candidate_ids` must have shape \[10\]"):
        metric.update_state(QUERY, QUERY, true_candidate_ids=OWN[:3])
    with pytest.raises(ValueError, match="must have a row for each of `query_embeddings`, 10"):
        metric.update_state(QUERY, QUERY[:1])
    with pytest.raises(ValueError, match="`candidates` must have the dtype"):
        metric.update_state(QUERY.astype(np.float64), QUERY.astype(np.float64))
    with pytest.raises(ValueError, match="must be integers, places in the catalogue"):
        FactorizedTopK(CANDIDATES).update_state(QUERY, QUERY, STRINGS[OWN])
    twice = FactorizedTopK((np.ones(100, np.int32), CANDIDATES))
    with pytest.raises(tf.errors.InvalidArgumentError, match="must differ from each other"):
        twice.update_state(QUERY, QUERY, OWN)
    with pytest.raises(NotImplementedError, match="`factorized_top_k` must be made anew"):
        metric.get_config()
