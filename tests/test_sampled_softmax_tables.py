"""Tables that are trained: what their gradients name, and what optimizers make of it.

Clipping and optimizers like Adam square gradients: they need each row's in one piece.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import oracle_sampled_softmax as oracle
import pytest
import tensorflow as tf
from tensorflow.python.distribute.sharded_variable import ShardedVariable

import fastneg

V, D = 20, 8
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(V, D)).astype(np.float32)
BIASES = RNG.normal(size=V).astype(np.float32)
LABELS = [3, 3, 3, 7, 19, 12]
INPUTS = RNG.normal(size=(len(LABELS), D)).astype(np.float32)
SAMPLED = [9, 5, 7, 13]
COUNTS = (0.3, np.full(len(SAMPLED), 0.4, np.float32))
TOUCHED = {*LABELS, *SAMPLED}

# How a table is made of parts, and into how many rows it is cut.
TABLES: dict[str, tuple[Callable[[list[Any]], Any], list[int]]] = {
    "variable": (lambda parts: parts[0], [20]),
    "value of a variable": (lambda parts: tf.convert_to_tensor(parts[0]), [20]),
    "shards": (lambda parts: parts, [7, 7, 6]),
    "one shard": (lambda parts: parts, [20]),
    "concatenation": (lambda parts: tf.concat(parts, 0), [12, 1, 7]),
    "cast concatenation": (lambda parts: tf.cast(tf.concat(parts, 0), tf.float64), [12, 1, 7]),
    "concatenation of products": (lambda parts: 2.0 * tf.concat(parts, 0) / 2.0, [12, 1, 7]),
}


def _cut(values: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(sizes)[:-1])


def _loss(table: Any, biases: Any = None, labels: Any = LABELS) -> tf.Tensor:
    dtype = tf.as_dtype((table[0] if isinstance(table, list) else table).dtype)
    return tf.reduce_mean(
        fastneg.sampled_softmax_loss(
            table,
            biases,
            labels,
            tf.cast(INPUTS, dtype),
            len(SAMPLED),
            V,
            sampled_values=(SAMPLED, *COUNTS),
        )
    )


def _truth(table: np.ndarray, biases: np.ndarray | None = None) -> oracle.Truth:
    return oracle.sampled_softmax(
        table, biases, LABELS, INPUTS, SAMPLED, *COUNTS, upstream=1 / len(LABELS)
    )


def _dense(grad: Any, size: int) -> np.ndarray:
    if not isinstance(grad, tf.IndexedSlices):
        return grad.numpy()
    dense = np.zeros([size, *grad.values.shape[1:]])
    np.add.at(dense, grad.indices.numpy(), grad.values.numpy())
    return dense


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("kind", TABLES)
def test_gradients_name_each_row_once(backend: str, kind: str, mode: str) -> None:
    make, sizes = TABLES[kind]
    parts = [tf.Variable(part) for part in _cut(TABLE, sizes)]
    bias_parts = [tf.Variable(part) for part in _cut(BIASES, sizes)]

    def gradients(labels: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            loss = _loss(make(parts), make(bias_parts), labels)
        return tape.gradient(loss, [*parts, *bias_parts])

    if mode != "eager":
        gradients = tf.function(gradients, autograph=False, jit_compile=mode == "xla")
    grads = gradients(tf.constant(LABELS, tf.int64))

    expected = _truth(TABLE, BIASES)
    for truth, found in (
        (expected.grad_weights, grads[: len(parts)]),
        (expected.grad_biases, grads[len(parts) :]),
    ):
        start = 0
        for grad, exact in zip(found, _cut(truth, sizes), strict=True):
            np.testing.assert_allclose(_dense(grad, len(exact)), exact, rtol=1e-4, atol=1e-6)
            if isinstance(grad, tf.IndexedSlices):
                values = grad.values.numpy().reshape(len(grad.indices), -1)
                used = grad.indices.numpy()[np.any(values != 0, axis=1)].tolist()
                assert len(used) == len(set(used))
                touched = {row - start for row in TOUCHED if start <= row < start + len(exact)}
                assert set(used) == touched
                # Where there are more, they are about rows that are touched, if there are any.
                assert set(grad.indices.numpy().tolist()) <= (touched or {len(exact) - 1})
            start += len(exact)


def test_variables_have_sparse_gradients_inside_xla(reference: str) -> None:
    table = tf.Variable(TABLE)

    @tf.function(jit_compile=True, autograph=False)
    def gradient(table_as_argument: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(table_as_argument)
            loss = _loss(table) + _loss(table_as_argument) + _loss(tf.cast(table, tf.float16))
        grads = tape.gradient(loss, [table, table_as_argument])
        assert all(isinstance(grad, tf.IndexedSlices) for grad in grads)
        return grads

    gradient(tf.constant(TABLE))


class _Descent:
    """The optimizers in float64, on gradients that have all rows."""

    def __init__(self, *, clipnorm: float | None = None, momentum: float | None = None) -> None:
        self.clipnorm, self.momentum = clipnorm, momentum
        self.step, self.first, self.second = 0, {}, {}

    def apply(self, parts: list[np.ndarray], grads: list[np.ndarray]) -> None:
        self.step += 1
        for i, (part, grad) in enumerate(zip(parts, grads, strict=True)):
            if self.clipnorm is not None:
                norm = np.linalg.norm(grad)
                grad = grad * min(1.0, self.clipnorm / norm) if norm > 0 else grad
            first, second = self.first.get(i, 0.0), self.second.get(i, 0.0)
            if self.momentum is not None:
                self.first[i] = self.momentum * first - 0.1 * grad
                part += self.first[i]
                continue
            self.first[i] = 0.9 * first + 0.1 * grad
            self.second[i] = 0.999 * second + 0.001 * grad**2
            rate = 0.1 * np.sqrt(1 - 0.999**self.step) / (1 - 0.9**self.step)
            part -= rate * self.first[i] / (np.sqrt(self.second[i]) + 1e-7)


OPTIMIZERS: dict[str, tuple[Callable[[], Any], dict[str, float]]] = {
    "Adam": (lambda: keras.optimizers.Adam(0.1), {}),
    "Adam, clipnorm": (lambda: keras.optimizers.Adam(0.1, clipnorm=0.01), {"clipnorm": 0.01}),
    "Adam, global_clipnorm": (
        lambda: keras.optimizers.Adam(0.1, global_clipnorm=0.01),
        {"clipnorm": 0.01},
    ),
    "SGD, momentum": (lambda: keras.optimizers.SGD(0.1, momentum=0.9), {"momentum": 0.9}),
    "SGD, clipnorm": (
        lambda: keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.3),
        {"momentum": 0.9, "clipnorm": 0.3},
    ),
    "TensorFlow's Adam": (
        lambda: tf.compat.v1.train.AdamOptimizer(0.1, epsilon=1e-7),
        {},
    ),
}


KINDS = [
    *((name, "variable") for name in OPTIMIZERS),
    *(("Adam, clipnorm", kind) for kind in ("shards", "concatenation")),
]


# What optimizers are given has the same form from all backends.
@pytest.mark.parametrize(
    ("backend", "name", "kind", "jit_compile"),
    [
        *(("native", *kind, jit_compile) for kind in KINDS for jit_compile in (False, True)),
        *(
            (backend, *kind, False)
            for backend in ("numba", "reference")
            for kind in (KINDS[0], KINDS[-2])
        ),
        ("reference", *KINDS[-2], True),
    ],
    indirect=["backend"],
)
def test_training(backend: str, name: str, kind: str, jit_compile: bool) -> None:
    make, sizes = TABLES[kind]
    optimizer_of, options = OPTIMIZERS[name]
    parts = [keras.Variable(part) for part in _cut(TABLE, sizes)]
    variables = [part.value for part in parts]
    optimizer = optimizer_of()
    of_keras = isinstance(optimizer, keras.optimizers.Optimizer)
    if of_keras:
        optimizer.build(parts)
    else:  # Makes its variables.
        zeros = [(tf.zeros_like(variable), variable) for variable in variables]
        tf.compat.v1.train.AdamOptimizer.apply_gradients(optimizer, zeros)
        for power in optimizer._get_beta_accumulators():
            power.assign({0: 0.9, 1: 0.999}[int(power.numpy() > 0.9)])

    @tf.function(autograph=False, jit_compile=jit_compile)
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = _loss(make(parts if kind != "concatenation" else variables))
        grads = tape.gradient(loss, variables)
        if of_keras:
            optimizer.apply(grads, parts)
        else:
            optimizer.apply_gradients(zip(grads, variables, strict=True))

    expected = TABLE.astype(np.float64)
    descent = _Descent(**options)
    for _ in range(3):
        step()
        descent.apply(_cut(expected, sizes), _cut(_truth(expected).grad_weights, sizes))
    actual = np.concatenate([variable.numpy() for variable in variables])
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [[7, 7, 6], [20], [2, 15, 3]])
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_sharded_variables(backend: str, mode: str, sizes: list[int]) -> None:
    """As `tf.distribute.experimental.ParameterServerStrategy` makes them, evenly cut or not."""
    table = ShardedVariable([tf.Variable(part) for part in _cut(TABLE, sizes)])
    biases = ShardedVariable([tf.Variable(part) for part in _cut(BIASES, sizes)])

    def gradients() -> Any:
        with tf.GradientTape() as tape:
            loss = _loss(table, biases)
        return loss, tape.gradient(loss, [*table.variables, *biases.variables])

    if mode != "eager":
        gradients = tf.function(gradients, autograph=False, jit_compile=mode == "xla")
    loss, grads = gradients()
    expected = _truth(TABLE, BIASES)
    np.testing.assert_allclose(loss, expected.loss.mean(), rtol=1e-5)
    exact = [*_cut(expected.grad_weights, sizes), *_cut(expected.grad_biases, sizes)]
    for grad, part in zip(grads, exact, strict=True):
        assert isinstance(grad, tf.IndexedSlices)
        np.testing.assert_allclose(_dense(grad, len(part)), part, rtol=1e-4, atol=1e-6)


def test_sharded_variables_of_another_size(reference: str) -> None:
    table = ShardedVariable([tf.Variable(part) for part in _cut(TABLE[1:], [7, 7, 5])])
    with pytest.raises(
        ValueError, match=r"`weights` must have `num_classes`, 20, rows\. Received: \[7, 7, 5\]"
    ):
        _loss(table)
