"""The losses as Keras layers: values, symbolic inputs, training, saving, dtypes."""

import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf

import fastneg
from fastneg.layers import NegativeCosineLayer, NegativeMiningSoftmaxLoss, SampledSoftmaxLayer

BATCH, DIM = 32, 6


def _towers(dtype: str = "float32") -> tuple[list[Any], list[Any]]:
    inputs = [keras.Input([3], name=name) for name in ("query", "doc")]
    embeddings = [keras.layers.Dense(DIM, dtype=dtype)(tensor) for tensor in inputs]
    return inputs, embeddings


def _mining_model(dtype: str = "float32", **options: Any) -> keras.Model:
    inputs, embeddings = _towers(dtype)
    labels = keras.Input([], name="labels")
    weights = keras.Input([], name="weights")
    layer = NegativeMiningSoftmaxLoss(num_negative_samples=3, gamma=5.0, seed=3, **options)
    loss = layer(embeddings, labels, sample_weight=weights)
    return keras.Model([*inputs, labels, weights], loss)


def _cosine_model(dtype: str = "float32", **options: Any) -> keras.Model:
    inputs, embeddings = _towers(dtype)
    loss = NegativeCosineLayer(NEG=3, seed=3, **options)(embeddings)
    model = keras.Model(inputs, loss)
    return model


@keras.saving.register_keras_serializable(package="fastneg_tests")
class Table(keras.layers.Layer):
    """A trainable table as a layer: its output, [V, D], does not depend on its input."""

    def __init__(self, num_rows: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_rows = num_rows
        self.table = self.add_weight(shape=(num_rows, DIM), name="table")

    def call(self, inputs: Any) -> Any:
        return tf.convert_to_tensor(self.table)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((self.num_rows, DIM), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_rows": self.num_rows}


def _sampled_model(dtype: str = "float32", **options: Any) -> keras.Model:
    query = keras.Input([3], name="query")
    labels = keras.Input([1], dtype="int32", name="labels")
    table = Table(40, dtype=dtype)(query)
    layer = SampledSoftmaxLayer(num_sampled=10, seed=3, **options)
    losses = layer([table, keras.layers.Dense(DIM, dtype=dtype)(query), labels])
    return keras.Model([query, labels], losses)


def _features(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    query = rng.normal(size=(BATCH, 3)).astype(np.float32)
    doc = (query + 0.1 * rng.normal(size=(BATCH, 3))).astype(np.float32)
    labels = (rng.random(BATCH) < 0.8).astype(np.float32)
    weights = rng.random(BATCH).astype(np.float32)
    if count == -1:  # A class that can be told from the query.
        return [query, (query[:, :1] > 0).astype(np.int32)]
    return [query, doc, labels, weights][:count]


MODELS: dict[str, tuple[Callable[..., keras.Model], int, list[int]]] = {
    "mining": (_mining_model, 4, []),
    "cosine": (_cosine_model, 2, [1]),
    "sampled": (_sampled_model, -1, [None, 1]),
}


def _compile(name: str, model: keras.Model, **options: Any) -> dict[str, Any]:
    """Compiles; returns what `fit` needs beyond the features."""
    if name == "mining":  # The layer adds the loss by itself.
        model.compile(keras.optimizers.Adam(0.05), **options)
        return {}
    model.compile(keras.optimizers.Adam(0.05), loss=lambda _, loss: keras.ops.mean(loss), **options)
    return {"y": np.zeros(BATCH, np.float32)}


def test_value_of_negative_cosine_layer(backend: str) -> None:
    query, doc = (np.random.default_rng(i).normal(size=(BATCH, DIM)) for i in (0, 1))
    loss = NegativeCosineLayer(NEG=1, t=0.5)([query, doc])
    assert loss.shape == [1]
    assert loss.dtype == tf.float64
    everywhere = [np.roll(np.arange(BATCH), shift)[None] for shift in range(BATCH)]
    possible = [oracle.shuffled_cosine(query, doc, rolls, t=0.5).loss for rolls in everywhere]
    assert min(possible) / 2 < loss[0] < 2 * max(possible)
    # One row has one permutation, so its loss is known.
    alone = NegativeCosineLayer(NEG=4)([query[:1], doc[:1]])
    np.testing.assert_allclose(alone, [np.log(5)], rtol=1e-12)


def test_value_of_negative_mining_layer(backend: str) -> None:
    """With two rows there is one shift, so the value is known."""
    rng = np.random.default_rng(0)
    user, item = rng.normal(size=(2, 2, DIM))
    layer = NegativeMiningSoftmaxLoss(num_negative_samples=1, gamma=7.0, margin=0.1, t=1.2)
    loss = layer((user, item), np.ones(2), sample_weight=np.array([1.0, 3.0]))
    expected = oracle.rolled_softmax(
        user, item, [1, 1], [1], weights=[1.0, 3.0], gamma=7.0, margin=0.1, t=1.2
    )
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-12)
    assert [float(value) for value in layer.losses] == [float(loss)]


@pytest.mark.parametrize("kind", ["tensor", "variable", "keras variable"])
def test_value_of_sampled_softmax_layer(backend: str, kind: str) -> None:
    """TensorFlow's loss, with the biases of zero that the published layer carries."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, DIM)).astype(np.float32)
    inputs = tf.constant(rng.normal(size=(BATCH, DIM)).astype(np.float32))
    labels = rng.integers(0, 20, (BATCH, 1))
    table = {"tensor": tf.constant, "variable": tf.Variable, "keras variable": keras.Variable}[
        kind
    ](values)
    tf.random.set_seed(1)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        losses = SampledSoftmaxLayer(num_sampled=9, seed=3)([table, inputs, labels])
    tf.random.set_seed(1)
    with tf.GradientTape() as expected_tape:
        expected_tape.watch(inputs)
        expected = tf.nn.sampled_softmax_loss(
            values, np.zeros(20, np.float32), labels, inputs, 9, 20, seed=3
        )
    assert losses.shape == [BATCH, 1]
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(losses, inputs), expected_tape.gradient(expected, inputs), atol=1e-5
    )


def test_gradient_of_the_table_names_touched_rows(backend: str) -> None:
    table = tf.Variable(tf.random.normal([1000, DIM], seed=1))
    labels = tf.constant([[3], [999], [3], [7]])
    with tf.GradientTape() as tape:
        losses = SampledSoftmaxLayer(5)([table, tf.ones([4, DIM]), labels])
    gradient = tape.gradient(losses, table)
    assert isinstance(gradient, tf.IndexedSlices)
    assert len(np.unique(gradient.indices)) <= 8
    assert {3, 7, 999} <= set(gradient.indices.numpy().tolist())


def test_table_of_unknown_size_is_refused() -> None:
    layer = SampledSoftmaxLayer()

    @tf.function(input_signature=[tf.TensorSpec([None, DIM])])
    def call(table: tf.Tensor) -> tf.Tensor:
        return layer([table, tf.ones([4, DIM]), tf.zeros([4, 1], tf.int32)])

    with pytest.raises(ValueError, match="`embeddings` must have a static number of rows"):
        call(tf.ones([50, DIM]))


@pytest.mark.parametrize("name", MODELS)
def test_symbolic_output(name: str) -> None:
    make, _, shape = MODELS[name]
    for dtype, expected in (("float32", "float32"), ("float64", "float64"), ("bfloat16",) * 2):
        output = make(dtype).outputs[0]
        assert list(output.shape) == shape
        assert output.dtype == ("float32" if expected == "bfloat16" else expected)


@pytest.mark.parametrize("jit_compile", ["auto", False, True])
@pytest.mark.parametrize("name", MODELS)
def test_fit(backend: str, name: str, jit_compile: Any) -> None:
    keras.utils.set_random_seed(1)
    make, num_features, _ = MODELS[name]
    model = make()
    more = _compile(name, model, jit_compile=jit_compile)
    history = model.fit(
        _features(num_features), **more, epochs=12, batch_size=BATCH, verbose=0
    ).history["loss"]
    assert history[-1] < 0.8 * history[0]


@pytest.mark.parametrize("name", MODELS)
def test_save_and_load(name: str, tmp_path: pathlib.Path) -> None:
    make, num_features, _ = MODELS[name]
    model = make()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].get_config() == model.layers[-1].get_config()
    features = _features(num_features)
    results = []
    for candidate in (model, loaded):
        tf.random.set_seed(3)
        results.append(float(np.ravel(candidate(features))[0]))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "layer",
    [
        NegativeMiningSoftmaxLoss(7, True, 2.0, 0.1, 1.3, 5, name="mined"),
        NegativeCosineLayer(7, 0.3, 10.0, "batch", 5, name="shuffled"),
        SampledSoftmaxLayer(7, False, 5, name="sampled"),
    ],
    ids=lambda layer: layer.name,
)
def test_config(layer: Any) -> None:
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    serialized = keras.saving.serialize_keras_object(layer)
    restored = keras.saving.deserialize_keras_object(serialized)
    assert restored.get_config() == layer.get_config()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(backend: str, policy: str) -> None:
    """Embeddings come in half precision; labels and probabilities stay as they are."""
    rng = np.random.default_rng(0)
    user, item = (tf.constant(rng.normal(size=(4, 3)), policy[6:]) for _ in range(2))
    labels = np.full(4, 1e-30, np.float32)
    layer = NegativeMiningSoftmaxLoss(1, gamma=3.0, dtype=policy)
    loss = layer((user, item), labels)
    assert loss.dtype == tf.float32
    assert loss > 0
    loss = NegativeCosineLayer(2, dtype=policy)([user, item])
    assert loss.dtype == tf.float32


@pytest.mark.parametrize("name", MODELS)
def test_compute_output_shape(name: str) -> None:
    layer = MODELS[name][0]().layers[-1]
    shapes = [(None, DIM), (None, DIM)]
    if name == "sampled":
        shapes = [(40, DIM), (None, DIM), (None, 1)]
    arguments = [shapes, (None,)] if name == "mining" else [shapes]
    assert list(layer.compute_output_shape(*arguments)) == MODELS[name][2]


def test_lazy_attribute() -> None:
    assert fastneg.layers.NegativeCosineLayer is NegativeCosineLayer


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`num_negatives` must be at least 1"):
        NegativeCosineLayer(0)([tf.ones([4, 2]), tf.ones([4, 2])])
    with pytest.raises(ValueError, match="`num_negative_samples` must be at least 1 and less"):
        NegativeMiningSoftmaxLoss(4)((tf.ones([4, 2]), tf.ones([4, 2])), tf.ones([4]))
