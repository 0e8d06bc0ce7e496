"""distribute.gather_candidates against one process that has the global batch."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from processes import run_python, run_together
from test_distribution import free_ports

from fastneg.distribute import gather_candidates


def test_mirrored() -> None:
    run_python("import gathering; gathering.mirrored()")


def test_two_workers() -> None:
    ports = free_ports(2)
    run_together([f"import gathering; gathering.worker({index}, {ports})" for index in range(2)])


@pytest.mark.parametrize("graph", [False, True])
def test_one_process(graph: bool) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    call = tf.function(gather_candidates) if graph else gather_candidates
    got = call(tf.constant(rows), tf.constant([4, 5, 4]), tf.constant([0.5, 0.25, 1.0]))
    expected: dict[str, Any] = {
        "candidate_embeddings": rows,
        "candidate_ids": [4, 5, 4],
        "candidate_sampling_probability": [0.5, 0.25, 1.0],
        "positives": [0, 1, 2],
    }
    assert set(got) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values)
    assert set(call(tf.constant(rows))) == {"candidate_embeddings", "positives"}


def test_bad_input() -> None:
    rows = np.ones([3, 2], np.float32)
    with pytest.raises(ValueError, match="`candidate_embeddings` must have rank 2"):
        gather_candidates(rows[0])
    with pytest.raises(ValueError, match=r"`candidate_ids` must have shape \[3\]"):
        gather_candidates(rows, [1, 2])
    with pytest.raises(ValueError, match="`candidate_ids` must be integers"):
        gather_candidates(rows, ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"`candidate_sampling_probability` must have shape"):
        gather_candidates(rows, None, [[0.5, 0.5, 0.5]])
    specs = [tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.int64)]
    graph = tf.function(gather_candidates, input_signature=specs)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`candidate_ids` must have a row"):
        graph(rows, [1, 2])
