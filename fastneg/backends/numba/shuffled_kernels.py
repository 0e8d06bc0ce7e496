# mypy: allow-untyped-defs, allow-untyped-calls
"""The compiled loops of `negative_cosine_loss`: scores and gradients of queries, then documents.

Rows are computed one by one, each by one thread, so results do not depend on who computes them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastneg.backends.numba.atomics import fetch_add, flush_denormals, relax, set_float_mode
from fastneg.backends.numba.plan import Array, compiled, strict

# Rows that a thread takes at a time.
ROWS = 64


class ShuffledPlan(NamedTuple):
    """The arrays and numbers of one call; T is the compute dtype. Optional arrays may be empty."""

    query: Array  # [B, D] T, unit rows
    doc: Array  # [B, D] T, unit rows
    query_inverse: Array  # [B] T: 1 / norm, negative where the norm was clipped
    doc_inverse: Array  # [B] T
    permutations: Array  # [K, B] int64
    inverses: Array  # [K, B] int64
    offsets: Array  # [B] T, -log q, optional
    log_others: Array  # [B] T, log(1 - q), for the refined correction, else empty
    ids: Array  # [B] int64, optional
    gamma: float
    positive_in_softmax: bool
    negative_weight: float
    with_grad: bool
    # Results.
    row_losses: Array  # [B] T
    row_grad_gamma: Array  # [B] T
    grad_query: Array  # [B, D] T, optional
    grad_doc: Array  # [B, D] T, optional
    # Scratch.
    cosines: Array  # [B, K + 1] T
    weights: Array  # [B, K + 1] T: d row loss / d cosine


@compiled
def _dot(x, y):
    total = x.dtype.type(0)
    for d in range(x.size):
        total += x[d] * y[d]
    return total


@strict
def _through_normalisation(grad, row, inverse):
    """From the gradient of a unit row to that of the row itself, in place."""
    along = grad.dtype.type(0)
    if inverse > 0:
        for d in range(grad.size):
            along += grad[d] * row[d]
    length = abs(inverse)
    for d in range(grad.size):
        grad[d] = length * (grad[d] - along * row[d])


@strict
def score_row(plan, i):
    """Loss of row i, and the gradient of its query."""
    count = plan.permutations.shape[0] + 1
    cosines, weights = plan.cosines[i], plan.weights[i]
    gamma = plan.query.dtype.type(plan.gamma)
    highest = plan.query.dtype.type(-np.inf)
    for k in range(count):
        j = i if k == 0 else plan.permutations[k - 1, i]
        cosines[k] = _dot(plan.query[i], plan.doc[j])
        logit = gamma * cosines[k]
        if plan.offsets.size and not (k == 0 and plan.log_others.size):
            logit += plan.offsets[j]
        if k > 0 and plan.ids.size and plan.ids[j] == plan.ids[i]:
            cosines[k] = 0  # Of what is left out, NaN does not matter.
            logit = -np.inf
        weights[k] = logit
        if (k > 0 or plan.positive_in_softmax) and (logit > highest or logit != logit):
            highest = logit
    own = weights[0] - highest
    others = plan.query.dtype.type(0)
    for k in range(1, count):
        weights[k] = np.exp(weights[k] - highest)
        others += weights[k]
    if plan.positive_in_softmax:
        weights[0] = np.exp(own)
        ratio = others / weights[0]
        loss = np.log1p(ratio) if ratio < 1e30 else np.log(others + weights[0]) - own
        plan.row_losses[i] = loss
        scale = 1 / (others + weights[0])
        weights[0] = -others
    elif highest == -np.inf:
        plan.row_losses[i] = 0  # A row without negatives.
        scale = plan.query.dtype.type(0)
        for k in range(count):
            weights[k] = 0
    else:
        scale = _without_positive(plan, i, own, highest, others)
    per_gamma = plan.query.dtype.type(0)
    for k in range(count):
        per_gamma += scale * weights[k] * cosines[k]
        weights[k] *= scale * gamma
    plan.row_grad_gamma[i] = per_gamma
    if plan.with_grad:
        grad = plan.grad_query[i]
        for d in range(grad.size):
            grad[d] = weights[0] * plan.doc[i, d]
        for k in range(1, count):
            if weights[k] == 0:
                continue  # Nor does it in the row.
            row = plan.doc[plan.permutations[k - 1, i]]
            for d in range(grad.size):
                grad[d] += weights[k] * row[d]
        _through_normalisation(grad, plan.query[i], plan.query_inverse[i])


@strict
def _without_positive(plan, i, own, highest, others):
    """Loss of row i with the positive out of the softmax, and the derivatives by its logits.

    Returns:
        What the latter are still to be multiplied with.
    """
    scalar = plan.query.dtype.type
    weights = plan.weights[i]
    negative_weight = scalar(plan.negative_weight)
    log_sum = np.log(others)
    if plan.log_others.size:
        log_sum += plan.log_others[i]
    loss = negative_weight * log_sum + (negative_weight - scalar(1)) * highest - own
    factor = scalar(1)
    if plan.log_others.size:
        odds = own - (log_sum - np.log(scalar(_num_negatives(plan, i))))
        factor /= scalar(1) + np.exp(min(odds, scalar(88)))
    plan.row_losses[i] = factor * loss
    weights[0] = -1
    for k in range(1, weights.size):
        weights[k] *= negative_weight / others
    return factor


@compiled
def _num_negatives(plan, i):
    """How many of row i's candidates have another id."""
    count = plan.permutations.shape[0]
    for k in range(count if plan.ids.size else 0):
        count -= plan.ids[plan.permutations[k, i]] == plan.ids[i]
    return count


@strict
def gather_row(plan, j):
    """The gradient of document j, from the queries that had it as a candidate."""
    grad = plan.grad_doc[j]
    for d in range(grad.size):
        grad[d] = plan.weights[j, 0] * plan.query[j, d]
    for k in range(plan.inverses.shape[0]):
        i = plan.inverses[k, j]
        weight = plan.weights[i, k + 1]
        row = plan.query[i]
        for d in range(grad.size):
            grad[d] += weight * row[d]
    _through_normalisation(grad, plan.doc[j], plan.doc_inverse[j])


def make_run(source: str) -> Any:
    """Makes the entry; `source` tells cached machine code apart."""

    def run(plan, counters):
        """Takes rows until the whole call is done: to be entered by any number of threads."""
        if source == "":
            return
        float_mode = flush_denormals()
        batch_size = plan.query.shape[0]
        num_tasks = -(-batch_size // ROWS)
        for phase in range(2 if plan.with_grad else 1):
            while True:
                task = fetch_add(counters, 16 * phase, 1)
                if task >= num_tasks:
                    break
                for row in range(task * ROWS, min((task + 1) * ROWS, batch_size)):
                    if phase == 0:
                        score_row(plan, row)
                    else:
                        gather_row(plan, row)
                fetch_add(counters, 16 * phase + 8, 1)
            while fetch_add(counters, 16 * phase + 8, 0) < num_tasks:
                relax()
        set_float_mode(float_mode)

    return run
