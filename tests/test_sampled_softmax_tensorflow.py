"""Side by side with tf.nn.sampled_softmax_loss, and what TensorFlow can do with the loss."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import sampled_problems
import tensorflow as tf

import fastneg

LOSS = fastneg.sampled_softmax_loss


def _shards(values: np.ndarray, count: int) -> list[tf.Variable]:
    return [tf.Variable(shard) for shard in np.array_split(values, count)]


def _dense(grad: Any) -> np.ndarray:
    return tf.convert_to_tensor(grad).numpy()


# Half of all combinations, in which there is each one of any four of the arguments.
COMBINATIONS = [
    (
        ("eager", "graph")[graph],
        (1, 3)[many],
        biases,
        remove_accidental_hits,
        (1, 4)[sharded],
    )
    for graph, many, biases, remove_accidental_hits, sharded in itertools.product(
        (False, True), repeat=5
    )
    if (graph + many + biases + remove_accidental_hits + sharded) % 2 == 0
]


@pytest.mark.parametrize(
    ("mode", "num_true", "biases", "remove_accidental_hits", "num_shards"), COMBINATIONS
)
def test_combinations(
    backend: str,
    num_shards: int,
    remove_accidental_hits: bool,
    biases: bool,
    num_true: int,
    mode: str,
) -> None:
    problem = sampled_problems.make(40, 21, 13, 62, num_true)
    table = _shards(problem.weights, num_shards)
    bias_table = _shards(problem.biases if biases else np.zeros(62, np.float32), num_shards)
    inputs = tf.Variable(problem.inputs)
    samples = tuple(
        tf.constant(value)
        for value in (problem.sampled, problem.true_expected_count, problem.sampled_expected_count)
    )

    def step(loss: Any, bias: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(
                table,
                bias,
                problem.labels,
                inputs,
                num_sampled=21,
                num_classes=62,
                num_true=num_true,
                sampled_values=samples,
                remove_accidental_hits=remove_accidental_hits,
            )
        sources = [*table, inputs, *(bias_table if biases else [])]
        return value, tape.gradient(value, sources)

    wrap = tf.function if mode == "graph" else lambda function: function
    value, grads = wrap(lambda: step(LOSS, bias_table if biases else None))()
    plain_value, plain_grads = step(tf.nn.sampled_softmax_loss, bias_table)
    np.testing.assert_allclose(value, plain_value, rtol=1e-5, atol=1e-5)
    for grad, plain in zip(grads, plain_grads, strict=True):
        assert isinstance(grad, tf.IndexedSlices) == isinstance(plain, tf.IndexedSlices)
        np.testing.assert_allclose(_dense(grad), _dense(plain), rtol=1e-4, atol=1e-5)


def _logits_by_hand(
    problem: sampled_problems.Problem, *, remove_accidental_hits: bool
) -> tuple[np.ndarray, np.ndarray]:
    """All logits [B, num_true + S] and targets, as TensorFlow's own test of its loss forms them."""
    weights, biases, inputs = problem.weights, problem.biases, problem.inputs
    true = np.einsum("bd,btd->bt", inputs, weights[problem.labels]) + biases[problem.labels]
    sampled = inputs @ weights[problem.sampled].T + biases[problem.sampled]
    true = true - np.log(problem.true_expected_count)
    sampled = sampled - np.log(problem.sampled_expected_count)
    if remove_accidental_hits:
        hits = (problem.labels[:, :, None] == problem.sampled).any(axis=1)
        sampled = np.where(hits, np.finfo(np.float32).min, sampled)
    targets = np.concatenate(
        [np.full_like(true, 1 / problem.num_true), np.zeros_like(sampled)], axis=1
    )
    return np.concatenate([true, sampled], axis=1), targets


@pytest.mark.parametrize("num_true", range(1, 5))
@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("remove_accidental_hits", [False, True])
def test_softmax_over_logits_formed_by_hand(
    backend: str, remove_accidental_hits: bool, num_shards: int, num_true: int
) -> None:
    """Small sizes, the same count for every class, labels among the samples."""
    rng = np.random.default_rng(num_true)
    batch_size, num_classes, dim = 3, 7, 10
    problem = sampled_problems.Problem(
        rng.normal(size=(num_classes, dim)),
        rng.normal(size=num_classes),
        rng.integers(0, num_classes, (batch_size, num_true)),
        rng.normal(size=(batch_size, dim)),
        np.array([1, 0, 2, 3]),
        np.full((batch_size, 1), 0.5),
        np.full(4, 0.5),
    )
    logits, targets = _logits_by_hand(problem, remove_accidental_hits=remove_accidental_hits)
    highest = logits.max(axis=1, keepdims=True)
    log_softmax = logits - highest
    log_softmax -= np.log(np.exp(log_softmax).sum(axis=1, keepdims=True))
    expected = -(targets * log_softmax).sum(axis=1)
    losses = LOSS(
        weights=_shards(problem.weights, num_shards),
        biases=_shards(problem.biases, num_shards),
        labels=problem.labels,
        inputs=problem.inputs,
        num_sampled=4,
        num_classes=num_classes,
        num_true=num_true,
        sampled_values=(
            problem.sampled,
            problem.true_expected_count,
            problem.sampled_expected_count,
        ),
        remove_accidental_hits=remove_accidental_hits,
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-10)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("kind", ["variable", "keras", "tensor", "shards"])
def test_each_touched_row_once(fused_backend: str, kind: str, mode: str) -> None:
    problem = sampled_problems.make(50, 12, 5, 30)
    samples = (problem.sampled, problem.true_expected_count, problem.sampled_expected_count)
    if kind == "shards":
        table = _shards(problem.weights, 3)
        sources = table
    elif kind == "keras":
        table = keras.Variable(problem.weights)
        sources = [table.value]
    else:
        table = (tf.Variable if kind == "variable" else tf.constant)(problem.weights)
        sources = [table]

    def gradient() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(sources)
            loss = LOSS(table, None, problem.labels, problem.inputs, 12, 30, 1, samples)
        return tape.gradient(loss, sources)

    grads = (tf.function(gradient) if mode == "graph" else gradient)()
    starts = np.cumsum([0, *(source.shape[0] for source in sources)])
    touched = []
    for start, grad in zip(starts, grads, strict=False):
        assert isinstance(grad, tf.IndexedSlices)
        touched += (grad.indices.numpy() + start).tolist()
    assert sorted(touched) == sorted({*problem.sampled.tolist(), *problem.labels[:, 0].tolist()})


def test_reading_the_table_does_not_copy_it(backend: str) -> None:
    """A graph that trains touches the variable by gathers alone, never by reading all of it."""
    table = tf.Variable(tf.zeros([1000, 4]))

    @tf.function
    def gradient() -> Any:
        with tf.GradientTape() as tape:
            loss = LOSS(table, None, tf.zeros([8, 1], tf.int64), tf.ones([8, 4]), 5, 1000)
        return tape.gradient(loss, table)

    nodes = [node.op for node in gradient.get_concrete_function().graph.as_graph_def().node]
    assert "ResourceGather" in nodes
    assert "ReadVariableOp" not in nodes


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_default_sampler(backend: str, mode: str) -> None:
    """Drawn by TensorFlow's log-uniform sampler: with the same seed, the same losses as there."""
    problem = sampled_problems.make(16, 1, 6, 300)

    def losses(loss: Any) -> Any:
        return loss(
            problem.weights, problem.biases, problem.labels, problem.inputs, 20, 300, seed=7
        )

    wrap = tf.function if mode == "graph" else lambda function: function
    tf.random.set_seed(3)
    function = wrap(lambda: losses(LOSS))
    first, second = function(), function()
    tf.random.set_seed(3)
    function = wrap(lambda: losses(tf.nn.sampled_softmax_loss))
    np.testing.assert_allclose([first, second], [function(), function()], rtol=1e-5)
    assert np.any(first != second)


def test_sampler_in_xla() -> None:
    """XLA has no operation for it; what is done instead has the same distribution."""
    from fastneg.arguments.log_uniform_sampler import log_uniform_sample

    num_classes, num_sampled, rounds = 30, 6, 3000
    classes = tf.range(num_classes, dtype=tf.int64)[:, tf.newaxis]

    @tf.function(jit_compile=True)
    def draw() -> Any:
        return log_uniform_sample(classes, num_sampled, num_classes, None)

    counts, expected, given = np.zeros(num_classes), np.zeros(num_classes), 0.0
    for _ in range(rounds):
        sampled, true_count, sampled_count = draw()
        assert len(set(sampled.numpy().tolist())) == num_sampled
        np.testing.assert_allclose(sampled_count, true_count.numpy()[sampled.numpy(), 0])
        counts[sampled.numpy()] += 1
        expected += true_count.numpy()[:, 0]
        given += sampled_count.numpy().sum()
    plain, plain_expected = np.zeros(num_classes), np.zeros(num_classes)
    for seed in range(rounds):
        sampled, true_count, _ = tf.random.log_uniform_candidate_sampler(
            classes, 1, num_sampled, True, num_classes, seed=seed
        )
        plain[sampled.numpy()] += 1
        plain_expected += true_count.numpy()[:, 0]
    # Frequencies of a class differ by what chance allows, five standard deviations.
    spread = 5 * np.sqrt(np.maximum(plain, 20)) * np.sqrt(2)
    assert np.all(np.abs(counts - plain) < spread)
    np.testing.assert_allclose(expected / rounds, plain_expected / rounds, rtol=0.05)


@pytest.mark.parametrize(("num_sampled", "num_classes"), [(5, 1000), (50, 50), (1, 1)])
def test_training_step_in_xla(num_sampled: int, num_classes: int) -> None:
    table = tf.Variable(tf.random.normal([num_classes, 8], seed=1))

    @tf.function(jit_compile=True)
    def step(inputs: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            loss = LOSS(table, None, tf.zeros([4], tf.int64), inputs, num_sampled, num_classes)
        return loss, tf.convert_to_tensor(tape.gradient(loss, table))

    loss, grad = step(tf.random.normal([4, 8], seed=2))
    assert np.all(np.isfinite(loss))
    assert np.all(np.isfinite(grad))


BAD_IDS = ([-1, 2], [5, 0])


def _loss_in_xla() -> Any:
    @tf.function(jit_compile=True)
    def loss(labels: tf.Tensor, sampled: tf.Tensor) -> tf.Tensor:
        samples = (sampled, tf.ones([2, 1]), tf.ones([2]))
        return LOSS(tf.ones([5, 3]), None, labels, tf.ones([2, 3]), 2, 5, 1, samples)

    return loss


def test_the_composition_inside_xla_cannot_raise_so_the_losses_are_nan(reference: str) -> None:
    loss, good = _loss_in_xla(), tf.constant([1, 2], tf.int64)
    assert np.all(np.isfinite(loss(good, good)))
    for bad in BAD_IDS:
        assert np.all(np.isnan(loss(tf.constant(bad, tf.int64), good)))
        assert np.all(np.isnan(loss(good, tf.constant(bad, tf.int64))))


@pytest.mark.parametrize("bad", BAD_IDS)
def test_the_kernel_inside_xla_raises(native_in_xla: str, bad: list[int]) -> None:
    loss, good = _loss_in_xla(), tf.constant([1, 2], tf.int64)
    assert np.all(np.isfinite(loss(good, good)))
    ids = r"must be in 0 \.\. 4, as `num_classes` says\. Received: (-1|5)\."
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"`labels` {ids}"):
        loss(tf.constant(bad, tf.int64), good)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"`sampled_values\[0\]` {ids}"):
        loss(good, tf.constant(bad, tf.int64))


def test_training_with_keras_optimizer(fused_backend: str) -> None:
    """A few steps lead to the same table as with plain TensorFlow."""
    tables = []
    for loss in (LOSS, tf.nn.sampled_softmax_loss):
        rng = np.random.default_rng(0)
        table = keras.Variable(rng.normal(size=(40, 6)).astype(np.float32))
        optimizer = keras.optimizers.SGD(0.5)
        for _, labels in zip(range(5), itertools.repeat(np.arange(10)[:, None]), strict=False):
            inputs = rng.normal(size=(10, 6)).astype(np.float32)
            samples = (np.arange(5, 25), np.full((10, 1), 0.3, np.float32), np.full(20, 0.4, "f"))
            with tf.GradientTape() as tape:
                value = tf.reduce_mean(
                    loss(table.value, tf.zeros([40]), labels, inputs, 20, 40, 1, samples)
                )
            optimizer.apply([tape.gradient(value, table.value)], [table])
        tables.append(table.numpy())
    np.testing.assert_allclose(*tables, rtol=1e-4, atol=1e-5)
