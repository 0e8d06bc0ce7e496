"""The gathered losses and their gradients in float64 NumPy, written from the formulas.

Independent of the package: nothing here is imported from it, and nothing in it from here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Truth(NamedTuple):
    """The loss and its derivatives."""

    loss: float
    grad_user: Array
    grad_item: Array
    grad_weights: Array
    grad_gamma: float
    grad_margin: float
    grad_t: float


def rolled_softmax(
    user_emb: Any,
    item_emb: Any,
    labels: ArrayLike,
    shifts: ArrayLike,
    *,
    embed_normed: bool = False,
    weights: ArrayLike = 1.0,
    gamma: float = 1.0,
    margin: float = 0.0,
    t: float = 1.0,
    candidate_sampling_probability: Any = None,
    candidate_ids: Any = None,
    positive_in_softmax: bool = True,
    negative_weight: float = 1.0,
    correction: str = "standard",
) -> Truth:
    """Row i's negatives are the rows i - shift."""
    batch_size = len(user_emb)
    # Python integers do not overflow.
    steps = np.array([int(shift) % max(batch_size, 1) for shift in np.ravel(shifts)])
    return _gathered_softmax(
        user_emb,
        item_emb,
        labels,
        lambda i: (i - steps) % batch_size,
        embed_normed=embed_normed,
        weights=weights,
        gamma=gamma,
        margin=margin,
        t=t,
        candidate_sampling_probability=candidate_sampling_probability,
        candidate_ids=candidate_ids,
        positive_in_softmax=positive_in_softmax and correction != "refined",
        negative_weight=negative_weight,
        refined=correction == "refined",
    )


def shuffled_cosine(
    query: Any,
    doc: Any,
    permutations: Any,
    *,
    t: float = 1.0,
    scale: float = 20.0,
    candidate_sampling_probability: Any = None,
    candidate_ids: Any = None,
    positive_in_softmax: bool = True,
    negative_weight: float = 1.0,
    correction: str = "standard",
) -> Truth:
    """Row i's negatives are the rows permutations[:, i]; user and item are query and document."""
    return _gathered_softmax(
        query,
        doc,
        np.ones(len(query)),
        lambda i: np.asarray(permutations)[:, i],
        embed_normed=False,
        weights=1.0,
        gamma=scale / t,
        margin=0.0,
        t=1.0,
        candidate_sampling_probability=candidate_sampling_probability,
        candidate_ids=candidate_ids,
        positive_in_softmax=positive_in_softmax and correction != "refined",
        negative_weight=negative_weight,
        refined=correction == "refined",
    )


def _gathered_softmax(
    user_emb: Any,
    item_emb: Any,
    labels: ArrayLike,
    negatives: Callable[[int], Any],
    *,
    embed_normed: bool,
    weights: ArrayLike,
    gamma: float,
    margin: float,
    t: float,
    candidate_sampling_probability: Any,
    candidate_ids: Any,
    positive_in_softmax: bool,
    negative_weight: float,
    refined: bool,
) -> Truth:
    """Row by row: cosines, logits, softmax, and back. `negatives` gives a row's item rows."""
    user_emb, item_emb = _float64(user_emb), _float64(item_emb)
    batch_size = len(user_emb)
    labels = np.reshape(_float64(labels), -1)
    weights = np.broadcast_to(np.reshape(_float64(weights), -1), batch_size)
    users, items = user_emb, item_emb
    if not embed_normed:
        users, items = _normalize(user_emb), _normalize(item_emb)
    log_q = log_others = np.zeros(batch_size)
    if candidate_sampling_probability is not None:
        probability = np.maximum(_float64(candidate_sampling_probability), 1e-9)
        log_q = np.log(probability)
        if refined:
            log_others = np.log(np.maximum(1 - probability, 1e-9))

    counted = labels > 0
    num_rows = np.count_nonzero(counted & (weights != 0))
    loss = grad_gamma = grad_margin = grad_t = 0.0
    grad_users, grad_items = np.zeros_like(users), np.zeros_like(items)
    grad_weights = np.zeros(batch_size)
    for i in np.flatnonzero(counted) if num_rows else []:
        others = negatives(i)
        if candidate_ids is not None:
            others = others[np.asarray(candidate_ids)[others] != np.asarray(candidate_ids)[i]]
        candidates = np.concatenate([[i], others])
        cosines = items[candidates] @ users[i]
        positive = cosines[0] - margin
        hard = positive - cosines < 0
        hard[0] = False
        scores = np.where(hard, t * cosines + t - 1, cosines)
        scores[0] = positive
        logits = gamma * scores - log_q[candidates] + log_others[i]
        if refined:
            logits[0] = gamma * positive
        if positive_in_softmax:
            row_loss, grad_logits = _loss_with_positive(logits)
        else:
            row_loss, grad_logits = _loss_without_positive(logits, negative_weight, refined)
        grad_weights[i] = row_loss / num_rows
        if weights[i] == 0:
            continue

        loss += weights[i] * row_loss / num_rows
        grad_logits *= weights[i] / num_rows
        grad_gamma += grad_logits @ scores
        grad_margin -= gamma * grad_logits[0]
        grad_t += gamma * grad_logits[hard] @ (cosines[hard] + 1)
        grad_cosines = gamma * grad_logits * np.where(hard, t, 1)
        grad_users[i] = grad_cosines @ items[candidates]
        np.add.at(grad_items, candidates, grad_cosines[:, None] * users[i])
    if not embed_normed:
        grad_users = _normalize_gradient(user_emb, grad_users)
        grad_items = _normalize_gradient(item_emb, grad_items)
    return Truth(loss, grad_users, grad_items, grad_weights, grad_gamma, grad_margin, grad_t)


def _loss_with_positive(logits: Array) -> tuple[float, Array]:
    highest = logits.max()
    exponentials = np.exp(logits - highest)
    total, rest = exponentials.sum(), exponentials[1:].sum()
    # Neither a loss nor a gradient close to 0 may come from a difference of numbers close to 1.
    loss = (
        np.log1p(rest / exponentials[0])
        if exponentials[0] > 1e-300
        else (np.log(total) - (logits[0] - highest))
    )
    grads = exponentials / total
    grads[0] = -rest / total
    return loss, grads


def _loss_without_positive(
    logits: Array, negative_weight: float, refined: bool
) -> tuple[float, Array]:
    own, negatives = logits[0], logits[1:]
    if not len(negatives):
        return 0.0, np.zeros(1)
    exponentials = np.exp(negatives - negatives.max())
    log_sum = np.log(exponentials.sum()) + negatives.max()
    loss = negative_weight * log_sum - own
    grads = np.concatenate([[-1.0], negative_weight * exponentials / exponentials.sum()])
    if refined:
        # 1 - P, P = exp(l_0) / (exp(l_0) + mean exp(l_k)), a constant.
        constant = 1 / (1 + np.exp(own - (log_sum - np.log(len(negatives)))))
        loss, grads = constant * loss, constant * grads
    return loss, grads


def _float64(values: Any) -> Array:
    return np.asarray(values).astype(np.float64)


def _normalize(rows: Array) -> Array:
    return rows / np.sqrt(np.maximum((rows**2).sum(axis=1, keepdims=True), 1e-12))


def _normalize_gradient(rows: Array, grads: Array) -> Array:
    """The gradient with respect to rows, given that with respect to normalised rows."""
    used = grads.any(axis=1, keepdims=True)
    squares = (rows**2).sum(axis=1, keepdims=True)
    norms = np.sqrt(np.maximum(squares, 1e-12))
    unit = rows / norms
    radial = np.where(squares > 1e-12, (unit * grads).sum(axis=1, keepdims=True), 0.0)
    return np.where(used, (grads - unit * radial) / norms, 0.0)
