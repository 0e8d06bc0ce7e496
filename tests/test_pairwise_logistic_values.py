"""Value and gradients against the float64 truth, over sizes, dtypes, options and modes."""

import functools

import numpy as np
import pairwise_problems as problems
import pytest
import tensorflow as tf

import fastneg

LOSS = fastneg.pairwise_loss

# (batch size, number of labels, 0 for all different): pairs one by one, power series, and both.
SIZES = ((2, 2), (3, 0), (17, 2), (40, 4), (130, 0), (257, 2), (600, 5), (1500, 2), (1100, 0))

OPTIONS = {
    "margin": {"margin": 0.7},
    "negative margin": {"margin": -3.0},
    "huge margin": {"margin": 200.0},
    "temperature": {"temperature": 0.3},
    "small temperature": {"temperature": 0.01},
    "large temperature": {"temperature": 50.0},
    "negative temperature": {"temperature": -0.8},
}

LABELS = {
    "bool": lambda labels: labels > 1,
    "int8": lambda labels: labels.astype(np.int8) - 2,
    "uint8": lambda labels: labels.astype(np.uint8) * 80,
    "int16": lambda labels: (labels.astype(np.int16) - 2) * 10000,
    "uint16": lambda labels: labels.astype(np.uint16) * 20000,
    "int32": lambda labels: (labels.astype(np.int32) - 2) * 7,
    "uint32": lambda labels: labels.astype(np.uint32) << np.uint32(30),
    "int64": lambda labels: labels.astype(np.int64) + np.int64(2**62),
    "int64 extremes": lambda labels: np.where(labels > 1, np.iinfo(np.int64).min, 2**63 - 1),
    "uint64": lambda labels: np.uint64(2**64 - 1) - labels.astype(np.uint64),
    "float16": lambda labels: (labels - 2).astype(np.float16),
    "bfloat16": lambda labels: (labels - 2).astype(problems.DTYPES["bfloat16"]),
    "float64": lambda labels: np.where(labels > 1, 1e-300, -1e-300),
    "signed zeros": lambda labels: np.where(labels > 1, 0.0, -0.0),
    "infinite": lambda labels: np.where(labels > 2, np.inf, np.where(labels > 1, 3.0, -np.inf)),
    "column": lambda labels: labels[:, None],
    "NaN": lambda labels: np.where(labels == 2, np.nan, labels),
    "one of each": lambda labels: np.arange(len(labels)),
}


_CACHE: dict[object, tuple[problems.Result, object]] = {}


def _assert_accurate(key: object, problem: problems.Problem, mode: str) -> None:
    if key not in _CACHE:
        plain = problems.run(fastneg.reference.pairwise_loss, problem)
        _CACHE[key] = plain, problems.truth(problem)
    plain, truth = _CACHE[key]
    problems.assert_as_accurate(problems.run(LOSS, problem, mode), plain, truth)


@functools.cache
def _of_size(size: tuple[int, int], dtype: str, everything: bool) -> problems.Problem:
    problem = problems.make(size[0], dtype, num_labels=size[1])
    return problems.with_everything(problem) if everything else problem


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(backend: str, size: tuple[int, int], dtype: str, everything: bool) -> None:
    problem = _of_size(size, dtype, everything)
    _assert_accurate(("size", size, dtype, everything), problem, "eager")


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [("graph", "float32"), *(("unknown_batch", dtype) for dtype in problems.DTYPES)],
)
@pytest.mark.parametrize("size", [(40, 4), (600, 5)], ids=str)
def test_graphs(backend: str, size: tuple[int, int], dtype: str, mode: str) -> None:
    _assert_accurate(("size", size, dtype, True), _of_size(size, dtype, True), mode)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS)
def test_options(backend: str, options: str, dtype: str) -> None:
    problem = problems.make(700, dtype, num_labels=3).with_options(**OPTIONS[options])
    _assert_accurate(("options", options, dtype), problem, "eager")


@pytest.mark.parametrize("labels", LABELS)
def test_labels(backend: str, labels: str) -> None:
    problem = problems.make(300, num_labels=5)
    converted = LABELS[labels](problem.labels)
    problem = problems.Problem(converted, problem.logits, {})
    _assert_accurate(("labels", labels), problem, "eager")


@pytest.mark.parametrize("scale", [0.0, 0.01, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [(40, 4), (900, 2)], ids=str)
def test_scales(backend: str, size: tuple[int, int], dtype: str, scale: float) -> None:
    problem = problems.make(size[0], dtype, num_labels=size[1], scale=scale)
    _assert_accurate(("scale", size, dtype, scale), problem, "eager")


@pytest.mark.parametrize("sessions", [1, 2, 50, 400, 100000])
@pytest.mark.parametrize("spread", [1, 2**40 + 12345])
def test_sessions(backend: str, sessions: int, spread: int) -> None:
    problem = problems.with_everything(problems.make(800, num_labels=3), sessions)
    ids = problem.options["session_ids"].astype(np.int64) * spread
    _assert_accurate(("sessions", sessions, spread), problem.with_options(session_ids=ids), "eager")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_session_ids_of_every_dtype(backend: str, dtype: str) -> None:
    problem = problems.make(60, num_labels=3)
    ids = np.random.default_rng(0).integers(0, 5, 60)
    largest = np.iinfo(dtype).max
    expected = LOSS(problem.labels, problem.logits, ids)
    actual = LOSS(problem.labels, problem.logits, (largest - ids.astype(dtype)).astype(dtype))
    np.testing.assert_array_equal(actual, expected)


def test_columns_are_vectors(backend: str) -> None:
    problem = problems.with_everything(problems.make(50, num_labels=3))
    expected = problems.run(LOSS, problem)
    options = {
        name: value[:, None] if np.ndim(value) else value for name, value in problem.options.items()
    }
    columns = problems.Problem(problem.labels[:, None], problem.logits[:, None], options)
    for mode in ("eager", "graph", "unknown_batch"):
        result = problems.run(LOSS, columns, mode)
        assert result.grad_logits.shape == result.grad_weights.shape == (50, 1)
        for name, actual, vector in zip(expected._fields, result, expected, strict=True):
            np.testing.assert_allclose(actual.reshape(vector.shape), vector, 1e-6, 1e-8, name)


@pytest.mark.parametrize(
    ("dtype", "mode", "tolerance"),
    [
        ("float16", "eager", 1e-3),
        ("bfloat16", "xla", 1e-2),
        ("float32", "eager", 2e-5),
        ("float64", "eager", 1e-12),
        ("float64", "graph", 1e-12),
        ("float64", "unknown_batch", 1e-12),
        ("float64", "xla", 1e-12),
    ],
)
def test_reference_is_the_truth(dtype: str, mode: str, tolerance: float) -> None:
    """The composition itself is correct to the precision of its dtype, eagerly and inside XLA.

    There bfloat16 stands for float32 too, in which it is computed: XLA takes seconds to compile.
    """
    problem = _of_size((257, 2), dtype, True)
    truth = problems.truth(problem)
    result = problems.run(fastneg.reference.pairwise_loss, problem, mode)
    for name, actual in result._asdict().items():
        exact = getattr(truth, name)
        allowed = tolerance * np.max(np.abs(exact))
        np.testing.assert_allclose(actual.astype(np.float64), exact, 0, allowed, err_msg=name)


def test_xla_with_unknown_batch() -> None:
    problem = problems.with_everything(problems.make(90, num_labels=4))
    options = problem.options

    @tf.function(
        jit_compile=True,
        autograph=False,
        input_signature=[
            tf.TensorSpec([None]),
            tf.TensorSpec([None]),
            tf.TensorSpec([None], tf.int64),
        ],
    )
    def gradient(labels: tf.Tensor, logits: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = LOSS(labels, logits, ids, temperature=0.7)
        return tape.gradient(loss, logits)

    ids = options["session_ids"]
    result = gradient(problem.labels, problem.logits, tf.constant(ids, tf.int64))
    expected = problems.truth(
        problems.Problem(
            problem.labels, problem.logits, {"session_ids": ids, "temperature": np.float32(0.7)}
        )
    )
    np.testing.assert_allclose(result, expected.grad_logits, rtol=1e-4, atol=1e-7)


def test_the_published_function() -> None:
    """Its arithmetic: pairs' differences masked, sigmoid cross entropy against ones, mean."""
    problem = problems.make(200, num_labels=3)
    differences = problem.logits[:, None] - problem.logits[None, :]
    chosen = differences[problem.labels[:, None] - problem.labels[None, :] > 0]
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(np.ones_like(chosen), chosen)
    expected = tf.reduce_mean(tf.cast(entropy, tf.float64))
    np.testing.assert_allclose(LOSS(problem.labels, problem.logits), expected, rtol=1e-6)


@pytest.mark.parametrize("weights", [2.5, np.float32(2.5), np.array(2.5), tf.constant(2.5), -1])
def test_number_as_weight_scales_the_loss(backend: str, weights: object) -> None:
    problem = problems.make(20)
    plain = problems.run(LOSS, problem)
    result = problems.run(lambda **arguments: LOSS(weights=weights, **arguments), problem)
    factor = float(weights)
    np.testing.assert_allclose(result.loss, factor * plain.loss, rtol=1e-6)
    np.testing.assert_allclose(
        result.grad_logits, factor * plain.grad_logits, rtol=1e-5, atol=1e-7 * abs(factor)
    )


def test_gradient_of_a_scalar_weight(backend: str) -> None:
    problem = problems.make(20)
    weight = tf.Variable(2.0)
    with tf.GradientTape() as tape:
        loss = LOSS(problem.labels, problem.logits, weights=weight)
    np.testing.assert_allclose(tape.gradient(loss, weight), loss / 2.0, rtol=1e-6)


def test_offset_of_the_logits_costs_no_digits(backend: str) -> None:
    """Logits that differ in their last bits only; sessions with offsets of their own."""
    rng = np.random.default_rng(0)
    ids = np.repeat([0, 1], 500)
    steps = rng.integers(-8, 9, 1000) / 8.0
    logits = (np.where(ids == 0, 2.0**20, -(2.0**19)) + steps).astype(np.float32)
    labels = rng.integers(0, 2, 1000)
    problem = problems.Problem(labels, logits, {"session_ids": ids})
    shifted = problems.Problem(labels, steps.astype(np.float32), {"session_ids": ids})
    truth = problems.truth(shifted)
    for name, actual in problems.run(LOSS, problem)._asdict().items():
        exact = getattr(truth, name)
        if actual is not None:
            np.testing.assert_allclose(actual, exact, 1e-5, 1e-5 * np.abs(exact).max(), name)


def test_more_pairs_than_int32_counts(backend: str) -> None:
    """2^32 pairs with a loss of log 2 each."""
    if backend == "reference":
        pytest.skip("The reference has a tensor for every pair.")
    labels = np.repeat([0, 1], 1 << 16)
    logits = tf.Variable(np.zeros(1 << 17, np.float32))
    with tf.GradientTape() as tape:
        loss = LOSS(labels, logits)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    expected = np.where(labels > 0, -1, 1) / 2.0**17
    np.testing.assert_allclose(tape.gradient(loss, logits), expected, rtol=1e-6)
