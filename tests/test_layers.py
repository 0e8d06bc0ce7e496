"""The losses as Keras layers: values, symbolic inputs, options, dtypes."""

import inspect
import itertools
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import oracle
import pytest
import tensorflow as tf
from keras_models import OverAnotherTable

import fastneg
from fastneg.layers import (
    NegativeCosineLayer,
    NegativeMiningSoftmaxLoss,
    SampledSoftmaxEmbedding,
    SampledSoftmaxLayer,
)

BATCH, DIM = 32, 6


def _two(dtype: str) -> list[tf.Tensor]:
    return [tf.ones([BATCH, DIM], dtype), tf.ones([BATCH, DIM], dtype)]


LAYERS: dict[str, Callable[[str], tuple[Any, tuple[Any, ...]]]] = {
    "mining": lambda dtype: (
        NegativeMiningSoftmaxLoss(3, dtype=dtype),
        (_two(dtype), tf.ones([BATCH])),
    ),
    "cosine": lambda dtype: (NegativeCosineLayer(3, dtype=dtype), (_two(dtype),)),
    "sampled": lambda dtype: (
        SampledSoftmaxLayer(3, dtype=dtype),
        ([tf.ones([40, DIM]), _two(dtype)[0], tf.zeros([BATCH, 1], tf.int32)],),
    ),
    "embedding": lambda dtype: (
        SampledSoftmaxEmbedding(40, DIM, 3, dtype=dtype),
        (_two(dtype)[0], tf.zeros([BATCH], tf.int32)),
    ),
}
"""A layer for embeddings of a dtype, with arguments of its call."""


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


def test_table_in_shards() -> None:
    """The variables of a table in shards, as `tf.nn.sampled_softmax_loss` numbers their rows."""
    rng = np.random.default_rng(0)
    shards = [keras.Variable(rng.normal(size=(rows, DIM)).astype(np.float32)) for rows in (4, 3, 3)]
    labels, inputs = tf.constant([[3], [9], [4]]), tf.ones([3, DIM])
    results = []
    for table in (shards, tf.concat([shard.value for shard in shards], 0)):
        tf.random.set_seed(1)
        results.append(SampledSoftmaxLayer(4, seed=3)([table, inputs, labels]))
    tf.random.set_seed(1)
    expected = tf.nn.sampled_softmax_loss(
        [shard.value for shard in shards], np.zeros(10, np.float32), labels, inputs, 4, 10, seed=3
    )
    for losses in results:
        np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-5)


def test_table_of_another_layer_with_mixed_precision() -> None:
    """It is neither cast nor read as a whole: its gradient names rows of the float32 variable."""
    layer = OverAnotherTable(dtype="mixed_float16")
    inputs, labels = tf.ones([4, DIM], tf.float16), tf.constant([1, 0, 3, 1])
    layer(inputs, labels)
    with tf.GradientTape() as tape:
        losses = layer(inputs, labels)
    assert losses.dtype == tf.float32
    assert isinstance(tape.gradient(losses, layer.items.embeddings.value), tf.IndexedSlices)


def test_ids_that_keras_has_made_floats() -> None:
    """`keras.Input` is float32 where no dtype is named."""
    table = SampledSoftmaxEmbedding(40, DIM, 4)
    inputs, labels = keras.Input([DIM]), keras.Input([1])
    model = keras.Model([inputs, labels], table(inputs, labels=labels))
    assert model([tf.ones([3, DIM]), tf.constant([[1.0], [39.0], [0.0]])]).shape == [3, 1]
    with pytest.raises(tf.errors.InvalidArgumentError, match="label"):
        model([tf.ones([1, DIM]), tf.constant([[0.5]])])


def test_table_of_unknown_size_is_refused() -> None:
    layer = SampledSoftmaxLayer()

    @tf.function(input_signature=[tf.TensorSpec([None, DIM])])
    def call(table: tf.Tensor) -> tf.Tensor:
        return layer([table, tf.ones([4, DIM]), tf.zeros([4, 1], tf.int32)])

    with pytest.raises(ValueError, match="`embeddings` must have a static number of rows"):
        call(tf.ones([50, DIM]))


@pytest.mark.parametrize("name", LAYERS)
def test_symbolic_output(name: str) -> None:
    """Symbols, `compute_output_shape` and what is computed have the same shape and dtype."""
    for dtype, expected in (("float32", "float32"), ("float64", "float64"), ("float16", "float32")):
        layer, arguments = LAYERS[name](dtype)
        result = layer(*arguments)
        assert result.dtype == expected
        symbols = tf.nest.map_structure(
            lambda value: keras.KerasTensor((None, *value.shape[1:]), value.dtype), arguments
        )
        output = layer(*symbols)
        assert output.dtype == expected
        assert tf.TensorShape(output.shape).is_compatible_with(result.shape)
        assert len(output.shape) == len(result.shape)
        shapes = tf.nest.map_structure(lambda value: tuple(value.shape), arguments)
        assert layer.compute_output_shape(*shapes) == tuple(result.shape)


@pytest.mark.parametrize(
    "layer",
    [
        NegativeMiningSoftmaxLoss(
            7, True, 2.0, 0.1, 1.3, 5, True, False, 1.2, "refined", name="mined"
        ),
        NegativeCosineLayer(7, 0.3, 10.0, "batch", 5, True, name="shuffled"),
        NegativeCosineLayer(7, positive_in_softmax=False, negative_weight=1.2, name="decoupled"),
        SampledSoftmaxLayer(7, False, 5, name="sampled"),
        SampledSoftmaxEmbedding(9, 3, 7, False, 5, mask_zero=True, name="embedding"),
    ],
    ids=lambda layer: layer.name,
)
def test_config(layer: Any) -> None:
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    serialized = keras.saving.serialize_keras_object(layer)
    restored = keras.saving.deserialize_keras_object(serialized)
    assert restored.get_config() == layer.get_config()
    parameters = inspect.signature(type(layer)).parameters.keys() - {"kwargs"}
    assert parameters <= layer.get_config().keys()


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


@pytest.mark.parametrize("mask_zero", [False, True])
def test_embedding_looks_rows_up(mask_zero: bool) -> None:
    layer = SampledSoftmaxEmbedding(9, 3, mask_zero=mask_zero)
    ids = tf.constant([[0, 8], [3, 3]])
    rows = layer(ids)
    np.testing.assert_array_equal(rows, np.asarray(layer.embeddings)[ids.numpy()])
    mask = getattr(rows, "_keras_mask", None)
    assert (mask is not None) == mask_zero
    if mask_zero:
        np.testing.assert_array_equal(mask, [[False, True], [True, True]])
    losses = layer(tf.ones([2, 3]), labels=tf.constant([3, 8]))
    assert getattr(losses, "_keras_mask", None) is None


def test_value_of_sampled_softmax_embedding(backend: str) -> None:
    """TensorFlow's losses, and their mean over the rows that have a weight."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(BATCH, DIM)).astype(np.float32)
    labels = rng.integers(0, 20, BATCH)
    weights = rng.uniform(size=BATCH)
    weights[:3] = 0
    layer = SampledSoftmaxEmbedding(20, DIM, num_sampled=9, seed=3)
    layer.build()
    tf.random.set_seed(1)
    losses = layer(tf.constant(inputs), labels=labels, sample_weight=weights)
    tf.random.set_seed(1)
    expected = tf.nn.sampled_softmax_loss(
        layer.embeddings.value, np.zeros(20, np.float32), labels[:, None], inputs, 9, 20, seed=3
    )
    assert losses.shape == [BATCH, 1]
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-5)
    mean = (expected * weights).numpy().sum() / (BATCH - 3)
    np.testing.assert_allclose(layer.losses, [mean], rtol=1e-5)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", ["mining", "cosine"])
def test_learnable_scale(name: str, graph: bool) -> None:
    """The loss is that of exp(weight), and differentiated by the weight."""
    users, items = (tf.constant(value) for value in np.random.default_rng(0).normal(size=(2, 2, 5)))
    if name == "mining":  # With two rows there is one shift.
        layer = NegativeMiningSoftmaxLoss(1, gamma=4.0, learnable_gamma=True, dtype="float64")
        weight, arguments = layer.log_gamma, ((users, items), tf.ones([2]))

        def expected(scale: tf.Tensor) -> tf.Tensor:
            return fastneg.reference.softmax_loss_with_negative_mining(
                users, items, tf.ones([2]), gamma=scale, shifts=[1]
            )
    else:  # One row has one permutation; its document is a negative, too.
        layer = NegativeCosineLayer(1, scale=4.0, learnable_scale=True, dtype="float64")
        users, items = users[:1], items[:1]
        weight, arguments = layer.log_scale, ([users, items],)

        def expected(scale: tf.Tensor) -> tf.Tensor:
            return fastneg.reference.negative_cosine_loss(
                users, items, scale=scale, permutations=[[0]]
            )

    assert layer.trainable_variables == [weight]
    np.testing.assert_allclose(weight, np.log(4.0), rtol=1e-15)
    weight.assign(1.5)

    def value_and_gradient() -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reshape(layer(*arguments), [])
        return loss, tape.gradient(loss, weight.value)

    loss, gradient = (tf.function(value_and_gradient) if graph else value_and_gradient)()
    scale = tf.constant(np.exp(1.5))
    with tf.GradientTape() as tape:
        tape.watch(scale)
        expected_loss = expected(scale)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-12)
    np.testing.assert_allclose(
        gradient, tape.gradient(expected_loss, scale) * scale, rtol=1e-10, atol=1e-12
    )


def test_learnable_scale_keeps_its_precision_in_half_types() -> None:
    layer = NegativeMiningSoftmaxLoss(3, gamma=20.0, learnable_gamma=True, dtype="bfloat16")
    assert layer.log_gamma.dtype == "float32"


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5])
def test_small_batch_gets_fewer_negatives(backend: str, rows: int, graph: bool) -> None:
    """With K = 4; the shifts are the first ones of those that a larger batch would get."""
    rng = np.random.default_rng(rows)
    users, items = rng.normal(size=(2, rows, DIM))
    weights = rng.uniform(0.5, 1.0, (rows, 1))
    ids, probabilities = np.arange(rows) % 3, rng.uniform(size=rows)
    layer = NegativeMiningSoftmaxLoss(4, gamma=5.0, seed=3)

    def call(users: Any, items: Any, *others: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([users, items])
            loss = layer((users, items), *others)
        return loss, *tape.gradient(loss, [users, items])

    arguments = [
        tf.constant(value) for value in (users, items, np.ones(rows), weights, probabilities, ids)
    ]
    if graph:
        specs = [tf.TensorSpec([None, *value.shape[1:]], value.dtype) for value in arguments]
        call = tf.function(call, input_signature=specs)
    tf.random.set_seed(1)
    loss, grad_users, grad_items = call(*arguments)
    if rows < 2:
        assert loss == 0
        assert grad_users.shape == grad_items.shape == (rows, DIM)
        np.testing.assert_array_equal(grad_users, np.zeros([rows, DIM]))
        return
    num_negatives = min(4, rows - 1)
    expected = [
        oracle.rolled_softmax(
            users, items, np.ones(rows), shifts, weights=weights[:, 0], gamma=5.0,
            candidate_sampling_probability=probabilities, candidate_ids=ids,
        )
        for shifts in itertools.combinations_with_replacement(range(1, rows), num_negatives)
    ]  # fmt: skip
    matching = [one for one in expected if np.isclose(one.loss, loss, rtol=1e-9, atol=0)]
    assert matching
    np.testing.assert_allclose(grad_users, matching[0].grad_user, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(grad_items, matching[0].grad_item, rtol=1e-7, atol=1e-12)


def test_sizes_that_disagree_are_refused_in_small_batches() -> None:
    layer = NegativeMiningSoftmaxLoss(4)
    spec = tf.TensorSpec([None, 3])
    call = tf.function(
        lambda users, items: layer((users, items), tf.ones(tf.shape(users)[:1])),
        input_signature=[spec, spec],
    )
    for sizes in ((1, 2), (2, 1), (3, 5)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            call(*(tf.ones([size, 3]) for size in sizes))


@pytest.mark.parametrize("value", [tf.Variable(3.0), keras.Variable(3.0), tf.constant(3.0), "3"])
@pytest.mark.parametrize("name", ["gamma", "margin", "t"])
def test_options_must_be_numbers(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a number"):
        NegativeMiningSoftmaxLoss(**{name: value})
    if name == "t":
        with pytest.raises(ValueError, match="`t` must be a number"):
            NegativeCosineLayer(3, t=value)


@pytest.mark.parametrize("layer", [NegativeMiningSoftmaxLoss, SampledSoftmaxLayer])
@pytest.mark.parametrize("seed", [[1, 2], tf.Variable([1, 2]), 1.5])
def test_seed_must_be_a_number(layer: Any, seed: Any) -> None:
    with pytest.raises(ValueError, match="`seed` must be a Python integer or None in a layer"):
        layer(seed=seed)


def test_numpy_numbers_can_be_saved() -> None:
    layer = NegativeMiningSoftmaxLoss(gamma=np.float32(2.0), margin=np.array(0.5), t=True)
    assert json.loads(json.dumps(layer.get_config()["gamma"])) == 2.0
    assert isinstance(layer.margin, float)


@pytest.mark.parametrize("name", LAYERS)
def test_options_are_fixed_once_the_layer_was_called(name: str) -> None:
    layer, arguments = LAYERS[name]("float32")
    layer.seed = 7
    layer(*arguments)
    for option in layer.OPTIONS:
        with pytest.raises(AttributeError, match=f"`{option}` must be set before the layer"):
            setattr(layer, option, getattr(layer, option))
    layer.trainable = False


def test_bad_arguments_are_named() -> None:
    two = [tf.ones([4, 2]), tf.ones([4, 2])]
    with pytest.raises(ValueError, match="`num_negatives` must be at least 1"):
        NegativeCosineLayer(0)(two)
    with pytest.raises(ValueError, match="`num_negative_samples` must be at least 1"):
        NegativeMiningSoftmaxLoss(0)(two, tf.ones([4]))
    with pytest.raises(ValueError, match="`gamma` must be a finite number"):
        NegativeMiningSoftmaxLoss(gamma=float("nan"))
    with pytest.raises(ValueError, match="`gamma` must be greater than 0 with `learnable_gamma`"):
        NegativeMiningSoftmaxLoss(gamma=-1.0, learnable_gamma=True)
    with pytest.raises(ValueError, match="`sample_weight` must have shape"):
        SampledSoftmaxEmbedding(9, 2)(two[0], labels=[1, 2, 3, 4], sample_weight=[1.0])


@pytest.mark.parametrize("options", [{"negative_weight": 1.3}, {"correction": "refined"}])
def test_row_options_are_passed_on(options: dict[str, Any]) -> None:
    """Two rows leave one possible shift; the identity is a permutation of one row."""
    rng = np.random.default_rng(0)
    user, item = rng.normal(size=(2, 2, 3)).astype(np.float32)
    options = {"positive_in_softmax": False, **options}
    facts = {"candidate_sampling_probability": np.array([0.2, 0.3], np.float32)}
    loss = NegativeMiningSoftmaxLoss(1, gamma=3.0, **options)((user, item), tf.ones([2]), **facts)
    truth = oracle.rolled_softmax(user, item, [1, 1], [1], gamma=3.0, **facts, **options)
    np.testing.assert_allclose(loss, truth.loss, rtol=1e-6)
    one = {name: value[:1] for name, value in facts.items()}
    loss = NegativeCosineLayer(1, scale=3.0, **options)([user[:1], item[:1]], **one)
    truth = oracle.shuffled_cosine(user[:1], item[:1], [[0]], scale=3.0, **one, **options)
    np.testing.assert_allclose(loss, [truth.loss], rtol=1e-5, atol=1e-6)


def test_a_batch_of_one_row_has_no_negatives_to_weigh() -> None:
    layer = NegativeMiningSoftmaxLoss(3, positive_in_softmax=False, negative_weight=1.3)
    assert layer((tf.ones([1, 2]), tf.ones([1, 2])), tf.ones([1])) == 0
