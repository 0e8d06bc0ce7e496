"""The float64 truth of a workload, and the check that stands before every timing."""

from __future__ import annotations

import dataclasses

import numpy as np
from suite import describe_difference

from rolled_softmax.workloads import GAMMA, MARGIN, Inputs, T

MAX_CHECKED_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Truth:
    """Loss and gradients in float64; the gradients on a sample of rows where B is large."""

    loss: float
    rows: np.ndarray  # [N], the rows of the gradients that are checked
    grad_user: np.ndarray  # [N, D]
    grad_item: np.ndarray  # [N, D]


def compute_truth(inputs: Inputs) -> Truth:
    """Evaluates loss and gradients in float64 NumPy, one shift at a time: O(B (K + D)) memory."""
    user, user_norm = _normalise(inputs.user_emb)
    item, item_norm = _normalise(inputs.item_emb)
    batch_size = len(user)
    shifts = inputs.shifts.astype(np.int64) % batch_size
    counted = inputs.labels > 0

    doubled = np.concatenate([item, item])
    negatives = np.stack(
        [np.einsum("bd,bd->b", user, doubled[batch_size - s : 2 * batch_size - s]) for s in shifts],
        axis=1,
    )
    positive = np.einsum("bd,bd->b", user, item) - MARGIN
    hard = positive[:, None] < negatives
    logits = GAMMA * np.where(hard, T * negatives + T - 1, negatives)
    positive_logit = GAMMA * positive
    top = np.maximum(positive_logit, logits.max(axis=1))
    exponentials = np.exp(logits - top[:, None])
    total = np.exp(positive_logit - top) + exponentials.sum(axis=1)
    loss = (np.log(total) + top - positive_logit)[counted].mean()

    # d loss / d cosine, for the positive and each negative.
    row_scale = GAMMA * counted / counted.sum()
    weight_positive = row_scale * (np.exp(positive_logit - top) / total - 1)
    weights = exponentials * (row_scale / total)[:, None] * np.where(hard, T, 1.0)

    rows = np.arange(batch_size)
    if batch_size > MAX_CHECKED_ROWS:
        some = np.random.default_rng(1).choice(batch_size, MAX_CHECKED_ROWS, replace=False)
        rows = np.unique(np.concatenate([rows[:64], some, rows[-64:]]))
    grad_user = weight_positive[rows, None] * item[rows]
    grad_item = weight_positive[rows, None] * user[rows]
    columns = np.arange(len(shifts))
    for n, row in enumerate(rows):
        grad_user[n] += weights[row] @ item[(row - shifts) % batch_size]
        users = (row + shifts) % batch_size
        grad_item[n] += weights[users, columns] @ user[users]
    return Truth(
        loss=float(loss),
        rows=rows,
        grad_user=_through_norm(grad_user, user[rows], user_norm[rows]),
        grad_item=_through_norm(grad_item, item[rows], item_norm[rows]),
    )


def describe_error(truth: Truth, loss: float, grads: tuple[np.ndarray, np.ndarray]) -> str | None:
    """Says what is wrong with a result, or None if it agrees with the truth."""
    rows = tuple(grad[truth.rows] for grad in grads)
    expected = (truth.loss, truth.grad_user, truth.grad_item)
    return describe_difference(expected, loss, rows, ("grad_user", "grad_item"))


def _normalise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = values.astype(np.float64)
    norm = np.sqrt(np.maximum(np.sum(values**2, axis=1, keepdims=True), 1e-12))
    return values / norm, norm


def _through_norm(grad: np.ndarray, unit: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """The gradient of x from the gradient of x / |x|."""
    return (grad - unit * np.sum(grad * unit, axis=1, keepdims=True)) / norm
