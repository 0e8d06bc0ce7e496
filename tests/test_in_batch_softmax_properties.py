"""The in-batch softmax loss on whatever options hypothesis puts together."""

from typing import Any

import in_batch_problems
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_batch_problems import LOSS, Problem

import fastneg


@st.composite
def problems_of_any_kind(draw: st.DrawFn) -> Problem:
    """Options that go together, of a batch of any size."""
    batch_size, extra = draw(st.integers(1, 40)), draw(st.integers(0, 40))
    dtype = draw(st.sampled_from(["float32", "float64", "bfloat16", "float16"]))
    made = in_batch_problems.make(batch_size, batch_size + extra, draw(st.integers(1, 40)), dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = len(made.candidate)
    options: dict[str, Any] = {
        "normalize": draw(st.booleans()),
        "temperature": draw(st.sampled_from([1.0, 0.3, 2.0])),
        "margin": draw(st.sampled_from([0.0, 0.2, -0.1])),
        "t": draw(st.sampled_from([1.0, 1.2, 0.5])),
        "bidirectional": draw(st.booleans()),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    if draw(st.booleans()):
        options["sample_weight"] = in_batch_problems.weights(made, rng)
    if draw(st.booleans()):
        options["candidate_sampling_probability"] = in_batch_problems.probabilities(made, rng)
    if draw(st.booleans()):
        options["candidate_ids"] = in_batch_problems.ids(made, rng)
    if draw(st.booleans()):
        options["candidate_mask"] = rng.random(size) < 0.6
    if draw(st.booleans()):
        options["score_mask"] = rng.random((batch_size, size)) < 0.6
    if draw(st.booleans()):
        options["positive_in_softmax"] = False
        options["negative_weight"] = draw(st.sampled_from([1.0, 1.3, 0.0]))
    else:
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.2]))
    if not options["bidirectional"]:
        if draw(st.booleans()):
            options["positives"] = rng.integers(0, size, batch_size)
        if draw(st.booleans()):
            options["num_hard_negatives"] = draw(st.integers(1, size + 1))
    return made.with_options(**options)


@given(problem=problems_of_any_kind())
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_as_accurate_as_the_composition(native: str, problem: Problem) -> None:
    result = in_batch_problems.run(LOSS, problem)
    plain = in_batch_problems.run(fastneg.reference.in_batch_softmax_loss, problem)
    in_batch_problems.assert_as_accurate(result, plain, problem)
