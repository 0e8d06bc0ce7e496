"""Tiny Keras models with each loss and each layer, and what they are trained on."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import fastneg
from fastneg.layers import (
    CandidateQueue,
    NegativeCosineLayer,
    NegativeMiningSoftmaxLoss,
    Retrieval,
    SampledSoftmaxEmbedding,
    SampledSoftmaxLayer,
)

ROWS, BATCH, DIM, CLASSES = 20, 8, 6, 12
"""The last batch has 4 rows: for the layers as many as they want negatives."""

_RNG = np.random.default_rng(0)
QUERY = _RNG.normal(size=(ROWS, 3)).astype(np.float32)
DOC = (QUERY + 0.1 * _RNG.normal(size=(ROWS, 3))).astype(np.float32)
LABELS = np.arange(ROWS, dtype=np.int32) % 3
WEIGHTS = _RNG.uniform(0.5, 1.5, ROWS).astype(np.float32)
WEIGHTS[[1, 7, 12]] = 0
IDS = np.arange(ROWS, dtype=np.int32) // 2
HISTORY = _RNG.integers(0, CLASSES, (ROWS, 3)).astype(np.int32)
SHIFTS = [1, 3, 2]


def rolled(losses: Any, model: "Towers", outputs: Any, y: Any, weights: Any) -> Any:
    return losses.softmax_loss_with_negative_mining(
        *outputs, y, gamma=model.scale, margin=0.1, t=1.2, shifts=SHIFTS, weights=weights
    )


def cosine(losses: Any, model: "Towers", outputs: Any, y: Any, weights: Any) -> Any:
    everyone = tf.range(tf.shape(y)[0])
    permutations = tf.stack([tf.roll(everyone, 2, 0), everyone[::-1]])
    return losses.negative_cosine_loss(*outputs, scale=model.scale, permutations=permutations)


def sv(losses: Any, model: "Towers", outputs: Any, y: Any, weights: Any) -> Any:
    query, doc = outputs
    negatives = [tf.reduce_sum(query * tf.roll(doc, shift, 0), 1) for shift in SHIFTS]
    return losses.support_vector_guided_softmax_loss(
        tf.reduce_sum(query * doc, 1), tf.stack(negatives, 1), smooth=model.scale, weights=weights
    )


def pairwise(losses: Any, model: "Towers", outputs: Any, y: Any, weights: Any) -> Any:
    query, doc = outputs
    return losses.pairwise_loss(
        y, tf.reduce_sum(query * doc, 1), temperature=model.scale, weights=weights
    )


def in_batch(losses: Any, model: "Towers", outputs: Any, y: Any, weights: Any) -> Any:
    return losses.in_batch_softmax_loss(
        *outputs, temperature=model.scale, candidate_ids=y, sample_weight=weights
    )


def sampled(losses: Any, model: "Towers", outputs: Any, y: Any, weights: Any) -> Any:
    rows = losses.sampled_softmax_loss(
        model.table.value,
        None,
        y,
        outputs[0],
        num_sampled=4,
        num_classes=CLASSES,
        sampled_values=([1, 5, 9, 2], 0.3, [0.4, 0.5, 0.3, 0.4]),
    )
    return tf.reduce_mean(rows * weights)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (rolled, cosine, sv, pairwise, in_batch, sampled)
}


def every(*arguments: Any) -> Any:
    """All of them at once, where a test of each would take its time."""
    return tf.add_n([function(*arguments) for function in FUNCTIONS.values()]) / len(FUNCTIONS)


class Towers(keras.Model):
    """Two towers, a trained scale and a table, with a loss on top that draws nothing."""

    def __init__(self, function: Callable[..., Any] = every) -> None:
        super().__init__()
        self.function = function
        self.query, self.doc = keras.layers.Dense(DIM), keras.layers.Dense(DIM)
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale", autocast=False)
        self.table = self.add_weight(shape=(CLASSES, DIM), name="table", autocast=False)

    def call(self, inputs: Any) -> Any:
        return self.query(inputs[0]), self.doc(inputs[1])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.function(fastneg, self, y_pred, y, sample_weight)


class SteppingTowers(Towers):
    """The same with a training step of its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, weights = data
        with tf.GradientTape() as tape:
            loss = self.function(fastneg, self, self(x, training=True), y, weights)
        self.optimizer.apply_gradients(
            zip(
                tape.gradient(loss, [v.value for v in self.trainable_variables]),
                self.trainable_variables,
                strict=True,
            )
        )
        return {"loss": loss}


def _towers() -> tuple[list[Any], list[Any]]:
    inputs = [keras.Input([3], name=name) for name in ("query", "doc")]
    return inputs, [keras.layers.Dense(DIM)(tensor) for tensor in inputs]


def mining_model() -> keras.Model:
    inputs, embeddings = _towers()
    labels, weights = keras.Input([], name="labels"), keras.Input([], name="weights")
    layer = NegativeMiningSoftmaxLoss(4, gamma=5.0, seed=3, learnable_gamma=True)
    return keras.Model([*inputs, labels, weights], layer(embeddings, labels, sample_weight=weights))


def cosine_model() -> keras.Model:
    inputs, embeddings = _towers()
    return keras.Model(
        inputs, NegativeCosineLayer(NEG=4, seed=3, scale=5.0, learnable_scale=True)(embeddings)
    )


def retrieval_model() -> keras.Model:
    inputs, (query, doc) = _towers()
    ids = keras.Input([], dtype="int32", name="ids")
    weights = keras.Input([], name="weights")
    candidates = CandidateQueue(4)(doc, candidate_ids=ids)
    retrieval = Retrieval(
        temperature=0.5, normalize=True, remove_accidental_hits=True, reduction="mean"
    )
    loss = retrieval(
        query,
        candidates["candidate_embeddings"],
        sample_weight=weights,
        candidate_ids=candidates["candidate_ids"],
        candidate_mask=candidates["candidate_mask"],
    )
    return keras.Model([*inputs, ids, weights], loss)


def embedding_model() -> keras.Model:
    history = keras.Input([3], dtype="int32", name="history")
    clicked = keras.Input([], dtype="int32", name="clicked")
    weights = keras.Input([], name="weights")
    items = SampledSoftmaxEmbedding(CLASSES, DIM, num_sampled=4, seed=3)
    user = keras.layers.Dense(DIM, name="user")(keras.layers.Flatten()(items(history)))
    return keras.Model(
        [history, clicked, weights], items(user, labels=clicked, sample_weight=weights)
    )


@keras.saving.register_keras_serializable(package="fastneg_tests")
class OverAnotherTable(keras.layers.Layer):
    """A layer of a user's, whose call scores against a variable of a layer that it has."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.items = keras.layers.Embedding(CLASSES, DIM)
        self.items.build()
        self.loss = SampledSoftmaxLayer(num_sampled=4, seed=3)

    def call(self, inputs: Any, labels: Any) -> Any:
        return self.loss([self.items.embeddings, inputs, labels])


def sampled_model() -> keras.Model:
    query, labels = keras.Input([3], name="query"), keras.Input([1], dtype="int32", name="labels")
    return keras.Model([query, labels], OverAnotherTable()(keras.layers.Dense(DIM)(query), labels))


def pairwise_model() -> keras.Model:
    query = keras.Input([3], name="query")
    return keras.Model(query, keras.layers.Dense(1)(query))


MODELS: dict[str, tuple[Callable[[], keras.Model], dict[str, Any], dict[str, Any]]] = {
    "mining": (mining_model, {}, {"x": [QUERY, DOC, LABELS, WEIGHTS]}),
    "cosine": (cosine_model, {"loss": fastneg.losses.OutputLoss()}, {"x": [QUERY, DOC]}),
    "retrieval": (
        retrieval_model,
        {"loss": fastneg.losses.OutputLoss()},
        {"x": [QUERY, DOC, IDS, WEIGHTS]},
    ),
    "embedding": (embedding_model, {}, {"x": [HISTORY, LABELS, WEIGHTS]}),
    "sampled": (
        sampled_model,
        {"loss": fastneg.losses.OutputLoss()},
        {"x": [QUERY, LABELS], "y": LABELS, "sample_weight": WEIGHTS},
    ),
    "pairwise": (
        pairwise_model,
        {"loss": fastneg.losses.PairwiseLoss()},
        {"x": QUERY, "y": LABELS, "sample_weight": WEIGHTS},
    ),
}
"""For each layer and loss class: a model, arguments of `compile`, and arguments of `fit`."""
