"""The pairwise logistic loss and its gradients in float64 NumPy, written from the formulas.

Independent of the package: nothing here is imported from it, and nothing in it from here.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Truth(NamedTuple):
    """The loss and its derivatives, and the sum of the magnitudes of `grad_temperature`'s terms."""

    loss: float
    grad_logits: Array
    grad_weights: Array
    grad_margin: float
    grad_temperature: float
    temperature_terms: float


def pairwise_logistic(
    labels: Any,
    logits: Any,
    session_ids: Any = None,
    margin: float = 0.0,
    temperature: float = 1.0,
    weights: ArrayLike = 1.0,
) -> Truth:
    """Every pair in a matrix: softplus, its slope, and sums over rows and columns."""
    labels = np.reshape(labels, -1)
    if labels.dtype.kind not in "iub":
        labels = labels.astype(np.float64)
    logits = np.reshape(np.asarray(logits).astype(np.float64), -1)
    size = logits.size
    weights = np.broadcast_to(np.reshape(np.asarray(weights).astype(np.float64), -1), size)
    ordered = labels[:, None] > labels[None, :]
    if session_ids is not None:
        session_ids = np.reshape(session_ids, -1)
        ordered = ordered & (session_ids[:, None] == session_ids[None, :])
    num_pairs = np.count_nonzero(ordered & (weights != 0)[:, None])
    if num_pairs == 0:
        return Truth(0.0, np.zeros(size), np.zeros(size), 0.0, 0.0, 0.0)

    # Nothing is computed with pairs that do not count, nor with rows of weight 0 but their losses.
    first, second = np.nonzero(ordered)
    differences = logits[first] - logits[second]
    u = margin - differences / temperature
    small = np.exp(-np.abs(u))
    losses = np.maximum(u, 0) + np.log1p(small)
    row_losses = np.bincount(first, losses, size)
    counted = weights[first] != 0
    first, second, differences, u, small = (
        values[counted] for values in (first, second, differences, u, small)
    )
    slopes = weights[first] * np.where(u > 0, 1.0, small) / (1.0 + small) / num_pairs
    grad_logits = np.bincount(second, slopes, size) - np.bincount(first, slopes, size)
    return Truth(
        np.sum(weights[first] * losses[counted]) / num_pairs,
        grad_logits / temperature,
        row_losses / num_pairs,
        np.sum(slopes),
        np.sum(slopes * differences) / temperature**2,
        np.sum(np.abs(slopes * differences)) / temperature**2,
    )
