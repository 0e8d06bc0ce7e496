"""layers.Retrieval: the cases of TensorFlow Recommenders, worked out by hand, and the truth."""

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
from fastneg.layers import Retrieval
from fastneg.metrics import FactorizedTopK

TOP_5 = "factorized_top_k/top_5_categorical_accuracy"

# Scores [[6, 3], [9, 5]].
TWO = (
    np.array([[1, 2, 3], [2, 3, 4]], np.float32),
    np.array([[1, 1, 1], [1, 1, 0]], np.float32),
)
LOSSES = np.log1p(np.exp([-3.0, 4.0]))
# Scores [[2, 3, 5], [3, 7, 5]].
EXTRA = (
    np.array([[3, 2, 1], [2, 3, 4]], np.float32),
    np.array([[0, 1, 0], [0, 1, 1], [1, 1, 0]], np.float32),
)
EXTRA_LOSSES = np.log([1 + np.exp(1) + np.exp(3), 1 + np.exp(-4) + np.exp(-2)])
# Scores of heads [[2, 2], [3, 5], [5, 3]], [[3, 3], [7, 5], [5, 7]]; the largest [[2, 5, 5],
# [3, 7, 7]].
HEADS = np.array([[[3, 2, 1], [1, 2, 3]], [[2, 3, 4], [4, 3, 2]]], np.float32)
HEADS_LOSSES = np.log([1 + 2 * np.exp(3), 2 + np.exp(-4)])


def with_metrics() -> Retrieval:
    zeros = tf.data.Dataset.from_tensor_slices(np.zeros([20, 3], np.float32)).batch(16)
    return Retrieval(
        metrics=FactorizedTopK(zeros, ks=[5]),
        batch_metrics=[keras.metrics.TopKCategoricalAccuracy(k=1, name="batch")],
        loss_metrics=[keras.metrics.Mean(name="loss")],
    )


def metrics_of(task: Retrieval) -> dict[str, float]:
    """The results of all metrics, which start again."""
    results: dict[str, float] = {}
    for metric in task.metrics:
        result = metric.result()
        results.update(result if isinstance(result, dict) else {metric.name: result})
        metric.reset_state()
    return {name: float(value) for name, value in results.items()}


@pytest.mark.parametrize("graph", [False, True])
def test_two_rows_with_metrics(graph: bool) -> None:
    task = with_metrics()
    call = tf.function(lambda **arguments: task(*TWO, **arguments)) if graph else None
    for arguments, weights, corpus, batch in (
        ({}, [1, 1], 1.0, 0.5),
        ({"compute_metrics": False}, [1, 1], 0.0, 0.5),
        ({"compute_batch_metrics": False}, [1, 1], 1.0, 0.0),
        ({"sample_weight": tf.constant([0.7, 0.3])}, [0.7, 0.3], 1.0, 0.7),
    ):
        loss = call(**arguments) if call else task(*TWO, **arguments)
        assert loss.shape == ()
        expected = np.dot(weights, LOSSES)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        got = metrics_of(task)
        assert got == pytest.approx({TOP_5: corpus, "batch": batch, "loss": expected}, rel=1e-6)


@pytest.mark.parametrize("graph", [False, True])
def test_additional_negatives(graph: bool) -> None:
    task = with_metrics()
    query, candidate = (tf.constant(rows) for rows in EXTRA)
    call = tf.function(task) if graph else task
    loss = call(query_embeddings=query, candidate_embeddings=candidate)
    np.testing.assert_allclose(loss, EXTRA_LOSSES.sum(), rtol=1e-6)
    assert metrics_of(task) == pytest.approx(
        {TOP_5: 1.0, "batch": 0.5, "loss": EXTRA_LOSSES.sum()}, rel=1e-6
    )


@pytest.mark.parametrize("graph", [False, True])
def test_several_heads(graph: bool) -> None:
    task = with_metrics()
    call = tf.function(task) if graph else task
    loss = call(tf.constant(HEADS), tf.constant(EXTRA[1]))
    np.testing.assert_allclose(loss, HEADS_LOSSES.sum(), rtol=1e-6)
    assert metrics_of(task) == pytest.approx(
        {TOP_5: 0.0, "batch": 0.5, "loss": HEADS_LOSSES.sum()}, rel=1e-6
    )


def test_options_and_gradients_of_several_heads() -> None:
    """One head's scores are a product; where each query has one head that wins, also of two."""
    rng = np.random.default_rng(0)
    query, candidate = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))
    candidate[:, 0] = np.abs(candidate[:, 0]) + 0.1
    query[:, 0] += 20
    heads = np.stack([query, query - [40, 0, 0, 0]], axis=1)  # The second always scores less.
    options = {"temperature": 5.0, "margin": 0.3, "t": 1.1, "num_hard_negatives": 3}
    weights = rng.uniform(size=6)
    weights[2], heads[2] = 0, np.nan
    heads, candidate = tf.constant(heads), tf.constant(candidate)
    with tf.GradientTape() as tape:
        tape.watch([heads, candidate])
        loss = Retrieval(**options)(heads, candidate, sample_weight=weights)
    truth = oracle.in_batch_softmax(
        query, candidate, sample_weight=weights, reduction="sum", **options
    )
    np.testing.assert_allclose(loss, truth.loss, rtol=1e-12)
    of_heads, of_candidate = tape.gradient(loss, [heads, candidate])
    np.testing.assert_allclose(of_heads[:, 0], truth.grad_query, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(of_heads[:, 1], np.zeros((6, 4)))
    np.testing.assert_allclose(of_candidate, truth.grad_candidate, rtol=1e-9, atol=1e-12)


IDS = [7, 3, 7, 3, 9, 1, 7]
PROBABILITIES = [0.1, 0.3, 0.05, 0.2, 0.01, 1e-3, 0.4]
MASK = np.arange(28).reshape(4, 7) % 5 != 0
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "temperature": ({"temperature": 0.5}, {}),
    "probabilities": ({}, {"candidate_sampling_probability": PROBABILITIES}),
    "hits": ({"remove_accidental_hits": True}, {"candidate_ids": IDS}),
    "hard": ({"num_hard_negatives": 2}, {}),
    "mask": ({}, {"score_mask": MASK}),
    "others": (
        {"normalize": True, "margin": 0.1, "t": 1.2, "label_smoothing": 0.2, "temperature": 0.1},
        {"candidate_mask": [True, False] * 3 + [True], "sample_weight": [1.0, 0.5, 0.0, 2.0]},
    ),
    "decoupled": (
        {"positive_in_softmax": False, "negative_weight": 1.2},
        {"positives": [6, 0, 2, 2]},
    ),
    "refined": ({"correction": "refined"}, {"candidate_sampling_probability": PROBABILITIES}),
    "both": ({"bidirectional": True, "reduction": "mean"}, {}),
    "none": ({"reduction": "none"}, {"sample_weight": [1.0, 0.5, 0.0, 2.0]}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option(name: str) -> None:
    options, arguments = OPTIONS[name]
    rng = np.random.default_rng(1)
    query, candidate = rng.normal(size=(4, 5)), rng.normal(size=(7, 5))
    loss = Retrieval(**options)(query, candidate, **arguments)
    expected = {"reduction": "sum", **options, **arguments}
    expected.pop("remove_accidental_hits", None)
    truth = oracle.in_batch_softmax(query, candidate, **expected).loss
    np.testing.assert_allclose(loss, truth, rtol=1e-10)
    assert loss.shape == truth.shape


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_several_heads(name: str) -> None:
    """The loss of the heads' largest scores, by which only the heads that have them change.

    Scores [B, C] are those of B queries with C unit vectors.
    """
    options, arguments = OPTIONS[name]
    rng = np.random.default_rng(2)
    heads, candidate = rng.normal(size=(4, 3, 5)), rng.normal(size=(7, 5))
    norms = [1.0, 1.0]
    if options.get("normalize"):
        norms = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (heads, candidate)]
    q, c = heads / norms[0], candidate / norms[1]
    scores = q @ c.T
    expected = {"reduction": "sum", **options, **arguments, "normalize": False}
    expected.pop("remove_accidental_hits", None)
    truth = oracle.in_batch_softmax(scores.max(axis=1), np.eye(7), **expected)
    tensors = [tf.constant(heads), tf.constant(candidate)]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = Retrieval(**options)(*tensors, **arguments)
    np.testing.assert_allclose(loss, truth.loss, rtol=1e-10)
    grad_scores = np.where(scores == scores.max(axis=1)[:, None], truth.grad_query[:, None], 0)
    expected_grads = [grad_scores @ c, np.einsum("bhc,bhd->cd", grad_scores, q)]
    for grad, exact, rows, norm in zip(
        tape.gradient(loss, tensors), expected_grads, (q, c), norms, strict=True
    ):
        if options.get("normalize"):
            exact = (exact - rows * np.sum(rows * exact, axis=-1, keepdims=True)) / norm
        np.testing.assert_allclose(grad, exact, rtol=1e-9, atol=1e-12)


def test_ids_that_are_strings() -> None:
    # The first two are one candidate: row 0 has the logits 2 and 5, row 1 has 7 and 5.
    task = Retrieval(remove_accidental_hits=True)
    expected = np.log1p(np.exp(3)) + np.log1p(np.exp(-2.0))
    for ids in (["a", "a", "b"], np.array(["a", "a", "b"]), [5, 5, 6]):
        np.testing.assert_allclose(task(*EXTRA, candidate_ids=ids), expected, rtol=1e-6)
    graph = tf.function(task)
    loss = graph(*map(tf.constant, EXTRA), candidate_ids=tf.constant(["a", "a", "b"]))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["ids", "strings", "scores"])
def test_metrics_of_own_candidates(kind: str) -> None:
    """With `positives` and more candidates than rows, in a catalogue of the candidates."""
    ids = np.array(["a", "b", "c"]) if kind == "strings" else np.array([4, 9, 2])
    catalogue = EXTRA[1] if kind == "scores" else (ids, EXTRA[1])
    task = Retrieval(metrics=FactorizedTopK(catalogue, ks=(1, 2)))
    task(*EXTRA, candidate_ids=None if kind == "scores" else ids, positives=[1, 2])
    # Row 0: 3 in 2, 3, 5. Row 1: 5 in 3, 7, 5.
    assert list(metrics_of(task).values()) == [0, 1]


def test_batch_metrics_see_what_the_softmax_sees() -> None:
    class Seen(keras.metrics.Metric):
        def update_state(self, labels: Any, scores: Any, sample_weight: Any = None) -> None:
            self.seen = np.asarray(labels), np.asarray(scores)

        def result(self) -> float:
            return 0.0

    lowest = float(tf.float32.min) / 100
    seen = Seen()
    task = Retrieval(2.0, batch_metrics=seen, remove_accidental_hits=True)
    probability = [0.5, 0.25, 1.0]
    mask = [[True, True, True], [False, True, True]]
    task(
        *EXTRA,
        candidate_ids=["a", "a", "b"],
        candidate_sampling_probability=probability,
        score_mask=mask,
    )
    logits = np.array([[2, 3, 5], [3, 7, 5]]) / 2 - np.log(probability)
    logits[0, 1] = logits[1, 0] = lowest
    np.testing.assert_array_equal(seen.seen[0], [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(seen.seen[1], logits, rtol=1e-6)
    Retrieval(num_hard_negatives=1, batch_metrics=seen)(*EXTRA)
    np.testing.assert_array_equal(seen.seen[0], [[1, 0], [1, 0]])
    np.testing.assert_array_equal(seen.seen[1], [[2, 5], [7, 5]])
    Retrieval(num_hard_negatives=7, batch_metrics=seen)(*EXTRA)
    np.testing.assert_array_equal(seen.seen[1], [[2, 5, 3], [7, 5, 3]])


class Model(keras.Model):
    """Two towers, trained as with TensorFlow Recommenders."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.doc = keras.layers.Dense(4), keras.layers.Dense(4)
        self.task = Retrieval(
            0.5, metrics=FactorizedTopK(tf.data.Dataset.from_tensors(DOC).map(self.doc), ks=(1, 5))
        )

    def call(self, inputs: Any) -> Any:
        return self.query(inputs[0]), self.doc(inputs[1])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.task(
            *y_pred,
            sample_weight,
            candidate_ids=y,
            compute_metrics=not training,
            compute_batch_metrics=False,
        )


def test_a_model() -> None:
    """Its metric follows the tower of the candidates, and evaluation reports it."""
    keras.utils.set_random_seed(0)
    model = Model()
    model([QUERY, DOC])
    model.compile(keras.optimizers.Adam(0.05))
    data = {"x": [QUERY, DOC], "y": np.arange(len(DOC)), "batch_size": 8}
    before = model.evaluate(**data, verbose=0, return_dict=True)
    model.fit(**data, epochs=15, verbose=0)
    after = model.evaluate(**data, verbose=0, return_dict=True)
    assert after[TOP_5] > before[TOP_5]
    query, doc = (rows.numpy() for rows in model([QUERY, DOC]))
    ranks = oracle.positive_ranks(query, doc)
    assert after[TOP_5] == pytest.approx(np.mean(ranks < 5))


def _functional() -> keras.Model:
    query, doc = keras.Input([3]), keras.Input([3])
    task = Retrieval(
        0.5,
        metrics=FactorizedTopK(np.zeros([20, 3], np.float32), ks=[5]),
        batch_metrics=keras.metrics.TopKCategoricalAccuracy(k=1, name="batch"),
        loss_metrics=keras.metrics.Mean(name="loss"),
        reduction="mean",
    )
    dense = keras.layers.Dense(3)
    return keras.Model([query, doc], task(dense(query), dense(doc)))


def check_loaded(path: str) -> None:
    model = keras.models.load_model(path)
    task = model.layers[-1]
    expected = np.load(f"{path}.npy")
    np.testing.assert_allclose(model([QUERY, DOC]), expected, rtol=1e-6)
    assert [metric.name for metric in task.metrics] == ["batch", "loss"]
    task.factorized_metrics = FactorizedTopK(np.zeros([20, 3], np.float32), ks=[5])
    task.loss_metrics[0].reset_state()
    model([QUERY, DOC])
    assert task.metrics[0].result()[TOP_5] > 0
    assert float(task.loss_metrics[0].result()) == pytest.approx(expected, rel=1e-6)


def test_saving(tmp_path: pathlib.Path) -> None:
    model = _functional()
    path = str(tmp_path / "model.keras")
    np.save(f"{path}.npy", model([QUERY, DOC]).numpy())
    model.save(path)
    check_loaded(path)
    run_python(f"import test_retrieval; test_retrieval.check_loaded({path!r})")
    clone = keras.models.clone_model(model)
    assert clone.layers[-1].get_config() == model.layers[-1].get_config()
    assert clone.layers[-1].batch_metrics[0] is not model.layers[-1].batch_metrics[0]


def test_inside_xla() -> None:
    task = Retrieval(0.5, remove_accidental_hits=True)
    assert task.supports_jit
    compiled = tf.function(task, jit_compile=True)
    loss = compiled(*map(tf.constant, EXTRA), candidate_ids=tf.constant([1, 1, 2]))
    expected = np.log1p(np.exp(6)) + np.log1p(np.exp(-4.0))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    compiled = tf.function(Retrieval(), jit_compile=True)
    loss = compiled(tf.constant(HEADS), tf.constant(EXTRA[1]))
    np.testing.assert_allclose(loss, HEADS_LOSSES.sum(), rtol=1e-6)


def test_bad_input() -> None:
    def loss(y_true: Any, y_pred: Any) -> Any:
        return y_pred

    with pytest.raises(ValueError, match=r"`loss` must be None: .* matrix"):
        Retrieval(loss=loss)
    with pytest.raises(ValueError, match=r"`loss` must be None: .* matrix"):
        Retrieval(keras.losses.CategoricalCrossentropy())  # The first argument of TFRS.
    task = Retrieval(metrics=FactorizedTopK(np.zeros([20, 3], np.float32), ks=[1]))
    with pytest.raises(ValueError, match=r"`candidate_ids` must have shape \[3\]. Received: \[2\]"):
        task(*EXTRA, candidate_ids=[1, 2])
    with pytest.raises(ValueError, match="`temperature` must be a number"):
        Retrieval(temperature=tf.Variable(1.0))
    for name in ("batch_metrics", "loss_metrics"):
        with pytest.raises(ValueError, match=f"`{name}` must be metrics of Keras.* 'auc'"):
            Retrieval(**{name: "auc"})
    with pytest.raises(ValueError, match="`metrics` must be metrics over a catalogue"):
        Retrieval(metrics=keras.metrics.AUC())
    with pytest.raises(ValueError, match="`remove_accidental_hits` must be True or False"):
        Retrieval(remove_accidental_hits="yes")
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        Retrieval(temperature=0)(*TWO)
    with pytest.raises(ValueError, match="`num_hard_negatives` must be at least 1"):
        Retrieval(num_hard_negatives=0)(*TWO)
    with pytest.raises(ValueError, match="`candidate_ids` must be given"):
        Retrieval(remove_accidental_hits=True)(*TWO)
    with pytest.raises(ValueError, match="`query_embeddings` must have at least one"):
        Retrieval()(np.zeros((2, 0, 3), np.float32), TWO[1])
    with pytest.raises(ValueError, match="`query_embeddings` must have rank 2"):
        Retrieval()(np.zeros((2, 1, 1, 3), np.float32), TWO[1])
    with pytest.raises(ValueError, match=r"`candidate_ids` must have shape"):
        Retrieval(remove_accidental_hits=True)(*TWO, candidate_ids=[["a"], ["b"]])
    task = Retrieval()
    task(*TWO)
    with pytest.raises(AttributeError, match=r"`temperature` must be set before .* called"):
        task.temperature = 2.0
    assert fastneg.layers.Retrieval is Retrieval
