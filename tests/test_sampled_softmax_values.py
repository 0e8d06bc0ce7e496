"""Values and gradients against the float64 truth, over shapes, dtypes, options and modes."""

import dataclasses
import functools

import numpy as np
import problems
import pytest
import sampled_problems
import tensorflow as tf

import fastneg

LOSS = fastneg.sampled_softmax_loss

OPTIONS = {
    "defaults": {},
    "no biases": {"biases": False},
    "hits stay": {"remove_accidental_hits": False},
    "upstream": {"upstream": True},
    "upstream, no biases": {"upstream": True, "biases": False},
    "large logits": {"scale": 20.0},
    "small logits": {"scale": 1e-3},
}


@functools.cache
def _problem(shape: tuple[int, ...], dtype: str, options: str) -> sampled_problems.Problem:
    return sampled_problems.make(*shape, dtype=dtype, **OPTIONS[options])


@functools.cache
def _expected(shape: tuple[int, ...], dtype: str, options: str) -> tuple[object, object]:
    problem = _problem(shape, dtype, options)
    plain = sampled_problems.run(fastneg.reference.sampled_softmax_loss, problem)
    return plain, sampled_problems.truth(problem)


def _assert_accurate(shape: tuple[int, ...], dtype: str, options: str, mode: str) -> None:
    problem = _problem(shape, dtype, options)
    plain, truth = _expected(shape, dtype, options)
    result = sampled_problems.run(LOSS, problem, mode)
    sampled_problems.assert_as_accurate(result, plain, truth, problem)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("shape", sampled_problems.SHAPES, ids=str)
def test_shapes(backend: str, shape: tuple[int, ...], dtype: str) -> None:
    _assert_accurate(shape, dtype, "upstream", "eager")


@pytest.mark.parametrize("mode", ["graph", "unknown_batch"])
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_graphs(backend: str, dtype: str, mode: str) -> None:
    _assert_accurate((33, 70, 50, 90, 3), dtype, "defaults", mode)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_true", [1, 2])
@pytest.mark.parametrize("options", OPTIONS)
def test_options(backend: str, options: str, num_true: int, dtype: str, mode: str) -> None:
    _assert_accurate((70, 90, 24, 200, num_true), dtype, options, mode)


@pytest.mark.parametrize(
    ("dtype", "mode", "tolerance"),
    [
        ("float16", "eager", 2e-3),
        ("bfloat16", "xla", 2e-2),
        ("float32", "eager", 3e-5),
        ("float64", "eager", 1e-12),
        ("float64", "graph", 1e-12),
        ("float64", "unknown_batch", 1e-12),
        ("float64", "xla", 1e-12),
    ],
)
@pytest.mark.parametrize("options", ["defaults", "no biases", "hits stay", "upstream"])
def test_reference_is_the_truth(options: str, dtype: str, mode: str, tolerance: float) -> None:
    """The composition itself is correct to the precision of its dtype, eagerly and inside XLA.

    There bfloat16 stands for float32 too, in which it is computed: XLA takes seconds to compile.
    """
    shape = (70, 90, 24, 200, 2)
    _, truth = _expected(shape, dtype, options)
    result = sampled_problems.run(
        fastneg.reference.sampled_softmax_loss, _problem(shape, dtype, options), mode
    )
    for name, actual, exact in zip(result._fields, result, truth, strict=True):
        if actual is None:
            continue
        np.testing.assert_allclose(
            actual.astype(np.float64),
            exact,
            rtol=0,
            atol=tolerance * np.max(np.abs(exact)),
            err_msg=name,
        )


def test_repeated_samples(backend: str) -> None:
    """Legal; the last of equal samples is the accidental hit, the others stay."""
    problem = sampled_problems.make(20, 30, 6, 8, 2, "float64", upstream=True)
    rng = np.random.default_rng(0)
    problem = dataclasses.replace(
        problem,
        sampled=rng.integers(0, 8, 30),
        sampled_expected_count=rng.random(30) + 0.1,
    )
    truth = sampled_problems.truth(problem)
    for mode in ("eager", "graph", "xla"):
        result = sampled_problems.run(LOSS, problem, mode)
        for name, actual, exact in zip(result._fields, result, truth, strict=True):
            np.testing.assert_allclose(actual, exact, rtol=1e-10, atol=1e-12, err_msg=name)


def test_small_losses_keep_their_digits(fused_backend: str) -> None:
    """A label that wins by far: log1p of what is left, not a difference of large numbers."""
    gap = np.array([5.0, 15.0, 20.0, 40.0], np.float32)
    table = np.array([[1.0], [0.0]], np.float32)
    losses = LOSS(
        table, None, np.zeros([4, 1], np.int64), gap[:, None], 1, 2, 1, ([1], [[1.0]] * 4, [1.0])
    )
    np.testing.assert_allclose(losses, np.log1p(np.exp(-gap.astype(np.float64))), rtol=1e-5)


def test_labels_as_a_vector(backend: str) -> None:
    problem = sampled_problems.make(9, 4, 5, 30)
    column = sampled_problems.run(LOSS, problem)
    samples = (
        problem.sampled,
        problem.true_expected_count[:, 0],
        problem.sampled_expected_count,
    )
    for labels in (problem.labels[:, 0], problem.labels[:, 0].astype(np.int32)):
        losses = LOSS(
            problem.weights, problem.biases, labels, problem.inputs, 4, 30, sampled_values=samples
        )
        np.testing.assert_array_equal(losses, column.loss)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(
    ("table", "inputs"),
    [
        ("float32", "float16"),
        ("float16", "float32"),
        ("float32", "float64"),
        ("bfloat16", "float32"),
    ],
)
def test_table_of_another_dtype(backend: str, table: str, inputs: str, mode: str) -> None:
    """Each gradient comes back in the dtype of what it belongs to."""
    problem = sampled_problems.make(20, 9, 7, 50, dtype=inputs, upstream=True)
    problem = dataclasses.replace(problem, weights=problem.weights.astype(problems.DTYPES[table]))
    result = sampled_problems.run(LOSS, problem, mode)
    assert result.loss.dtype == problems.compute_dtype(problem.inputs.dtype)
    assert result.grad_weights.dtype == problem.weights.dtype
    assert result.grad_inputs.dtype == problem.inputs.dtype
    truth = sampled_problems.truth(problem)
    for name, actual, exact in zip(result._fields, result, truth, strict=True):
        tolerance = 0.02 if actual.dtype.itemsize == 2 else 2e-5
        np.testing.assert_allclose(
            actual.astype(np.float64), exact, rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("mode", ["eager", "graph", "unknown_batch"])
def test_empty_batch(backend: str, mode: str) -> None:
    problem = sampled_problems.make(3, 4, 5, 30)
    empty = {
        name: getattr(problem, name)[:0] for name in ("labels", "inputs", "true_expected_count")
    }
    result = sampled_problems.run(LOSS, dataclasses.replace(problem, **empty), mode)
    assert result.loss.shape == (0,)
    assert result.grad_inputs.shape == (0, 5)
    np.testing.assert_array_equal(result.grad_weights, np.zeros((30, 5)))
    np.testing.assert_array_equal(result.grad_biases, np.zeros(30))


def test_width_zero(backend: str) -> None:
    """Without dimensions only biases and counts are left."""
    losses = LOSS(
        tf.zeros([4, 0]),
        tf.constant([1.0, 2.0, 3.0, 4.0]),
        [[0]],
        tf.zeros([1, 0]),
        2,
        4,
        1,
        ([1, 2], [[1.0]], [1.0, 1.0]),
    )
    np.testing.assert_allclose(losses, np.log([1 + np.e + np.e**2]), rtol=1e-6)
