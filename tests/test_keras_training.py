"""Training by Keras: every loss in `compute_loss` and `train_step`, every layer, every mode."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import keras_models
import numpy as np
import pytest
import tensorflow as tf
from keras_models import (
    BATCH,
    CLASSES,
    DOC,
    FUNCTIONS,
    LABELS,
    MODELS,
    QUERY,
    ROWS,
    WEIGHTS,
    every,
)

import fastneg
from fastneg.layers import NegativeCosineLayer, NegativeMiningSoftmaxLoss, SampledSoftmaxEmbedding

MODES: dict[str, dict[str, Any]] = {
    "graph": {"jit_compile": False},
    "eager": {"run_eagerly": True},
    "steps": {"jit_compile": "auto", "steps_per_execution": 3},
}
DATA: dict[str, Any] = {"x": [QUERY, DOC], "y": LABELS, "sample_weight": WEIGHTS}
ORDER: dict[str, Any] = {"batch_size": BATCH, "shuffle": False, "verbose": 0}


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def _towers(
    cls: type[keras_models.Towers] = keras_models.Towers, function: Callable[..., Any] = every
) -> keras_models.Towers:
    keras.utils.set_random_seed(1)
    model = cls(function)
    model([QUERY, DOC])
    return model


def _weights(model: keras.Model) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in model.trainable_variables]


def _expected(
    function: Callable[..., Any] = every,
    *,
    epochs: int = 1,
    accumulated: int = 1,
    batch_size: int = BATCH,
) -> list[np.ndarray]:
    """The weights after plain gradient descent with the plain TensorFlow composition."""
    model = _towers(function=function)
    variables = [variable.value for variable in model.trainable_variables]
    total: list[Any] = [0.0] * len(variables)
    starts = range(0, ROWS, batch_size)
    for step in range(epochs * len(starts)):
        start = starts[step % len(starts)]
        batch = slice(start, start + batch_size)
        with tf.GradientTape() as tape:
            value = function(
                fastneg.reference, model, model([QUERY[batch], DOC[batch]]), LABELS[batch],
                WEIGHTS[batch],
            )  # fmt: skip
        gradients = tape.gradient(value, variables, unconnected_gradients="zero")
        total = [
            sum_ + tf.convert_to_tensor(gradient) / accumulated
            for sum_, gradient in zip(total, gradients, strict=True)
        ]
        if (step + 1) % accumulated == 0:
            for variable, gradient in zip(variables, total, strict=True):
                variable.assign_sub(0.1 * gradient)
            total = [0.0] * len(variables)
    return _weights(model)


@pytest.mark.parametrize(
    ("function", "mode"),
    [*((function, "graph") for function in FUNCTIONS.values()), (every, "eager"), (every, "steps")],
)
def test_function_in_compute_loss(function: Callable[..., Any], mode: str) -> None:
    model = _towers(function=function)
    model.compile(keras.optimizers.SGD(0.1), **MODES[mode])
    model.fit(**DATA, **ORDER, epochs=2)
    for got, expected in zip(_weights(model), _expected(function, epochs=2), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert np.isfinite(model.evaluate(**DATA, batch_size=BATCH, verbose=0))


def test_functions_in_train_step() -> None:
    model = _towers(keras_models.SteppingTowers)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(**DATA, **ORDER)
    for got, expected in zip(_weights(model), _expected(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_gradient_accumulation() -> None:
    model = _towers()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3))
    model.fit(**DATA, **ORDER, epochs=2)
    for got, expected in zip(_weights(model), _expected(epochs=2, accumulated=3), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
def test_functions_with_mixed_precision(policy: str) -> None:
    model = _towers()
    assert model([QUERY, DOC])[0].dtype == policy.removeprefix("mixed_")
    optimizer = keras.optimizers.SGD(0.1)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0))
    model.fit(**DATA, **ORDER)
    keras.config.set_dtype_policy("float32")
    for got, expected in zip(_weights(model), _expected(), strict=True):
        np.testing.assert_allclose(got, expected, atol=0.01)


def test_functions_inside_xla() -> None:
    """In one batch: XLA takes seconds for a shape."""
    model = _towers()
    model.compile(keras.optimizers.SGD(0.1), jit_compile=True)
    model.fit(**DATA, epochs=2, batch_size=ROWS, shuffle=False, verbose=0)
    for got, expected in zip(_weights(model), _expected(epochs=2, batch_size=ROWS), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


class SteppingModel(keras.Model):
    """A functional model with a training step of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mean_loss = keras.metrics.Mean(name="loss")

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = self.compute_loss(x, y, outputs, weights)
        self.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        self.mean_loss.update_state(loss)
        return {"loss": self.mean_loss.result()}


def _fit(
    name: str,
    options: dict[str, Any],
    epochs: int = 8,
    *,
    optimizer: Any = None,
    cls: Any = None,
    batch_size: int = BATCH,
) -> tuple[keras.Model, list[float]]:
    keras.utils.set_random_seed(1)
    make, compile_arguments, data = MODELS[name]
    model = make()
    if cls is not None:
        model = cls(model.inputs, model.outputs[0])
    model.compile(optimizer or keras.optimizers.SGD(0.5), **compile_arguments, **options)
    order = {**ORDER, "batch_size": batch_size}
    return model, model.fit(**data, **order, epochs=epochs).history["loss"]


@pytest.mark.parametrize(
    ("mode", "backend"),
    [("graph", "native"), ("eager", "reference"), ("steps", "numba")],
    indirect=["backend"],
)
@pytest.mark.parametrize("name", MODELS)
def test_layer(name: str, mode: str, backend: str) -> None:
    if (name, backend) == ("retrieval", "numba"):
        fastneg.use_backend("native")  # Until the fixture ends: numba has no in-batch loss.
    model, history = _fit(name, MODES[mode])
    assert history[-1] < 0.9 * history[0]
    assert np.isfinite(model.evaluate(**MODELS[name][2], batch_size=BATCH, verbose=0))


@pytest.mark.parametrize("name", MODELS)
def test_layer_inside_xla(name: str) -> None:
    """Some with a small last batch, which is another shape for XLA, and takes its time."""
    batch_size = BATCH if name in ("mining", "embedding", "retrieval") else ROWS
    _, history = _fit(name, {"jit_compile": True}, batch_size=batch_size)
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("name", MODELS)
def test_layer_in_a_train_step(name: str) -> None:
    _, history = _fit(name, {"jit_compile": False}, cls=SteppingModel)
    assert history[-1] < 0.9 * history[0]


@pytest.mark.parametrize("name", ["mining", "embedding"])
def test_layer_with_gradient_accumulation(name: str) -> None:
    """Of dense gradients, and of a table's rows."""
    optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    _, history = _fit(name, {"jit_compile": False}, 12, optimizer=optimizer)
    assert history[-1] < 0.95 * history[0]


LAYERS: dict[str, Callable[[], Any]] = {
    "mining": lambda: NegativeMiningSoftmaxLoss(4, seed=3),
    "cosine": lambda: NegativeCosineLayer(NEG=4, seed=3),
    "sampled": lambda: SampledSoftmaxEmbedding(CLASSES, 3, num_sampled=4, seed=3),
}


@pytest.mark.skipif(not hasattr(keras, "RematScope"), reason="Keras before 3.9")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_in_a_remat_scope_draws_once(name: str, graph: bool) -> None:
    """Drawn anew for the gradient, negatives would be others than those of the loss."""

    def results(layer: Any) -> list[Any]:
        keras.utils.set_random_seed(2)

        def compute() -> tuple[Any, Any]:
            query, doc = tf.constant(QUERY), tf.constant(DOC)
            with tf.GradientTape() as tape:
                tape.watch(query)
                if name == "mining":
                    loss = layer((query, doc), labels=LABELS)
                elif name == "cosine":
                    loss = layer([query, doc])
                else:
                    loss = layer(query, labels=LABELS)
            return loss, tape.gradient(loss, query)

        if name == "sampled":
            layer.build()
        return list((tf.function(compute, autograph=False) if graph else compute)())

    keras.utils.set_random_seed(1)
    expected = results(LAYERS[name]())
    keras.utils.set_random_seed(1)
    with keras.RematScope(mode="full"):
        actual = results(LAYERS[name]())
    for got, exact in zip(actual, expected, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "policy"),
    zip(MODELS, itertools.cycle(["mixed_float16", "mixed_bfloat16"]), strict=False),
    indirect=["policy"],
)
def test_layer_with_mixed_precision(name: str, policy: str) -> None:
    """Keras scales the loss by itself for float16 alone."""
    optimizer = None
    if policy == "mixed_bfloat16":
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5))
    model, history = _fit(name, {}, 12, optimizer=optimizer)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert history[-1] < 0.95 * history[0]
