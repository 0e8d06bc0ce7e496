"""A problem of every loss, as arguments that have the batch as their first dimension."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import fastneg

B = 6
WITHOUT_NUMBA = ("in_batch_softmax", "positive_ranks")


class Case(NamedTuple):
    loss: Callable[..., tf.Tensor]
    arguments: dict[str, np.ndarray]  # Each has the batch as its first dimension.


def make(batch_size: int, embedding_dim: int, num_negatives: int) -> dict[str, Case]:
    """A case of every loss, of a size."""
    rng = np.random.default_rng(0)
    shifts = np.arange(1, 2 * num_negatives, 2)
    permutations = np.stack([rng.permutation(batch_size) for _ in range(num_negatives)])
    num_sampled = 2 * num_negatives + 1
    num_classes = 4 * num_sampled
    table = np.linspace(-1, 1, num_classes * embedding_dim, dtype=np.float32)
    table = table.reshape(num_classes, embedding_dim)
    weights = np.arange(batch_size, dtype=np.float32)
    labels = np.resize(np.array([1, 0, 1, 1, 1, 0], np.float32), batch_size)
    probability = np.linspace(0.1, 0.2, batch_size, dtype=np.float32)
    ids = np.arange(batch_size)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def embeddings() -> np.ndarray:
        return normal(batch_size, embedding_dim)

    def sampled_softmax(labels: Any, inputs: Any, true_expected_count: Any) -> tf.Tensor:
        sampled = (
            np.arange(num_sampled),
            true_expected_count,
            np.full(num_sampled, 0.1, true_expected_count.dtype.as_numpy_dtype),
        )
        return fastneg.sampled_softmax_loss(
            tf.cast(table, inputs.dtype),
            None,
            labels,
            inputs,
            num_sampled,
            num_classes,
            sampled_values=sampled,
        )

    return {
        "rolled_softmax": Case(
            lambda user_emb, item_emb, labels, weights, probability, ids: (
                fastneg.softmax_loss_with_negative_mining(
                    user_emb,
                    item_emb,
                    labels,
                    num_negatives,
                    weights=weights,
                    shifts=shifts,
                    candidate_sampling_probability=probability,
                    candidate_ids=ids,
                )
            ),
            {
                "user_emb": embeddings(),
                "item_emb": embeddings(),
                "labels": labels,
                "weights": weights,
                "candidate_sampling_probability": probability,
                "candidate_ids": ids,
            },
        ),
        "shuffled_cosine": Case(
            lambda query, doc, probability, ids: fastneg.negative_cosine_loss(
                query,
                doc,
                num_negatives,
                permutations=permutations,
                candidate_sampling_probability=probability,
                candidate_ids=ids,
            ),
            {
                "query": embeddings(),
                "doc": embeddings(),
                "candidate_sampling_probability": probability,
                "candidate_ids": ids,
            },
        ),
        "batch-normalized cosine": Case(
            lambda query, doc: fastneg.negative_cosine_loss(query, doc, normalize="batch"),
            {"query": embeddings(), "doc": embeddings()},
        ),
        "sv_softmax": Case(
            lambda pos_score, neg_scores, weights: fastneg.support_vector_guided_softmax_loss(
                pos_score, neg_scores, weights=weights
            ),
            {
                "pos_score": normal(batch_size),
                "neg_scores": normal(batch_size, num_negatives + 1),
                "weights": weights,
            },
        ),
        "pairwise_logistic": Case(
            lambda labels, logits, session_ids, weights: fastneg.pairwise_loss(
                labels, logits, session_ids=session_ids, weights=weights
            ),
            {
                "labels": labels,
                "logits": normal(batch_size),
                "session_ids": np.zeros(batch_size, np.int32),
                "weights": weights,
            },
        ),
        "sampled_softmax": Case(
            sampled_softmax,
            {
                "labels": ids[:, None] % num_classes,
                "inputs": embeddings(),
                "true_expected_count": np.full((batch_size, 1), 0.1, np.float32),
            },
        ),
        "in_batch_softmax": Case(
            lambda query, candidate, weights, probability, positives, ids: (
                fastneg.in_batch_softmax_loss(
                    query,
                    candidate,
                    sample_weight=weights,
                    temperature=0.7,
                    candidate_sampling_probability=probability,
                    positives=positives,
                    candidate_ids=ids,
                )
            ),
            {
                "query_embeddings": embeddings(),
                "candidate_embeddings": embeddings(),
                "sample_weight": weights,
                "candidate_sampling_probability": probability,
                "positives": ids[::-1].copy(),
                "candidate_ids": ids,
            },
        ),
        "positive_ranks": Case(  # As numbers that can be added up, like losses.
            lambda query, candidate, positives, ids: tf.cast(
                fastneg.positive_ranks(query, candidate, positives, candidate_ids=ids), tf.float32
            ),
            {
                "query_embeddings": embeddings(),
                "candidate_embeddings": embeddings(),
                "positives": ids[::-1].copy(),
                "candidate_ids": ids,
            },
        ),
    }


CASES = make(B, 4, 2)
