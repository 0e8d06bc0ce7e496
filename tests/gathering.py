"""What `test_gather_candidates.py` runs in processes of their own: all replicas' candidates.

Expected values are those of one process with the global batch, in float64 NumPy.
"""

import itertools
import json
import os
from typing import Any

import keras
import numpy as np
import oracle_in_batch_softmax as oracle
import pytest
import tensorflow as tf

import fastneg

ROWS, IN, WIDTH, RATE = 20, 3, 5, 0.125
_RNG = np.random.default_rng(0)
X, Y = _RNG.normal(size=(ROWS, IN)), _RNG.normal(size=(ROWS, IN))
IDS = _RNG.integers(0, 12, ROWS)
PROBABILITY = _RNG.uniform(0.01, 0.9, ROWS)
WEIGHT = _RNG.uniform(0.5, 2, ROWS)
WEIGHT[[2, 13]] = 0
OF_QUERY, OF_DOC = _RNG.normal(size=(IN, WIDTH)), _RNG.normal(size=(IN, WIDTH))
SPLITS = ([8, 8], [9, 4], [0, 3])
"""How many rows of a global batch the two replicas get."""


def assert_close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-9)


def truth(rows: slice, of_query: Any, of_doc: Any) -> oracle.Truth:
    """The sum over a global batch, and the derivatives of the mean."""
    return oracle.in_batch_softmax(
        X[rows] @ of_query,
        Y[rows] @ of_doc,
        sample_weight=WEIGHT[rows],
        temperature=0.5,
        candidate_ids=IDS[rows],
        candidate_sampling_probability=PROBABILITY[rows],
        reduction="sum",
        upstream=1 / len(X[rows]),
    )


def loss_of(query: Any, doc: Any, ids: Any, probability: Any, weight: Any) -> Any:
    """This replica's part of that mean."""
    candidates = fastneg.distribute.gather_candidates(doc, ids, probability)
    loss = fastneg.in_batch_softmax_loss(
        query, sample_weight=weight, temperature=0.5, reduction="sum", **candidates
    )
    return loss / tf.cast(tf.shape(candidates["candidate_embeddings"])[0], loss.dtype)


def custom_loop(strategy: tf.distribute.Strategy) -> None:
    """Losses, and gradients of variables and of each replica's own candidates."""
    with strategy.scope():
        variables = [tf.Variable(OF_QUERY), tf.Variable(OF_DOC)]

    @tf.function
    def step(data: Any) -> Any:
        def on_replica(x: Any, y: Any, *others: Any) -> Any:
            with tf.GradientTape() as tape:
                query, doc = x @ variables[0], y @ variables[1]
                loss = loss_of(query, doc, *others)
            *grads, of_doc = tape.gradient(loss, [*variables, doc])
            context = tf.distribute.get_replica_context()
            total, *grads = context.all_reduce("sum", [loss, *grads])
            return total, grads, of_doc, context.replica_id_in_sync_group

        return strategy.run(on_replica, args=data)

    for split in SPLITS:
        ends = np.cumsum([0, *split])
        parts = [slice(*pair) for pair in itertools.pairwise(ends)]
        data = [
            strategy.experimental_distribute_values_from_function(
                lambda context, values=values, parts=parts: tf.constant(
                    values[parts[context.replica_id_in_sync_group]]
                )
            )
            for values in (X, Y, IDS, PROBABILITY, WEIGHT)
        ]
        rows = slice(sum(split))
        expected = truth(rows, OF_QUERY, OF_DOC)
        for total, grads, of_doc, replica in _by_replica(strategy, step(data)):
            assert_close(total, expected.loss / sum(split))
            assert_close(grads[0], X[rows].T @ expected.grad_query)
            assert_close(grads[1], Y[rows].T @ expected.grad_candidate)
            assert_close(of_doc, expected.grad_candidate[parts[int(replica)]])


def _by_replica(strategy: tf.distribute.Strategy, results: Any) -> Any:
    total, grads, of_doc, replica = results
    local = strategy.experimental_local_results
    for index in range(len(local(total))):
        yield (
            local(total)[index],
            [local(grad)[index] for grad in grads],
            local(of_doc)[index],
            local(replica)[index],
        )


class Model(keras.Model):
    """Two towers in float64."""

    def __init__(self) -> None:
        super().__init__(dtype="float64")
        self.query, self.doc = (
            keras.layers.Dense(WIDTH, use_bias=False, dtype="float64", name=name)
            for name in ("query", "doc")
        )

    def call(self, inputs: Any) -> Any:
        return self.query(inputs[0]), self.doc(inputs[1])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return loss_of(*y_pred, *x[2:], sample_weight)


def fit(strategy: tf.distribute.Strategy) -> None:
    """Keras, with a small last batch; it cannot build models from an uneven first one."""
    with strategy.scope():
        model = Model()
        model((X[:2], Y[:2]))
        model.query.kernel.assign(OF_QUERY)
        model.doc.kernel.assign(OF_DOC)
        model.compile(keras.optimizers.SGD(RATE))
    data = tf.data.Dataset.from_tensor_slices(((X, Y, IDS, PROBABILITY), IDS, WEIGHT))
    of_query, of_doc = OF_QUERY, OF_DOC
    for _ in range(2):
        for rows in (slice(0, 12), slice(12, ROWS)):
            expected = truth(rows, of_query, of_doc)
            of_query = of_query - RATE * X[rows].T @ expected.grad_query
            of_doc = of_doc - RATE * Y[rows].T @ expected.grad_candidate
    model.fit(data.batch(12), epochs=2, verbose=0)
    assert np.max(np.abs(of_query - OF_QUERY)) > 0.01
    assert_close(model.query.kernel, of_query)
    assert_close(model.doc.kernel, of_doc)


def queue(strategy: tf.distribute.Strategy) -> None:
    """Behind the candidates of all replicas, every replica's queue is the same."""
    with strategy.scope():
        layer = fastneg.layers.CandidateQueue(4, dtype="float64")
        layer.build([None, WIDTH])

    @tf.function
    def step() -> Any:
        def on_replica() -> Any:
            replica = tf.cast(
                tf.distribute.get_replica_context().replica_id_in_sync_group, tf.float64
            )
            candidates = fastneg.distribute.gather_candidates(tf.fill([2, WIDTH], replica + 1))
            queued = layer(**candidates, training=True)
            return queued["candidate_embeddings"], queued["positives"]

        return strategy.run(on_replica)

    for behind in ([0, 0, 0, 0], [1, 1, 2, 2]):
        embeddings, positives = step()
        for part in strategy.experimental_local_results(embeddings):
            np.testing.assert_array_equal(part[:, 0], [1, 1, 2, 2, *behind])
        local = strategy.experimental_local_results(positives)
        if len(local) == 2:
            np.testing.assert_array_equal(np.stack(local), [[0, 1], [2, 3]])


def mirrored() -> None:
    """Two replicas on logical CPUs."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    custom_loop(strategy)
    fit(strategy)
    queue(strategy)
    with strategy.scope(), pytest.raises(ValueError, match="must be called by a replica"):
        fastneg.distribute.gather_candidates(X)


def worker(index: int, ports: list[int]) -> None:
    """One of two processes, each with one replica."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": cluster, "task": {"type": "worker", "index": index}}
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    custom_loop(strategy)
    queue(strategy)
