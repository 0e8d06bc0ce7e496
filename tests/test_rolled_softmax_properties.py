"""Properties that hold whatever the input, with inputs that hypothesis chooses."""

from typing import Any

import evaluation
import numpy as np
import problems
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fastneg

LOSS = fastneg.softmax_loss_with_negative_mining
_SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    # The backend stays chosen for all examples of a test, which is what is wanted.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def _problems(draw: Any, dtypes: tuple[str, ...] = tuple(problems.DTYPES)) -> problems.Problem:
    batch_size = draw(st.integers(2, 70))
    problem = problems.make(
        batch_size,
        draw(st.integers(1, batch_size - 1)),
        draw(st.integers(1, 40)),
        draw(st.sampled_from(dtypes)),
        positive_share=draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
        seed=draw(st.integers(0, 1000)),
        gamma=draw(st.sampled_from([0.0, 0.5, 1.0, 20.0, 60.0])),
        margin=draw(st.sampled_from([-0.3, 0.0, 0.1, 0.9])),
        t=draw(st.sampled_from([0.0, 0.5, 1.0, 1.2, 3.0])),
        embed_normed=draw(st.booleans()),
    )
    return problems.with_everything(problem) if draw(st.booleans()) else problem


@_SETTINGS
@given(problem=_problems())
def test_accuracy(backend: str, problem: problems.Problem) -> None:
    plain = evaluation.run(fastneg.reference.softmax_loss_with_negative_mining, problem)
    result = evaluation.run(LOSS, problem)
    evaluation.assert_as_accurate(result, plain, evaluation.truth(problem), problem)


@_SETTINGS
@given(problem=_problems(dtypes=("float64",)), order=st.randoms(use_true_random=False))
def test_the_order_of_negatives_does_not_matter(
    backend: str, problem: problems.Problem, order: Any
) -> None:
    shifts = problem.shifts.tolist()
    order.shuffle(shifts)
    shuffled = problems.Problem(
        problem.user_emb, problem.item_emb, problem.labels, np.array(shifts), problem.options
    )
    result, other = evaluation.run(LOSS, problem), evaluation.run(LOSS, shuffled)
    np.testing.assert_allclose(other.loss, result.loss, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(other.grad_item, result.grad_item, rtol=1e-9, atol=1e-12)


@_SETTINGS
@given(problem=_problems(dtypes=("float64",)), step=st.integers(1, 69))
def test_rolling_the_whole_batch_changes_nothing(
    backend: str, problem: problems.Problem, step: int
) -> None:
    rolled = problems.Problem(
        *(np.roll(rows, step, axis=0) for rows in (problem.user_emb, problem.item_emb)),
        np.roll(problem.labels, step),
        problem.shifts,
        {
            name: np.roll(value, step) if np.ndim(value) else value
            for name, value in problem.options.items()
        },
    )
    result, other = evaluation.run(LOSS, problem), evaluation.run(LOSS, rolled)
    np.testing.assert_allclose(other.loss, result.loss, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        other.grad_user, np.roll(result.grad_user, step, axis=0), rtol=1e-9, atol=1e-12
    )


@_SETTINGS
@given(
    problem=_problems(dtypes=("float64",)),
    factor=st.floats(1e-3, 1e3),
)
def test_the_length_of_embeddings_does_not_matter(
    backend: str, problem: problems.Problem, factor: float
) -> None:
    # Cosines of width 1 are 1 or -1, and rounding alone decides which negatives are hard.
    assume(problem.user_emb.shape[1] > 1)
    problem = problem.with_options(embed_normed=False)
    longer = problems.Problem(
        problem.user_emb * factor,
        problem.item_emb,
        problem.labels,
        problem.shifts,
        problem.options,
    )
    result, other = evaluation.run(LOSS, problem), evaluation.run(LOSS, longer)
    np.testing.assert_allclose(other.loss, result.loss, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        other.grad_user * factor, result.grad_user, rtol=1e-6, atol=1e-9 * problem.options["gamma"]
    )
    # Hence the gradient is at right angles to the embedding.
    np.testing.assert_allclose(np.sum(result.grad_user * problem.user_emb, axis=1), 0.0, atol=1e-10)


@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_repeated_calls_give_the_same_bits(backend: str, dtype: str) -> None:
    problem = problems.with_everything(problems.make(300, 33, 40, dtype))
    first = evaluation.run(LOSS, problem)
    for mode in ("eager", "graph"):
        again = evaluation.run(LOSS, problem, mode)
        if backend == "reference" and mode == "graph":
            continue  # TensorFlow rewrites graphs, and the bits with them.
        for name, one, two in zip(first._fields, first, again, strict=True):
            np.testing.assert_array_equal(two, one, err_msg=name)
