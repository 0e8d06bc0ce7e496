"""Properties that hold whatever the input, with inputs that hypothesis chooses."""

from typing import Any

import numpy as np
import problems
import sv_softmax_cases as cases
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastneg

LOSS = fastneg.support_vector_guided_softmax_loss
_SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    # The backend stays chosen for all examples of a test, which is what is wanted.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def _cases(draw: Any, dtypes: tuple[str, ...] = tuple(problems.DTYPES)) -> cases.Case:
    case = cases.make(
        draw(st.integers(1, 80)),
        draw(st.one_of(st.integers(1, 40), st.integers(41, 300))),
        draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 1000)),
        smooth=draw(st.sampled_from([0.0, 0.5, 1.0, 20.0, 60.0])),
        margin=draw(st.sampled_from([-0.3, 0.0, 0.1, 5.0])),
        t=draw(st.sampled_from([0.0, 0.5, 1.0, 1.2, 3.0])),
        threshold=draw(st.sampled_from([-1.0, 0.0, 0.3])),
    )
    return cases.with_weights(case) if draw(st.booleans()) else case


@_SETTINGS
@given(case=_cases())
def test_accuracy(backend: str, case: cases.Case) -> None:
    plain = cases.run(fastneg.reference.support_vector_guided_softmax_loss, case)
    cases.assert_as_accurate(cases.run(LOSS, case), plain, cases.truth(case), case)


@_SETTINGS
@given(case=_cases(dtypes=("float64",)), seed=st.integers(0, 100))
def test_the_order_of_negatives_does_not_matter(backend: str, case: cases.Case, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(case.neg_scores.shape[1])
    other = cases.Case(case.pos_score, case.neg_scores[:, order], case.options)
    result, shuffled = cases.run(LOSS, case), cases.run(LOSS, other)
    np.testing.assert_allclose(shuffled.loss, result.loss, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(shuffled.grad_neg, result.grad_neg[:, order], rtol=1e-9, atol=1e-13)


@_SETTINGS
@given(case=_cases(dtypes=("float64",)), step=st.integers(1, 79))
def test_the_order_of_rows_does_not_matter(backend: str, case: cases.Case, step: int) -> None:
    options = {
        name: np.roll(value, step) if np.ndim(value) else value
        for name, value in case.options.items()
    }
    other = cases.Case(
        np.roll(case.pos_score, step), np.roll(case.neg_scores, step, axis=0), options
    )
    result, rolled = cases.run(LOSS, case), cases.run(LOSS, other)
    np.testing.assert_allclose(rolled.loss, result.loss, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        rolled.grad_neg, np.roll(result.grad_neg, step, axis=0), rtol=1e-9, atol=1e-13
    )


@_SETTINGS
@given(case=_cases(dtypes=("float64",)), offset=st.floats(-50, 50))
def test_a_common_offset_of_all_scores_does_not_matter(
    backend: str, case: cases.Case, offset: float
) -> None:
    case = case.with_options(t=1.0)
    moved = cases.Case(case.pos_score + offset, case.neg_scores + offset, case.options)
    result, other = cases.run(LOSS, case), cases.run(LOSS, moved)
    np.testing.assert_allclose(other.loss, result.loss, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(other.grad_neg, result.grad_neg, rtol=1e-6, atol=1e-10)
    # Hence a row's gradients add up to nothing.
    np.testing.assert_allclose(result.grad_pos + result.grad_neg.sum(axis=1), 0.0, atol=1e-10)
