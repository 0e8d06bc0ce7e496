"""Properties that hold whatever the input, with inputs that hypothesis chooses."""

from typing import Any

import numpy as np
import pairwise_problems as problems
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastneg

LOSS = fastneg.pairwise_loss
_SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    # The backend stays chosen for all examples of a test, which is what is wanted.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def _problems(draw: Any, dtypes: tuple[str, ...] = tuple(problems.DTYPES)) -> problems.Problem:
    problem = problems.make(
        draw(st.sampled_from([1, 2, 3, 10, 31, 64, 100, 255, 256, 257, 500, 700])),
        draw(st.sampled_from(dtypes)),
        num_labels=draw(st.sampled_from([0, 1, 2, 3, 20])),
        positive_share=draw(st.sampled_from([0.01, 0.3, 0.9])),
        scale=draw(st.sampled_from([0.1, 1.0, 8.0, 100.0])),
        seed=draw(st.integers(0, 1000)),
    )
    if draw(st.booleans()):
        problem = problems.with_everything(problem, draw(st.sampled_from([1, 3, 40])))
    return problem


def _reordered(problem: problems.Problem, order: Any) -> problems.Problem:
    return problems.Problem(
        problem.labels[order],
        problem.logits[order],
        {
            name: value[order] if np.ndim(value) else value
            for name, value in problem.options.items()
        },
    )


@_SETTINGS
@given(problem=_problems())
def test_accuracy(backend: str, problem: problems.Problem) -> None:
    plain = problems.run(fastneg.reference.pairwise_loss, problem)
    problems.assert_as_accurate(problems.run(LOSS, problem), plain, problems.truth(problem))


@_SETTINGS
@given(problem=_problems(dtypes=("float64",)), seed=st.integers(0, 1000))
def test_the_order_of_rows_does_not_matter(
    backend: str, problem: problems.Problem, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(problem.labels))
    result = problems.run(LOSS, problem)
    other = problems.run(LOSS, _reordered(problem, order))
    np.testing.assert_allclose(other.loss, result.loss, rtol=1e-12)
    allowed = 1e-12 * np.max(np.abs(result.grad_logits), initial=0)
    np.testing.assert_allclose(other.grad_logits, result.grad_logits[order], 0, allowed)


@_SETTINGS
@given(problem=_problems(dtypes=("float64",)))
def test_only_the_order_of_labels_matters(backend: str, problem: problems.Problem) -> None:
    squeezed = problems.Problem(np.arctan(problem.labels), problem.logits, problem.options)
    result, other = problems.run(LOSS, problem), problems.run(LOSS, squeezed)
    for name, one, two in zip(result._fields, result, other, strict=True):
        np.testing.assert_array_equal(two, one, err_msg=name)


@_SETTINGS
@given(problem=_problems(dtypes=("float64",)))
def test_gradients_add_up_to_0(backend: str, problem: problems.Problem) -> None:
    """A number added to all logits changes nothing."""
    grads = problems.run(LOSS, problem).grad_logits
    np.testing.assert_allclose(np.sum(grads), 0, atol=1e-13 * max(1, np.sum(np.abs(grads))))


@_SETTINGS
@given(problem=_problems(dtypes=("float64",)), factor=st.floats(1e-2, 1e2))
def test_the_temperature_undoes_a_scale(
    backend: str, problem: problems.Problem, factor: float
) -> None:
    temperature = problem.options.get("temperature", 1.0)
    scaled = problems.Problem(
        problem.labels, problem.logits * factor, dict(problem.options)
    ).with_options(temperature=temperature * factor)
    result, other = problems.run(LOSS, problem), problems.run(LOSS, scaled)
    np.testing.assert_allclose(other.loss, result.loss, rtol=1e-11)
    allowed = 1e-11 * np.max(np.abs(result.grad_logits), initial=0)
    np.testing.assert_allclose(other.grad_logits * factor, result.grad_logits, 0, allowed)


@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_repeated_calls_give_the_same_bits(backend: str, dtype: str) -> None:
    problem = problems.with_everything(problems.make(900, dtype, num_labels=4), 2)
    first = problems.run(LOSS, problem)
    for mode in ("eager", "graph"):
        again = problems.run(LOSS, problem, mode)
        if backend == "reference" and mode == "graph":
            continue  # TensorFlow rewrites graphs, and the bits with them.
        for name, one, two in zip(first._fields, first, again, strict=True):
            np.testing.assert_array_equal(two, one, err_msg=name)
