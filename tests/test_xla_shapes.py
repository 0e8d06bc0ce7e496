"""Inside XLA, where nothing can be raised at run time: shapes that were unknown to Python.

Whatever does not fit has to be refused when XLA compiles. Some of its own operations would take it,
and its einsum ends the process.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf

import fastneg

B, NUM_CLASSES, NUM_SAMPLED = 6, 20, 5
_RNG = np.random.default_rng(0)


def _normal(*shape: int) -> np.ndarray:
    return _RNG.normal(size=shape).astype(np.float32)


class _Case(NamedTuple):
    loss: Callable[..., tf.Tensor]
    arguments: dict[str, np.ndarray]  # Those whose first dimension is the batch.


def _sampled_softmax(labels: Any, inputs: Any, true_expected_count: Any) -> tf.Tensor:
    table = np.linspace(-1, 1, 4 * NUM_CLASSES, dtype=np.float32).reshape(-1, 4)
    sampled = (
        np.arange(NUM_SAMPLED),
        true_expected_count,
        np.full(NUM_SAMPLED, 0.1, np.float32),
    )
    return fastneg.sampled_softmax_loss(
        table, None, labels, inputs, NUM_SAMPLED, NUM_CLASSES, sampled_values=sampled
    )


_WEIGHTS = np.arange(B, dtype=np.float32)
_LABELS = np.array([1, 0, 1, 1, 1, 0], np.float32)
_PROBABILITY = np.linspace(0.1, 0.2, B, dtype=np.float32)
_PERMUTATIONS = np.stack([_RNG.permutation(B) for _ in range(2)])

CASES = {
    "rolled_softmax": _Case(
        lambda user_emb, item_emb, labels, weights, probability, ids: (
            fastneg.softmax_loss_with_negative_mining(
                user_emb,
                item_emb,
                labels,
                2,
                weights=weights,
                shifts=[1, 3],
                candidate_sampling_probability=probability,
                candidate_ids=ids,
            )
        ),
        {
            "user_emb": _normal(B, 4),
            "item_emb": _normal(B, 4),
            "labels": _LABELS,
            "weights": _WEIGHTS,
            "candidate_sampling_probability": _PROBABILITY,
            "candidate_ids": np.arange(B),
        },
    ),
    "shuffled_cosine": _Case(
        lambda query, doc, probability, ids: fastneg.negative_cosine_loss(
            query,
            doc,
            2,
            permutations=_PERMUTATIONS,
            candidate_sampling_probability=probability,
            candidate_ids=ids,
        ),
        {
            "query": _normal(B, 4),
            "doc": _normal(B, 4),
            "candidate_sampling_probability": _PROBABILITY,
            "candidate_ids": np.arange(B),
        },
    ),
    "batch-normalized cosine": _Case(
        lambda query, doc: fastneg.negative_cosine_loss(query, doc, normalize="batch"),
        {"query": _normal(B, 4), "doc": _normal(B, 4)},
    ),
    "sv_softmax": _Case(
        lambda pos_score, neg_scores, weights: fastneg.support_vector_guided_softmax_loss(
            pos_score, neg_scores, weights=weights
        ),
        {"pos_score": _normal(B), "neg_scores": _normal(B, 3), "weights": _WEIGHTS},
    ),
    "pairwise_logistic": _Case(
        lambda labels, logits, session_ids, weights: fastneg.pairwise_loss(
            labels, logits, session_ids=session_ids, weights=weights
        ),
        {
            "labels": _LABELS,
            "logits": _normal(B),
            "session_ids": np.zeros(B, np.int32),
            "weights": _WEIGHTS,
        },
    ),
    "sampled_softmax": _Case(
        _sampled_softmax,
        {
            "labels": np.arange(B)[:, None],
            "inputs": _normal(B, 4),
            "true_expected_count": np.full((B, 1), 0.1, np.float32),
        },
    ),
}


def _compiled(case: _Case) -> Callable[..., tf.Tensor]:
    """The loss in XLA; Python knows the ranks of its arguments, and dimensions of 1."""
    specs = [
        tf.TensorSpec([size if size == 1 else None for size in value.shape], value.dtype)
        for value in case.arguments.values()
    ]
    return tf.function(case.loss, input_signature=specs, jit_compile=True)


@pytest.mark.parametrize("name", CASES)
def test_what_fits(name: str) -> None:
    case = CASES[name]
    with fastneg.use_backend("reference"):
        expected = case.loss(*map(tf.constant, case.arguments.values()))
    actual = _compiled(case)(*map(tf.constant, case.arguments.values()))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, B - 1, 2 * B])
@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name in CASES for argument in CASES[name].arguments]
)
def test_another_number_of_rows(name: str, argument: str, rows: int) -> None:
    case = CASES[name]
    value = case.arguments[argument]
    values = {**case.arguments, argument: np.concatenate([value, value])[:rows]}
    with pytest.raises(tf.errors.InvalidArgumentError):
        _compiled(case)(*map(tf.constant, values.values()))


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("rolled_softmax", "item_emb"),
        ("shuffled_cosine", "doc"),
        ("batch-normalized cosine", "doc"),
        ("sampled_softmax", "inputs"),
    ],
)
def test_another_width(name: str, argument: str) -> None:
    case = CASES[name]
    values = {**case.arguments, argument: case.arguments[argument][:, :3]}
    with pytest.raises(tf.errors.InvalidArgumentError):
        _compiled(case)(*map(tf.constant, values.values()))
