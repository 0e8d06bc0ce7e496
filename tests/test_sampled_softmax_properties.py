"""Properties that hold whatever the input, with inputs that hypothesis chooses."""

import dataclasses
from typing import Any

import numpy as np
import problems
import sampled_problems
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastneg

LOSS = fastneg.sampled_softmax_loss
_SETTINGS = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    # The backend stays chosen for all examples of a test, which is what is wanted.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def _problems(
    draw: Any, dtypes: tuple[str, ...] = tuple(problems.DTYPES)
) -> sampled_problems.Problem:
    num_classes = draw(st.integers(1, 150))
    return sampled_problems.make(
        draw(st.integers(1, 150)),
        draw(st.integers(1, num_classes)),
        draw(st.integers(1, 70)),
        num_classes,
        draw(st.integers(1, 3)),
        draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 1000)),
        scale=draw(st.sampled_from([0.01, 0.3, 1.0, 5.0])),
        biases=draw(st.booleans()),
        upstream=draw(st.booleans()),
        remove_accidental_hits=draw(st.booleans()),
    )


@_SETTINGS
@given(problem=_problems())
def test_accuracy(backend: str, problem: sampled_problems.Problem) -> None:
    plain = sampled_problems.run(fastneg.reference.sampled_softmax_loss, problem)
    result = sampled_problems.run(LOSS, problem)
    truth = sampled_problems.truth(problem)
    sampled_problems.assert_as_accurate(result, plain, truth, problem)


@_SETTINGS
@given(problem=_problems(dtypes=("float64",)), seed=st.integers(0, 100))
def test_the_order_of_samples_does_not_matter(
    backend: str, problem: sampled_problems.Problem, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(problem.sampled))
    shuffled = dataclasses.replace(
        problem,
        sampled=problem.sampled[order],
        sampled_expected_count=problem.sampled_expected_count[order],
    )
    results = [sampled_problems.run(LOSS, each) for each in (problem, shuffled)]
    for name, value, other in zip(results[0]._fields, *results, strict=True):
        if value is not None:
            np.testing.assert_allclose(value, other, rtol=1e-10, atol=1e-11, err_msg=name)


@_SETTINGS
@given(problem=_problems(dtypes=("float64",)), shift=st.floats(-50, 50))
def test_a_bias_for_all_classes_changes_nothing(
    backend: str, problem: sampled_problems.Problem, shift: float
) -> None:
    biases = np.zeros(problem.num_classes) if problem.biases is None else problem.biases
    plain, shifted = (
        sampled_problems.run(LOSS, dataclasses.replace(problem, biases=biases + by))
        for by in (0.0, shift)
    )
    np.testing.assert_allclose(shifted.loss, plain.loss, rtol=1e-9, atol=1e-11)
    # For the same reason a row's gradients with respect to the biases add up to 0.
    np.testing.assert_allclose(plain.grad_biases.sum(), 0, atol=1e-9)


@_SETTINGS
@given(problem=_problems(dtypes=("float64",)))
def test_removing_hits_never_raises_a_loss(backend: str, problem: sampled_problems.Problem) -> None:
    kept, removed = (
        sampled_problems.run(LOSS, dataclasses.replace(problem, remove_accidental_hits=remove))
        for remove in (False, True)
    )
    assert np.all(removed.loss <= kept.loss + 1e-12)
