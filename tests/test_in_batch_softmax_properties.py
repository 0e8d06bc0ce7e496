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
    batch_size, has_positives = draw(st.integers(1, 40)), draw(st.booleans())
    size = draw(st.integers(1 if has_positives else batch_size, 80))
    dtype = draw(st.sampled_from(["float32", "float64", "bfloat16", "float16"]))
    embedding_dim = draw(st.integers(1, 40))
    made = in_batch_problems.make(batch_size, size, embedding_dim, dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    options: dict[str, Any] = {
        # Cosines of one dimension are 1 or -1, and rounding would tell which of them are hard.
        "normalize": embedding_dim > 1 and draw(st.booleans()),
        "temperature": draw(st.sampled_from([1.0, 0.3, 2.0])),
        "margin": draw(st.sampled_from([0.0, 0.2, -0.1])),
        "t": draw(st.sampled_from([1.0, 1.2, 0.5])),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    if draw(st.booleans()):
        options["sample_weight"] = in_batch_problems.weights(made, rng)
    if draw(st.booleans()):
        options["candidate_sampling_probability"] = in_batch_problems.probabilities(made, rng)
        options["correction"] = draw(st.sampled_from(["standard", "refined"]))
    refined = options.get("correction") == "refined"
    if draw(st.booleans()):
        options["candidate_ids"] = in_batch_problems.ids(made, rng)
    if draw(st.booleans()):
        options["candidate_mask"] = rng.random(size) < 0.6
    if draw(st.booleans()):
        options["score_mask"] = rng.random((batch_size, size)) < 0.6
    decoupled = draw(st.booleans())
    if decoupled:
        options["positive_in_softmax"] = False
    if decoupled or refined:
        options["negative_weight"] = draw(st.sampled_from([1.0, 1.3, 0.0]))
    else:
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.2]))
    if has_positives:
        options["positives"] = rng.integers(0, size, batch_size)
    if draw(st.booleans()):
        options["num_hard_negatives"] = draw(st.integers(1, size + 1))
    elif not has_positives and not refined:
        options["bidirectional"] = draw(st.booleans())
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
