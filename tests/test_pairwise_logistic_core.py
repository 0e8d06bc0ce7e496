"""The core alone: instruction sets, numbers of threads, repeated calls, what it refuses."""

import functools
from typing import Any

import numpy as np
import pairwise_problems as problems
import pytest

core = pytest.importorskip("fastneg._core")

# Leaves, power series, pairs one by one because the logits are far apart; several tasks of each.
PROBLEMS = {
    "binary": problems.make(5000),
    "few positives": problems.make(9000, positive_share=0.001),
    "graded": problems.with_everything(problems.make(6001, num_labels=5), 4),
    "all different": problems.make(3003, num_labels=0),
    "small sessions": problems.with_everything(problems.make(5000, num_labels=3), 300),
    "far apart": problems.make(2000, scale=1e6),
    "not finite": problems.make(2000),
    "float64": problems.with_everything(problems.make(4000, "float64", num_labels=9), 2),
    "bfloat16": problems.make(3000, "bfloat16", num_labels=3),
}
PROBLEMS["not finite"].logits[np.argmin(PROBLEMS["not finite"].labels)] = np.inf


def _run(problem: problems.Problem, **arguments: Any) -> dict[str, Any]:
    return core.pairwise_logistic(
        problem.labels, problem.logits, **problem.options, scalar_gradients=True, **arguments
    )


@functools.cache  # For all instruction sets.
def _truth(name: str) -> Any:
    return problems.truth(PROBLEMS[name])


@pytest.mark.parametrize("name", PROBLEMS)
def test_truth(isa: str, name: str) -> None:
    problem = PROBLEMS[name]
    result = _run(problem)
    if name == "not finite":
        assert result["loss"] == np.inf  # A row that has to be below others is above them all.
        return
    truth = _truth(name)
    tolerance = 1e-12 if problem.logits.dtype == np.float64 else 2e-6
    pairs = {
        "loss": truth.loss,
        "grad_logits": truth.grad_logits,
        "grad_scalars": [truth.grad_margin, truth.grad_temperature],
    }
    if "weights" in problem.options:
        pairs["grad_weights"] = truth.grad_weights
    for key, exact in pairs.items():
        allowed = tolerance * np.max(np.abs(exact))
        np.testing.assert_allclose(result[key], exact, rtol=0, atol=allowed, err_msg=key)


@pytest.mark.parametrize("name", PROBLEMS)
def test_number_of_threads(isa: str, name: str) -> None:
    one = _run(PROBLEMS[name], num_threads=1)
    for num_threads in (1, 2, 8):
        several = _run(PROBLEMS[name], num_threads=num_threads)
        for key, value in one.items():
            np.testing.assert_array_equal(several[key], value, err_msg=f"{key} {num_threads}")


@pytest.mark.parametrize("name", PROBLEMS)
def test_loss_alone_is_the_same(isa: str, name: str) -> None:
    problem = PROBLEMS[name]
    alone = core.pairwise_logistic(
        problem.labels, problem.logits, **problem.options, gradients=False
    )
    assert alone.keys() == {"loss"}
    np.testing.assert_array_equal(alone["loss"], _run(problem)["loss"])


def test_infinite_weight_shows_in_its_own_pairs_only(isa: str) -> None:
    weights = np.ones(24, np.float32)
    weights[1] = np.inf  # Of the row whose only pair is with row 0.
    logits = np.linspace(-1, 1, 24, dtype=np.float32)
    grad = core.pairwise_logistic(np.arange(24), logits, weights=weights)["grad_logits"]
    np.testing.assert_array_equal(np.flatnonzero(~np.isfinite(grad)), [0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels": np.ones(3)}, ValueError, r"`labels` must have shape \[4\]\. Received: \[3\]"),
        ({"labels": np.empty(4, "V0")}, TypeError, r"`labels` must be an array of numbers"),
        ({"logits": np.ones((2, 2), np.float32)}, ValueError, r"`logits` must have rank 1"),
        ({"logits": np.ones(4, np.int32)}, TypeError, r"`logits` must be float16"),
        ({"session_ids": np.arange(5)}, ValueError, r"`session_ids` must have shape \[4\]"),
        ({"weights": np.ones(2)}, ValueError, r"`weights` must have shape \[4\]"),
        ({"temperature": 0.0}, ValueError, r"`temperature` must not be 0"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {"labels": np.arange(4), "logits": np.ones(4, np.float32)}
    with pytest.raises(error, match=message):
        core.pairwise_logistic(**{**good, **arguments})


def test_as_many_pairs_as_fit_no_memory() -> None:
    """2^30 pairs, against a sample of them."""
    labels = np.repeat(np.arange(2), 1 << 15).astype(np.float32)
    logits = np.random.default_rng(0).normal(size=1 << 16).astype(np.float32)
    loss = core.pairwise_logistic(labels, logits)["loss"]
    sample = np.random.default_rng(1).permutation(1 << 15)[:2000]
    u = logits[: 1 << 15][sample, None].astype(np.float64) - logits[1 << 15 :][None, sample]
    np.testing.assert_allclose(loss, np.logaddexp(0, u).mean(), rtol=0.1)
