"""The SV-softmax loss over given scores, and its gradients, in NumPy from the formulas.

Computed in the longest floating-point type that NumPy has: the rounding of float64 would be that of
what is tested. Independent of the package: nothing here is imported from it, and nothing in it from
here.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Truth(NamedTuple):
    """The loss and its derivatives."""

    loss: float
    grad_pos: Array
    grad_neg: Array
    grad_weights: Array
    grad_smooth: float
    grad_margin: float
    grad_t: float


def sv_softmax(
    pos_score: Any,
    neg_scores: Any,
    *,
    margin: float = 0.0,
    t: float = 1.0,
    smooth: float = 1.0,
    threshold: float = 0.0,
    weights: ArrayLike = 1.0,
) -> Truth:
    """Row by row: scores, logits, softmax, and back."""
    neg_scores = np.asarray(neg_scores).astype(np.longdouble)
    num_rows = len(neg_scores)
    margin, t, smooth, threshold = (np.longdouble(x) for x in (margin, t, smooth, threshold))
    positives = np.reshape(np.asarray(pos_score).astype(np.longdouble), num_rows) - margin
    weights = np.reshape(np.asarray(weights).astype(np.longdouble), -1)
    weights = np.broadcast_to(weights, num_rows)
    count = np.count_nonzero(weights)
    loss = grad_smooth = grad_margin = grad_t = np.longdouble(0.0)
    grad_pos, grad_weights = np.zeros((2, num_rows), np.longdouble)
    grad_neg = np.zeros_like(neg_scores)
    for i in range(num_rows if count else 0):
        positive, negatives = positives[i], neg_scores[i]
        hard = positive - negatives < threshold
        scores = np.where(hard, t * negatives + t - 1, negatives)
        # Relative to the positive's logit, so that a small loss comes from no large numbers.
        leads = scores - positive
        highest = max(0.0, np.max(smooth * leads, initial=0.0))
        exponentials = np.exp(smooth * leads - highest)
        others = exponentials.sum()
        total = others + np.exp(-highest)
        row_loss = np.log1p(others) if highest == 0 else highest + np.log(total)
        if not np.isfinite(smooth * positive):
            row_loss = np.nan
        grad_weights[i] = row_loss / count
        if weights[i] == 0:
            continue
        share = weights[i] / count
        loss += share * row_loss
        probabilities = exponentials / total
        grad_smooth += share * probabilities @ leads
        grad_margin += share * smooth * others / total
        grad_t += share * smooth * probabilities[hard] @ (negatives[hard] + 1)
        grad_pos[i] = -share * smooth * others / total
        grad_neg[i] = share * smooth * probabilities * np.where(hard, t, 1.0)
    return Truth(
        float(loss),
        *(grad.astype(np.float64) for grad in (grad_pos, grad_neg, grad_weights)),
        *(float(grad) for grad in (grad_smooth, grad_margin, grad_t)),
    )
