"""The in-batch softmax loss, its gradients and ranks in float64 NumPy, written from the formulas.

Independent of the package: nothing here is imported from it, and nothing in it from here.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Truth(NamedTuple):
    """The loss, and the derivatives of its sum weighted with the upstream gradient."""

    loss: Any
    grad_query: Array
    grad_candidate: Array
    grad_weight: Array
    grad_temperature: float
    grad_margin: float
    grad_t: float


class _Direction(NamedTuple):
    """Losses of rows, [R], and their derivatives by the rows' logits, [R, N]."""

    loss: Array
    grad_logits: Array


def in_batch_softmax(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    positives: Any = None,
    sample_weight: Any = 1.0,
    temperature: float = 1.0,
    normalize: bool = False,
    margin: float = 0.0,
    t: float = 1.0,
    candidate_sampling_probability: Any = None,
    candidate_ids: Any = None,
    candidate_mask: Any = None,
    score_mask: Any = None,
    num_hard_negatives: int | None = None,
    label_smoothing: float = 0.0,
    correction: str = "standard",
    positive_in_softmax: bool = True,
    negative_weight: float = 1.0,
    bidirectional: bool = False,
    reduction: str = "mean",
    upstream: Any = 1.0,
) -> Truth:
    """All scores, logits of both directions, softmax row by row, and back."""
    query, candidate = _float64(query_embeddings), _float64(candidate_embeddings)
    q, c = (_normalized(query), _normalized(candidate)) if normalize else (query, candidate)
    batch_size, num_candidates = len(q), len(c)
    rows = np.arange(batch_size)
    positive = rows if positives is None else np.asarray(positives, np.int64)
    refined = correction == "refined"

    scores = q @ c.T
    own = scores[rows, positive] - margin
    hard = own[:, None] - scores < 0
    hard[rows, positive] = False
    scores_after = np.where(hard, t * scores + t - 1, scores)
    scores_after[rows, positive] = own
    plain_logits = scores_after / temperature
    logits = plain_logits.copy()
    if candidate_sampling_probability is not None:
        probability = np.clip(_float64(candidate_sampling_probability), 1e-9, 1)
        logits = plain_logits - np.log(probability)
        if refined:
            logits += np.log(np.maximum(1 - probability[positive], 1e-9))[:, None]
            logits[rows, positive] = plain_logits[rows, positive]
    kept = negatives(positive, num_candidates, candidate_ids, candidate_mask, score_mask)
    by_columns = kept[:, :batch_size].T
    if num_hard_negatives is not None:
        kept = _largest(logits, kept, num_hard_negatives)

    options = (label_smoothing, positive_in_softmax and not refined, negative_weight)
    by_row = _softmax_losses(logits, kept, positive, *options, refined)
    losses, grad_logits = by_row
    if bidirectional:
        by_column = _softmax_losses(
            plain_logits[:, :batch_size].T, by_columns, rows, *options, False
        )
        losses = (by_row.loss + by_column.loss) / 2
        grad_logits = by_row.grad_logits / 2
        column_part = by_column.grad_logits / 2
    weights = np.broadcast_to(np.reshape(_float64(sample_weight), -1), batch_size)
    divisor = max(np.count_nonzero(weights), 1) if reduction == "mean" else 1
    upstream = np.broadcast_to(_float64(upstream), batch_size)
    factors = weights * upstream / divisor

    # What rows of weight 0 hold does not matter, NaN included.
    grad_logits = _times(factors, grad_logits)
    if bidirectional:
        grad_logits[:, :batch_size] += _times(factors, column_part).T
    weighted = _times(weights[:, None], losses[:, None])[:, 0]
    loss = weighted if reduction == "none" else weighted.sum() / divisor

    grad_scores = grad_logits * np.where(hard, t, 1) / temperature
    grad_q, grad_c = grad_scores @ c, grad_scores.T @ q
    if normalize:
        grad_q, grad_c = _through_norm(query, grad_q), _through_norm(candidate, grad_c)
    return Truth(
        loss,
        grad_q,
        grad_c,
        losses * upstream / divisor,
        float(-np.sum(grad_logits * plain_logits) / temperature),
        float(-np.sum(grad_logits[rows, positive]) / temperature),
        float(np.sum(grad_logits * np.where(hard, scores + 1, 0)) / temperature),
    )


def positive_ranks(
    query_embeddings: Any,
    candidate_embeddings: Any,
    positives: Any = None,
    *,
    normalize: bool = False,
    candidate_ids: Any = None,
    candidate_mask: Any = None,
    score_mask: Any = None,
) -> NDArray[np.int32]:
    """How many negatives each row's positive does not beat: NaN beats nothing and is not beaten."""
    q, c = _float64(query_embeddings), _float64(candidate_embeddings)
    if normalize:
        q, c = _normalized(q), _normalized(c)
    rows, columns = np.arange(len(q)), np.arange(len(c))
    positive = rows if positives is None else np.asarray(positives, np.int64)
    scores = q @ c.T
    own = scores[rows, positive][:, None]
    beaten = (scores < own) | ((scores == own) & (columns > positive[:, None]))
    kept = negatives(positive, len(c), candidate_ids, candidate_mask, score_mask)
    return np.count_nonzero(kept & ~beaten, axis=1).astype(np.int32)


def negatives(
    positive: Any, num_candidates: int, candidate_ids: Any, candidate_mask: Any, score_mask: Any
) -> Mask:
    """Which candidates are negatives of which rows, [B, C]."""
    kept = np.arange(num_candidates) != np.asarray(positive)[:, None]
    if candidate_ids is not None:
        ids = np.asarray(candidate_ids)
        kept &= ids != ids[positive][:, None]
    if candidate_mask is not None:
        kept &= np.asarray(candidate_mask, bool)
    if score_mask is not None:
        kept &= np.asarray(score_mask, bool)
    return kept


def _largest(logits: Array, kept: Mask, count: int) -> Mask:
    """Each row's `count` largest logits of those kept; of equal ones the first."""
    result = np.zeros_like(kept)
    for i, row in enumerate(logits):
        columns = np.flatnonzero(kept[i])
        result[i, columns[np.lexsort((columns, -row[columns]))][:count]] = True
    return result


def _softmax_losses(
    logits: Array,
    kept: Mask,
    positive: Any,
    label_smoothing: float,
    positive_in_softmax: bool,
    negative_weight: float,
    refined: bool,
) -> _Direction:
    loss, grads = np.zeros(len(logits)), np.zeros_like(logits)
    for i, row in enumerate(logits):
        p, others = positive[i], np.flatnonzero(kept[i])
        if positive_in_softmax:
            members = np.concatenate([[p], others])
            exponentials = np.exp(row[members] - row[members].max())
            total, rest = exponentials.sum(), exponentials[1:].sum()
            if exponentials[0] > 1e-300:
                # A loss close to 0 may not come from a difference of numbers close to 1.
                loss[i] = np.log1p(rest / exponentials[0])
            else:
                loss[i] = np.log(total) + row[members].max() - row[p]
            loss[i] += label_smoothing * np.mean(row[p] - row[members])
            grads[i, members] = exponentials / total
            grads[i, p] = -rest / total
            grads[i, members] -= label_smoothing / len(members)
            grads[i, p] += label_smoothing
        elif len(others):
            exponentials = np.exp(row[others] - row[others].max())
            log_sum = np.log(exponentials.sum()) + row[others].max()
            loss[i] = negative_weight * log_sum - row[p]
            grads[i, others] = negative_weight * exponentials / exponentials.sum()
            grads[i, p] = -1
            if refined:
                # 1 - P, P = exp(l_p) / (exp(l_p) + mean exp(l_j)), without overflow.
                doubt = 1 / (1 + np.exp(row[p] - (log_sum - np.log(len(others)))))
                loss[i] *= doubt
                grads[i] *= doubt
    return _Direction(loss, grads)


def _times(factors: Array, rows: Array) -> Array:
    """Rows times factors, 0 where a factor is 0."""
    factors = factors.reshape(-1, 1)
    return np.where(factors == 0, 0, factors * np.where(factors == 0, 0, rows))


def _float64(values: Any) -> Array:
    return np.asarray(values).astype(np.float64)


def _normalized(rows: Array) -> Array:
    return rows / np.sqrt(np.maximum((rows**2).sum(axis=1, keepdims=True), 1e-12))


def _through_norm(rows: Array, grads: Array) -> Array:
    """The gradient by rows, given that by normalised rows."""
    used = grads.any(axis=1, keepdims=True)
    squares = (rows**2).sum(axis=1, keepdims=True)
    norms = np.sqrt(np.maximum(squares, 1e-12))
    unit = rows / norms
    radial = np.where(squares > 1e-12, (unit * grads).sum(axis=1, keepdims=True), 0.0)
    return np.where(used, (grads - unit * radial) / norms, 0.0)
