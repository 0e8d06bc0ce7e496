"""Value and gradients of negative_cosine_loss against the float64 truth."""

import functools

import evaluation
import numpy as np
import problems
import pytest
import shuffled_problems
import tensorflow as tf
from shuffled_problems import LOSS, Problem

import fastneg

REFERENCE = fastneg.reference.negative_cosine_loss

OPTIONS = {
    "defaults": {},
    "large scale": {"scale": 500.0},
    "scale 0": {"scale": 0.0},
    "negative scale": {"scale": -3.0},
    "cold": {"t": 0.01},
    "hot": {"t": 40.0},
    "negative temperature": {"t": -1.0},
}


@functools.cache
def _plain(shape: tuple[int, int, int], dtype: str) -> tuple[Problem, shuffled_problems.Result]:
    problem = shuffled_problems.with_everything(shuffled_problems.make(*shape, dtype))
    return problem, shuffled_problems.run(REFERENCE, problem)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", shuffled_problems.SHAPES, ids=str)
def test_shapes(backend: str, shape: tuple[int, int, int], dtype: str) -> None:
    problem, plain = _plain(shape, dtype)
    shuffled_problems.assert_as_accurate(shuffled_problems.run(LOSS, problem), plain, problem)


@pytest.mark.parametrize("mode", ["graph", "unknown_batch", "xla"])
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_modes(backend: str, dtype: str, mode: str) -> None:
    problem, plain = _plain((33, 8, 50), dtype)
    result = shuffled_problems.run(LOSS, problem, mode)
    shuffled_problems.assert_as_accurate(result, plain, problem)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS)
def test_options(backend: str, options: str, dtype: str) -> None:
    problem = shuffled_problems.make(61, 13, 24, dtype).with_options(**OPTIONS[options])
    plain = shuffled_problems.run(REFERENCE, problem)
    shuffled_problems.assert_as_accurate(shuffled_problems.run(LOSS, problem), plain, problem)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("mode", evaluation.MODES)
def test_reference_is_the_truth(mode: str, dtype: str, tolerance: float) -> None:
    problem, _ = _plain((64, 20, 100), dtype)
    result = shuffled_problems.run(REFERENCE, problem, mode)
    for name, actual, exact in zip(
        result._fields, result, shuffled_problems.truth(problem), strict=True
    ):
        np.testing.assert_allclose(
            actual, exact, rtol=0, atol=tolerance * np.max(np.abs(exact)), err_msg=name
        )


@pytest.mark.parametrize("name", ["query", "doc", "scale", "t"])
def test_finite_differences(backend: str, name: str) -> None:
    problem = shuffled_problems.with_everything(shuffled_problems.make(6, 4, 3, "float64"))
    arguments = {
        "query": problem.query,
        "doc": problem.doc,
        "permutations": problem.permutations,
        **problem.options,
    }
    result = shuffled_problems.run(LOSS, problem)
    actual = getattr(result, f"grad_{name}")
    expected = np.zeros(np.shape(arguments[name]))
    for index in np.ndindex(expected.shape):
        step = np.zeros(expected.shape)
        step[index] = 1e-6
        high, low = (
            float(LOSS(**{**arguments, name: arguments[name] + sign * step})) for sign in (1, -1)
        )
        expected[index] = (high - low) / 2e-6
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


def test_published_arithmetic(backend: str) -> None:
    """normalize="batch", from the published steps: probabilities over the rows of the batch."""
    problem = shuffled_problems.make(9, 3, 5, "float64")
    query, doc = problem.query, problem.doc
    cosines = np.sum(query * doc, 1) / np.linalg.norm(query, axis=1) / np.linalg.norm(doc, axis=1)
    for t in (1.0, 0.3):
        scores = np.exp(20 * cosines) / t
        expected = -np.mean(np.log(scores / scores.sum()))
        loss = LOSS(query, doc, permutations=problem.permutations, t=t, normalize="batch")
        np.testing.assert_allclose(loss, expected, rtol=1e-12)


@pytest.mark.parametrize("mode", evaluation.MODES)
def test_gradient_of_published_arithmetic(backend: str, mode: str) -> None:
    problem = shuffled_problems.make(9, 3, 5, "float64").with_options(normalize="batch")
    query = problem.query

    def loss(query: np.ndarray) -> float:
        return float(LOSS(query, problem.doc, normalize="batch"))

    expected = np.zeros(query.shape)
    for index in np.ndindex(query.shape):
        step = np.zeros(query.shape)
        step[index] = 1e-6
        expected[index] = (loss(query + step) - loss(query - step)) / 2e-6

    def compute(query: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(query)
            value = LOSS(query, problem.doc, normalize="batch")
        return tape.gradient(value, query)

    tensor = tf.constant(query)
    actual = evaluation.wrap(compute, mode, {"query": tensor})(query=tensor)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint32, np.int64, np.int32])
def test_integer_types_of_permutations(backend: str, dtype: type) -> None:
    problem = shuffled_problems.make(16, 3, 4)
    expected = LOSS(problem.query, problem.doc, permutations=problem.permutations)
    actual = LOSS(problem.query, problem.doc, permutations=problem.permutations.astype(dtype))
    assert actual == expected


def test_drawn_permutations_are_permutations(backend: str) -> None:
    from fastneg import config

    drawn = (
        config.active_backend()
        .random_permutations(30, tf.constant(11, tf.int64), seed=None)
        .numpy()
    )
    assert drawn.shape == (30, 11)
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(np.arange(11), (30, 1)))
    assert len(np.unique(drawn, axis=0)) == 30


def test_drawn_permutations_are_uniform(backend: str) -> None:
    """Every element is as likely in every place, by a chi-squared test."""
    from fastneg import config

    size, count = 8, 4000
    drawn = (
        config.active_backend()
        .random_permutations(count, tf.constant(size, tf.int64), seed=7)
        .numpy()
    )
    counts = np.zeros((size, size))
    np.add.at(counts, (np.tile(np.arange(size), (count, 1)), drawn), 1)
    chi_squared = np.sum((counts - count / size) ** 2) / (count / size)
    assert 20 < chi_squared < 100  # (size - 1)^2 = 49 degrees of freedom, 5 standard deviations.


def test_seed_repeats_the_sequence(backend: str) -> None:
    problem = shuffled_problems.make(50, 3, 8)

    def sequence() -> list[float]:
        tf.random.set_seed(5)
        return [float(LOSS(problem.query, problem.doc, 3, seed=2)) for _ in range(3)]

    first = sequence()
    assert first == sequence()
    assert len(set(first)) == 3


@pytest.mark.parametrize("jit_compile", [False, True])
def test_permutations_drawn_for_a_batch_of_unknown_size(backend: str, jit_compile: bool) -> None:
    """Where all rows are equal, every candidate has the same score whatever is drawn."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4])] * 2, jit_compile=jit_compile)
    def step(query: tf.Tensor, doc: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(query)
            loss = LOSS(query, doc, num_negatives=3)
        return loss, tape.gradient(loss, query)

    for batch_size in (1, 5, 8):
        rows = tf.ones([batch_size, 4])
        loss, grad = step(rows, rows)
        np.testing.assert_allclose(loss, np.log(4.0), rtol=1e-6)
        np.testing.assert_allclose(grad, np.zeros([batch_size, 4]), atol=1e-5)
