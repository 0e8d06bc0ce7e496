"""Inputs of the rolled SV-softmax loss that tests share."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}

# (batch_size, num_negatives, embedding_dim): odd sizes, tails of every vector width, K up to B - 1.
SHAPES = (
    (2, 1, 1),
    (3, 2, 2),
    (5, 4, 3),
    (7, 3, 17),
    (16, 15, 64),
    (33, 8, 50),
    (64, 20, 100),
    (130, 17, 31),
    (129, 128, 8),
    (257, 64, 128),
    (150, 33, 300),
    (128, 5, 1024),
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arguments of the loss, as NumPy arrays and numbers."""

    user_emb: Any
    item_emb: Any
    labels: Any
    shifts: Any
    options: Mapping[str, Any]

    @property
    def dtype(self) -> np.dtype:
        """That of the embeddings."""
        return self.user_emb.dtype

    def with_options(self, **options: Any) -> "Problem":
        """The same embeddings, labels and shifts, with other options."""
        return dataclasses.replace(self, options={**self.options, **options})


def compute_dtype(dtype: Any) -> Any:
    """The dtype of losses and scalars for embeddings of `dtype`."""
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32


def make(
    batch_size: int,
    num_negatives: int,
    embedding_dim: int,
    dtype: str = "float32",
    *,
    positive_share: float = 0.8,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """Normally distributed embeddings, each item leaning towards its user."""
    rng = np.random.default_rng([seed, batch_size, num_negatives, embedding_dim])
    user_emb = rng.normal(size=(batch_size, embedding_dim))
    item_emb = rng.normal(size=(batch_size, embedding_dim)) + 0.5 * user_emb
    labels = (rng.random(batch_size) < positive_share).astype(np.float32)
    labels[rng.integers(batch_size)] = 1
    return Problem(
        user_emb.astype(DTYPES[dtype]),
        item_emb.astype(DTYPES[dtype]),
        labels,
        rng.integers(1, batch_size, num_negatives),
        {"gamma": 20.0, "margin": 0.1, "t": 1.2, **options},
    )


def with_everything(problem: Problem, *, seed: int = 0) -> Problem:
    """Adds weights (some 0), sampling probabilities (some too small) and repeated ids."""
    rng = np.random.default_rng(seed)
    batch_size = len(problem.labels)
    dtype = compute_dtype(problem.dtype)
    weights = rng.random(batch_size) * (rng.random(batch_size) < 0.8)
    probability = rng.random(batch_size) ** 4
    probability[0] = 0
    return problem.with_options(
        weights=weights.astype(dtype),
        candidate_sampling_probability=probability.astype(dtype),
        candidate_ids=rng.integers(0, max(2, batch_size // 3), batch_size),
    )


def with_hit(problem: Problem, item: int) -> Problem:
    """An item has the id of all rows that count, and its own row does not count."""
    problem.labels[item] = 0
    ids = np.full(len(problem.labels), 7)
    others = np.flatnonzero(problem.labels == 0)
    ids[others] = 1000 + others
    ids[item] = 7
    return problem.with_options(candidate_ids=ids)


def overflowing(num_negatives: int, dtype: str, sign: float) -> Problem:
    """48 rows whose products with the items 5, 6 and 7 are beyond float32, but not beyond float64.

    Row 8 has the first three of them as its first negatives. `sign` is that of the products.
    """
    problem = make(48, num_negatives, 9, dtype)
    labels = np.ones(48, np.float32)
    labels[5:8] = 0
    problem.user_emb[:, 0] = 1e20
    problem.item_emb[:, 0] = 0
    problem.item_emb[5:8, 0] = sign * 1e20
    options = {"embed_normed": True, "gamma": 2.0, "margin": 0.125, "t": 1.25}
    shifts = np.arange(1, num_negatives + 1)
    return Problem(problem.user_emb, problem.item_emb, labels, shifts, options)
