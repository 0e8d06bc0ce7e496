"""Values and gradients of the in-batch softmax loss, in all modes, against the float64 truth."""

import itertools
from collections.abc import Sequence
from typing import Any

import in_batch_problems
import numpy as np
import pytest
import tensorflow as tf
from in_batch_problems import LOSS, SHAPES, VARIANTS

import fastneg

# numba has no such loss.
BACKENDS = ("native", "reference")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> object:
    """Each backend that has the loss."""
    return request.getfixturevalue(request.param)


# In which the composition is compiled for XLA: every option is in one of these.
IN_XLA = ("positives", "probabilities", "smoothing, re-weighted", "refined", "two ways, decoupled")


# The last step of plain TensorFlow, a mean or none, is the same in all modes.
@pytest.mark.parametrize(
    ("variant", "mode", "reduction"),
    [
        *((variant, "eager", "mean") for variant in VARIANTS),
        *((variant, "unknown_batch", "none") for variant in VARIANTS),
        *((variant, "xla", "none") for variant in IN_XLA),
    ],
)
def test_the_reference_is_the_formula(
    reference: str, mode: str, variant: str, reduction: str
) -> None:
    problem = in_batch_problems.make(9, 14, 5, "float64")
    problem = in_batch_problems.variant(variant, problem, reduction)
    if mode == "unknown_batch" and "sample_weight" not in problem.options:
        problem = problem.with_options(sample_weight=np.ones(9))
    result, exact = in_batch_problems.run(LOSS, problem, mode), in_batch_problems.truth(problem)
    for name, actual, expected in zip(result._fields, result, exact, strict=True):
        if actual is not None:
            np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-12, err_msg=name)


def _taking_turns(choices: Sequence[Any], number: int) -> list[tuple[str, Any]]:
    """Each variant with `number` of the choices, each choice with as many variants as others."""
    turn = itertools.cycle(choices)
    return [(variant, next(turn)) for variant in VARIANTS for _ in range(number)]


@pytest.mark.parametrize(
    ("variant", "shape"),
    [*((variant, SHAPES[0]) for variant in VARIANTS), *_taking_turns(SHAPES[1:], 4)],
    ids=str,
)
def test_shapes(native: str, shape: tuple[int, int, int], variant: str) -> None:
    _check(in_batch_problems.variant(variant, in_batch_problems.make(*shape)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(("variant", "reduction"), _taking_turns(["mean", "none"], 1))
def test_dtypes(native: str, dtype: str, variant: str, reduction: str) -> None:
    made = in_batch_problems.make(33, 50, 20, dtype)
    _check(in_batch_problems.variant(variant, made, reduction))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("mode", "reduction"), [("graph", "sum"), ("unknown_batch", "none")])
def test_modes(native: str, mode: str, variant: str, reduction: str) -> None:
    made = in_batch_problems.make(13, 20, 7)
    problem = in_batch_problems.variant(variant, made, reduction)
    if mode == "unknown_batch" and "sample_weight" not in problem.options:
        problem = problem.with_options(sample_weight=np.ones(13, np.float32))
    _check(problem, mode)


@pytest.mark.parametrize(("variant", "reduction"), _taking_turns(["mean", "none"], 1))
def test_custom_calls(native_in_xla: str, variant: str, reduction: str) -> None:
    problem = in_batch_problems.variant(variant, in_batch_problems.make(13, 20, 7), reduction)
    _check(problem, "xla")


def _check(problem: in_batch_problems.Problem, mode: str = "eager") -> None:
    result = in_batch_problems.run(LOSS, problem, mode)
    plain = in_batch_problems.run(fastneg.reference.in_batch_softmax_loss, problem)
    in_batch_problems.assert_as_accurate(result, plain, problem)


def test_numbers_are_tensors(backend: str) -> None:
    problem = in_batch_problems.make(9, 12, 5)
    options = {"temperature": 0.5, "margin": 0.2, "t": 1.1}
    numbers = LOSS(problem.query, problem.candidate, sample_weight=3.0, **options)
    tensors = LOSS(
        problem.query,
        problem.candidate,
        sample_weight=tf.constant(3.0),
        **{name: tf.constant(value) for name, value in options.items()},
    )
    np.testing.assert_allclose(numbers, tensors, rtol=1e-6)


def test_an_empty_batch(backend: str) -> None:
    for num_candidates in (0, 4):
        query, candidate = tf.zeros([0, 3]), tf.ones([num_candidates, 3])
        for mode in ("eager", "graph"):
            for reduction, shape in (("mean", []), ("sum", []), ("none", [0])):

                def compute(
                    query: tf.Tensor, candidate: tf.Tensor, reduction: str = reduction
                ) -> tuple[tf.Tensor, list[tf.Tensor]]:
                    with tf.GradientTape() as tape:
                        tape.watch([query, candidate])
                        loss = LOSS(query, candidate, reduction=reduction)
                    return loss, tape.gradient(loss, [query, candidate])

                if mode == "graph":
                    compute = tf.function(
                        compute, input_signature=[tf.TensorSpec([None, 3])] * 2, autograph=False
                    )
                loss, (grad_query, grad_candidate) = compute(query, candidate)
                np.testing.assert_array_equal(loss, np.zeros(shape))
                assert grad_query.shape == (0, 3)
                np.testing.assert_array_equal(grad_candidate, np.zeros([num_candidates, 3]))


def test_the_order_of_equal_hard_negatives(backend: str) -> None:
    # All candidates score 1 for each query, and two negatives stay: the first two.
    query, candidate = tf.constant([[1.0, 0.0]]), np.ones([6, 2], np.float32)
    candidate[:, 1] = np.arange(6)
    with tf.GradientTape() as tape:
        candidate = tf.constant(candidate)
        tape.watch(candidate)
        loss = LOSS(query, candidate, positives=[2], num_hard_negatives=2)
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)
    grad = tape.gradient(loss, candidate)[:, 0]
    np.testing.assert_allclose(grad, [1 / 3, 1 / 3, -2 / 3, 0, 0, 0], atol=1e-6)


def test_second_derivatives_of_the_reference(reference: str) -> None:
    problem = in_batch_problems.make(4, 6, 3, "float64")
    query = tf.constant(problem.query)
    with tf.GradientTape() as outer:
        outer.watch(query)
        with tf.GradientTape() as inner:
            inner.watch(query)
            loss = LOSS(query, problem.candidate, label_smoothing=0.1)
        grad = tf.reduce_sum(inner.gradient(loss, query) ** 2)
    assert np.all(np.isfinite(outer.gradient(grad, query)))
