"""The float64 truth of the in-batch loss: against hand-computed values and finite differences."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracle_in_batch_softmax import in_batch_softmax, positive_ranks

B, C, D = 5, 8, 4
RNG = np.random.default_rng(0)
QUERY, CANDIDATE = RNG.normal(size=(B, D)), RNG.normal(size=(C, D))
PROBABILITY = RNG.random(C) * 0.4
WEIGHT = np.array([1.0, 0.5, 0.0, 2.0, 1.5])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cosine": {"normalize": True},
    "re-weighted": {"margin": 0.3, "t": 1.2, "temperature": 0.5},
    "probabilities": {"candidate_sampling_probability": PROBABILITY},
    "positives": {"positives": [7, 3, 3, 0, 5]},
    "exclusions": {
        "candidate_ids": [1, 2, 1, 3, 2, 9, 1, 3],
        "candidate_mask": RNG.random(C) < 0.8,
        "score_mask": RNG.random((B, C)) < 0.8,
    },
    "hard": {"num_hard_negatives": 3, "candidate_sampling_probability": PROBABILITY},
    "smoothing": {"label_smoothing": 0.2, "score_mask": RNG.random((B, C)) < 0.7},
    "decoupled": {"positive_in_softmax": False, "negative_weight": 1.2, "temperature": 0.7},
    "two ways": {
        "bidirectional": True,
        "candidate_sampling_probability": PROBABILITY,
        "margin": 0.2,
        "t": 1.1,
        "score_mask": RNG.random((B, C)) < 0.7,
    },
    "two ways, smoothing": {"bidirectional": True, "label_smoothing": 0.1},
    "two ways, decoupled": {
        "bidirectional": True,
        "positive_in_softmax": False,
        "negative_weight": 1.3,
    },
}


def _difference(f: Callable[[Any], Any], x: Any, step: float = 1e-6) -> Any:
    x = np.asarray(x, np.float64)
    grad = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        grad[index] = (f(up) - f(down)) / (2 * step)
    return grad


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_are_those_that_finite_differences_show(name: str, reduction: str) -> None:
    options = {"temperature": 0.8, "margin": 0.1, "t": 1.0, **OPTIONS[name]}
    scalars = {key: options.pop(key) for key in ("temperature", "margin", "t")}
    upstream = np.linspace(-1, 2, B) if reduction == "none" else 1.0
    point = {"query": QUERY, "candidate": CANDIDATE, "weight": WEIGHT, **scalars}

    def loss(**changes: Any) -> Any:
        at = {**point, **changes}
        result = in_batch_softmax(
            at.pop("query"),
            at.pop("candidate"),
            sample_weight=at.pop("weight"),
            reduction=reduction,
            upstream=upstream,
            **at,
            **options,
        )
        return result if not changes else np.sum(result.loss * upstream)

    result = loss()
    for key in point:
        expected = _difference(lambda x, key=key: loss(**{key: x}), point[key])
        if key == "weight":
            counted = WEIGHT != 0  # Elsewhere the number of rows that count would jump.
            np.testing.assert_allclose(result.grad_weight[counted], expected[counted], atol=1e-7)
        else:
            np.testing.assert_allclose(getattr(result, f"grad_{key}"), expected, atol=1e-7)


def test_the_refined_weight_is_a_constant() -> None:
    # Corrections that are the same for all negatives of a row change no gradient, so the gradients
    # are those of the decoupled loss with rows weighted by 1 - P.
    refined = in_batch_softmax(
        QUERY,
        CANDIDATE,
        candidate_sampling_probability=PROBABILITY,
        correction="refined",
        reduction="none",
    )
    scores = QUERY @ CANDIDATE.T
    losses, weights = np.zeros(B), np.zeros(B)
    for i in range(B):
        others = [
            scores[i, j] - np.log(PROBABILITY[j] / (1 - PROBABILITY[i])) for j in range(C) if j != i
        ]
        positive = np.exp(scores[i, i])
        weights[i] = 1 - positive / (positive + np.mean(np.exp(others)))
        losses[i] = np.log(np.sum(np.exp(others))) - scores[i, i]
    np.testing.assert_allclose(refined.loss, weights * losses, rtol=1e-12)
    decoupled = in_batch_softmax(
        QUERY,
        CANDIDATE,
        candidate_sampling_probability=PROBABILITY,
        positive_in_softmax=False,
        sample_weight=weights,
        reduction="sum",
    )
    np.testing.assert_allclose(refined.grad_query, decoupled.grad_query, atol=1e-14)
    np.testing.assert_allclose(refined.grad_candidate, decoupled.grad_candidate, atol=1e-14)


def test_values_by_hand() -> None:
    # Scores [[6, 3], [9, 5]].
    query, candidate = [[3.0, 0.0], [4.0, 1.0]], [[2.0, 1.0], [1.0, 1.0]]
    rows = np.array([np.log1p(np.exp(-3)), np.log1p(np.exp(4))])
    columns = np.array([np.log1p(np.exp(3)), np.log1p(np.exp(-2))])
    cases: dict[str, tuple[Any, Any]] = {
        "mean": ({}, rows.mean()),
        "sum": ({"reduction": "sum"}, rows.sum()),
        "none": ({"reduction": "none", "sample_weight": [2, 3]}, rows * [2, 3]),
        "weight 0": ({"sample_weight": [2, 0]}, 2 * rows[0]),
        "temperature": ({"temperature": 2.0, "reduction": "none"}, np.log1p(np.exp([-1.5, 2.0]))),
        "logQ": (
            {"candidate_sampling_probability": [0.5, 0.25], "reduction": "none"},
            np.log1p(np.exp([-3 + np.log(2), 4 - np.log(2)])),
        ),
        "same id": ({"candidate_ids": [4, 4]}, 0.0),
        "masked": ({"candidate_mask": [False, True], "reduction": "none"}, [rows[0], 0.0]),
        "decoupled": ({"positive_in_softmax": False, "reduction": "none"}, [-3.0, 4.0]),
        "smoothing": ({"label_smoothing": 0.5, "reduction": "none"}, rows + np.array([0.75, -1.0])),
        "both ways": ({"bidirectional": True, "reduction": "none"}, (rows + columns) / 2),
        "margin": ({"margin": 4.0, "reduction": "none"}, np.log1p(np.exp([1.0, 8.0]))),
        # Row 0: 6 - 4 < 3 is hard, 2 * 3 + 1 = 7 against 2. Row 1: 2 * 9 + 1 = 19 against 1.
        "hard": (
            {"margin": 4.0, "t": 2.0, "reduction": "none"},
            np.log1p(np.exp([5.0, 18.0])),
        ),
    }
    for name, (options, expected) in cases.items():
        loss = in_batch_softmax(query, candidate, **options).loss
        np.testing.assert_allclose(loss, expected, rtol=1e-13, err_msg=name)


def test_ranks_by_hand() -> None:
    query, candidate = [[1.0], [1.0], [1.0]], [[2.0], [5.0], [2.0], [7.0]]
    ranks = {
        (): [2, 1, 3],  # Row 2's equal, candidate 0, comes first.
        ("positives", (3, 0, 0)): [0, 2, 2],
        ("candidate_ids", (4, 4, 5, 6)): [1, 1, 3],
        ("candidate_mask", (True, True, True, False)): [1, 0, 2],
    }
    for option, expected in ranks.items():
        options = {option[0]: np.array(option[1])} if option else {}
        np.testing.assert_array_equal(positive_ranks(query, candidate, **options), expected)
