"""layers.CandidateQueue: what it returns and keeps, in training, evaluation, saving and a loss."""

import pathlib
from typing import Any

import keras
import numpy as np
import oracle_in_batch_softmax as oracle
import pytest
import tensorflow as tf
from keras_models import DOC, QUERY
from processes import run_python

import fastneg
from fastneg.layers import CandidateQueue, Retrieval

_RNG = np.random.default_rng(0)
WIDTH = 3


class Expected:
    """The newest candidates of earlier batches, in plain Python."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.rows = capacity, []

    def push(self, batch: list[Any]) -> None:
        self.rows = [*batch, *self.rows][: self.capacity]


@pytest.mark.parametrize("capacity", [1, 4, 7, 30])
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_first_in_first_out(capacity: int, how: str) -> None:
    queue, expected = CandidateQueue(capacity), Expected(capacity)
    call = queue if how == "eager" else tf.function(queue, jit_compile=how == "xla")
    for step, size in enumerate((3, 2, 5, 0, 1, 3)):
        batch = [
            (_RNG.normal(size=WIDTH).astype(np.float32), 10 * step + i, _RNG.uniform())
            for i in range(size)
        ]
        rows = np.reshape([row for row, _, _ in batch], [size, WIDTH])
        arguments = {
            "candidate_embeddings": tf.constant(rows, tf.float32),
            "candidate_ids": tf.constant([number for _, number, _ in batch], tf.int32),
            "candidate_sampling_probability": tf.constant([p for _, _, p in batch], tf.float32),
        }
        for training in (False, True):  # Evaluation changes nothing.
            got = call(**arguments, training=training)
            wanted = [*batch, *expected.rows]
            mask = np.arange(size + capacity) < len(wanted)
            np.testing.assert_array_equal(got["candidate_mask"], mask)
            for values, kept in zip(
                (got[name].numpy() for name in arguments), zip(*wanted, strict=True), strict=True
            ):
                assert len(values) == size + capacity
                np.testing.assert_array_equal(values[mask], np.asarray(kept, values.dtype))
        expected.push(batch)


def test_without_ids_and_half_dtypes() -> None:
    queue = CandidateQueue(4, dtype="mixed_bfloat16")
    rows = tf.constant(_RNG.normal(size=(3, WIDTH)), tf.bfloat16)
    for _ in range(2):
        got = queue(rows, training=True)
        assert set(got) == {"candidate_embeddings", "candidate_mask"}
        assert got["candidate_embeddings"].dtype == tf.bfloat16
    np.testing.assert_array_equal(got["candidate_embeddings"][3:6], rows)


def test_a_loss_over_the_queue() -> None:
    """Values and gradients of the truth; none reaches the queue, and ids there are looked at."""
    queue = CandidateQueue(6, dtype="float64")
    first, second = (_RNG.normal(size=(4, WIDTH)) for _ in range(2))
    query = tf.constant(_RNG.normal(size=(4, WIDTH)))
    ids, probability = np.array([5, 6, 7, 8, 7, 1, 5, 5]), _RNG.uniform(size=8).astype(np.float32)
    queue(first, ids[4:], probability[4:], training=True)
    rows = tf.constant(second)
    for training in (False, True):
        with tf.GradientTape() as tape:
            tape.watch([query, rows])
            candidates = queue(rows, ids[:4], probability[:4], training=training)
            loss = Retrieval(remove_accidental_hits=True)(query, **candidates)
        truth = oracle.in_batch_softmax(
            query,
            np.concatenate([second, first]),
            candidate_ids=ids,
            candidate_sampling_probability=probability,
            reduction="sum",
        )
        np.testing.assert_allclose(loss, truth.loss, rtol=1e-6)
        of_query, of_rows = tape.gradient(loss, [query, rows])
        np.testing.assert_allclose(of_query, truth.grad_query, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(of_rows, truth.grad_candidate[:4], rtol=1e-6, atol=1e-9)
    assert not queue.trainable_variables


def _model() -> keras.Model:
    query, doc, ids = keras.Input([3]), keras.Input([3]), keras.Input([], dtype="int32")
    candidates = CandidateQueue(12, name="queue")(keras.layers.Dense(4)(doc), ids)
    task = Retrieval(0.5, remove_accidental_hits=True, reduction="mean")
    return keras.Model([query, doc, ids], task(keras.layers.Dense(4)(query), **candidates))


DATA = {"x": [QUERY, DOC, np.arange(len(DOC)) % 15], "y": np.zeros(len(DOC)), "verbose": 0}


def _trained() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = _model()
    model.compile(keras.optimizers.Adam(0.02), loss=fastneg.losses.OutputLoss())
    model.fit(**DATA, batch_size=8, epochs=2, shuffle=False)
    return model


def _state(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in model.get_layer("queue").variables]


def test_fit_and_evaluate() -> None:
    model = _trained()
    embeddings, ids, filled = _state(model)
    # The last batch has rows 16 .. 19, the one before 8 .. 15.
    np.testing.assert_array_equal(ids, [1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 0])
    assert filled == 12
    before = model.evaluate(**DATA, batch_size=8)
    model.predict(DATA["x"], verbose=0)
    for variable, value in zip(_state(model), (embeddings, ids, filled), strict=True):
        np.testing.assert_array_equal(variable, value)
    model.fit(**DATA, batch_size=8, epochs=10, shuffle=False)
    assert model.evaluate(**DATA, batch_size=8) < before


def check_restored(folder: str) -> None:
    with np.load(f"{folder}/state.npz") as file:
        expected = [file[name] for name in sorted(file)]
    loss = expected.pop()
    loaded = keras.models.load_model(f"{folder}/model.keras")
    weights, checkpointed = _model(), _model()
    weights.load_weights(f"{folder}/model.weights.h5")
    checkpoint = tf.train.Checkpoint(model=checkpointed)
    checkpoint.read(f"{folder}/checkpoint").assert_existing_objects_matched()
    models = {"loaded": loaded, "weights": weights, "checkpointed": checkpointed}
    for name, model in models.items():
        for variable, value in zip(_state(model), expected, strict=True):
            np.testing.assert_array_equal(variable, value, err_msg=name)
        np.testing.assert_allclose(model(DATA["x"]), loss, rtol=1e-6)


def test_saving(tmp_path: pathlib.Path) -> None:
    model = _trained()
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    np.savez(tmp_path / "state.npz", *_state(model), np.asarray(model(DATA["x"])))
    run_python(f"import test_candidate_queue as t; t.check_restored({str(tmp_path)!r})")


def test_bad_input() -> None:
    for capacity in (0, 2.5, "4"):
        with pytest.raises(ValueError, match="`capacity` must be"):
            CandidateQueue(capacity)
    rows = np.ones([4, WIDTH], np.float32)
    with pytest.raises(ValueError, match=r"`candidate_embeddings` must have shape \[batch_size"):
        CandidateQueue(4)(rows[0])
    with pytest.raises(ValueError, match=r"must have the compute dtype of the layer, float32"):
        CandidateQueue(4)(tf.constant(rows, tf.float64))
    queue = CandidateQueue(4)
    queue(rows, candidate_ids=[1, 2, 3, 4], training=True)
    with pytest.raises(
        ValueError, match=r"must have shape \[batch_size, 3\], as in the first call"
    ):
        queue(np.zeros([4, 5], np.float32), np.arange(4))
    with pytest.raises(ValueError, match="`candidate_ids` must be given, as in the first call"):
        queue(rows)
    with pytest.raises(ValueError, match="`candidate_sampling_probability` must be None, as in"):
        queue(rows, np.arange(4), np.ones(4, np.float32))
    with pytest.raises(ValueError, match=r"`candidate_ids` must have shape \[4\]"):
        queue(rows, np.arange(3))
    with pytest.raises(ValueError, match="`candidate_ids` must be integers"):
        queue(rows, np.array(["a", "b", "c", "d"]))
    specs = [tf.TensorSpec([None, WIDTH]), tf.TensorSpec([None], tf.int32)]
    graph = tf.function(lambda rows, ids: queue(rows, ids, training=True), input_signature=specs)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`candidate_ids` must have a row"):
        graph(rows, [1, 2, 3])
    with pytest.raises(AttributeError, match="`capacity` must be set before"):
        queue.capacity = 5
