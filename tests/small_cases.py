"""One small problem of every loss, as arguments that have the batch as their first dimension."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import fastneg

B, NUM_CLASSES, NUM_SAMPLED = 6, 20, 5
_RNG = np.random.default_rng(0)


def _normal(*shape: int) -> np.ndarray:
    return _RNG.normal(size=shape).astype(np.float32)


class Case(NamedTuple):
    loss: Callable[..., tf.Tensor]
    arguments: dict[str, np.ndarray]  # Each has the batch as its first dimension.


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
    "rolled_softmax": Case(
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
    "shuffled_cosine": Case(
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
    "batch-normalized cosine": Case(
        lambda query, doc: fastneg.negative_cosine_loss(query, doc, normalize="batch"),
        {"query": _normal(B, 4), "doc": _normal(B, 4)},
    ),
    "sv_softmax": Case(
        lambda pos_score, neg_scores, weights: fastneg.support_vector_guided_softmax_loss(
            pos_score, neg_scores, weights=weights
        ),
        {"pos_score": _normal(B), "neg_scores": _normal(B, 3), "weights": _WEIGHTS},
    ),
    "pairwise_logistic": Case(
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
    "sampled_softmax": Case(
        _sampled_softmax,
        {
            "labels": np.arange(B)[:, None],
            "inputs": _normal(B, 4),
            "true_expected_count": np.full((B, 1), 0.1, np.float32),
        },
    ),
}
