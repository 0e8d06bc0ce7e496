# mypy: allow-untyped-defs, allow-untyped-calls
"""The score pass: every user row meets its candidates."""

from __future__ import annotations

import math

import numpy as np

from fastneg.backends.numba.plan import CHUNK, compiled
from fastneg.backends.numba.references import choose_references
from fastneg.backends.numba.rows import fill, project_rows, scale_rows
from fastneg.backends.numba.simd import QUAD, dots, exponentiate, gather, raise_maxima, transpose

_FOUR = (0,) * 4


@compiled
def score_tile(plan, block, worker, tile):
    """Losses and user gradients of one tile; leaves exponentials and scaled user rows behind."""
    scalar = plan.user.dtype.type
    lanes = len(block)
    batch_size = plan.active.size
    width = plan.user.shape[1]
    begin = tile * plan.tile_rows
    rows = min(plan.tile_rows, batch_size - begin)
    num_negatives = plan.shifts.size - 1
    padded = -(-num_negatives // lanes) * lanes
    dtype = plan.user.dtype

    item_windows = np.empty(padded, np.int64)
    exp_windows = np.empty(padded, np.int64)
    for k in range(padded):
        shift = plan.shifts[min(k, num_negatives - 1)]
        item_windows[k] = (begin - shift + (batch_size if shift > begin else 0)) * width
        exp_windows[k] = (k if k < num_negatives else num_negatives + 1) * plan.exps.shape[1]

    live = np.zeros(plan.tile_rows, np.bool_)
    exact = np.zeros(plan.tile_rows, np.bool_)
    positives = np.zeros(plan.tile_rows, dtype)
    references = np.empty(plan.tile_rows, dtype)
    sums = np.zeros((3 if plan.with_scalars else 1, plan.tile_rows, lanes), dtype)
    scores = np.zeros((QUAD, lanes), dtype)
    slopes = np.zeros((QUAD, lanes), dtype)
    bias = np.zeros((QUAD, lanes), dtype)
    any_exact = choose_references(plan, begin, rows, live, exact, positives, references, scores)
    gamma, t = scalar(plan.gamma), scalar(plan.t)
    with_bias = plan.offsets.size + plan.ids.size > 0
    # 0 times NaN would let through what an accidental hit holds.
    careful = plan.ids.size > 0 and _any(plan.tile_spoilt)
    gradient = plan.sums[worker]
    user, item, exps = plan.user, plan.item, plan.exps
    if plan.with_grad:
        fill(gradient, 0)
    if any_exact:
        fill(sums[0], -np.inf)

    # Twice where a row's largest logit has to be found first.
    for sweep in range(0 if any_exact else 1, 2):
        for first in range(0, num_negatives, lanes):
            count = min(lanes, num_negatives - first)
            for k in range(lanes):
                for r in range(QUAD):
                    bias[r, k] = 0 if k < count else -np.inf
            for q in range(0, rows, QUAD):
                wanted = live if sweep == 1 else exact
                if not (wanted[q] or wanted[q + 1] or wanted[q + 2] or wanted[q + 3]):
                    if plan.with_grad and sweep == 1:
                        for k in range(first, first + count):
                            for r in range(QUAD):
                                plan.exps[k, begin + q + r] = 0
                    continue
                for r in range(QUAD):
                    row = (q + r) * width
                    start = begin * width + row
                    if not wanted[q + r]:
                        for k in range(lanes):
                            scores[r, k] = 0
                    elif count > QUAD:
                        dots(block, user, start, item, item_windows, first, row, scores, r)
                    else:
                        dots(_FOUR, user, start, item, item_windows, first, row, scores, r)
                if with_bias:
                    _fill_bias(plan, begin + q, min(QUAD, rows - q), first, count, scores, bias)
                if sweep == 0:
                    raise_maxima(scores, bias, positives, q, gamma, t, sums)
                    continue
                if plan.with_scalars:
                    exponentiate(
                        scores, bias, positives, references, q, gamma, t, slopes, sums, True
                    )
                else:
                    exponentiate(
                        scores, bias, positives, references, q, gamma, t, slopes, sums, False
                    )
                if plan.with_grad:
                    transpose(slopes, exps, exp_windows, first, begin + q)
                    if careful:
                        _gather_used(gradient, q, item, item_windows, exps, begin, first, count)
                    else:
                        gather(
                            gradient, q, item, item_windows, exps, exp_windows, begin + q, first,
                            count,
                        )  # fmt: skip
        if sweep == 0:
            for r in range(rows):
                for k in range(lanes):
                    if exact[r] and sums[0, r, k] > references[r]:
                        references[r] = sums[0, r, k]
            fill(sums[0], 0)

    scales = references
    _finish_rows(plan, worker, tile, live, positives, references, sums, scales)
    if plan.with_grad:
        project_rows(plan.sums[worker], plan.user, plan.user_inverse, plan.grad_user, begin, rows,
                      plan.normalise)  # fmt: skip
        scale_rows(plan.user, begin, rows, scales)


@compiled
def _fill_bias(plan, begin, rows, first, count, scores, bias):
    """What the quad at row `begin` adds to its logits: -log q, or -inf for an accidental hit."""
    batch_size = plan.active.size
    for r in range(rows):
        for k in range(count):
            j = begin + r - plan.shifts[first + k]
            if j < 0:
                j += batch_size
            bias[r, k] = plan.offsets[j] if plan.offsets.size else 0
            if plan.ids.size and plan.ids[j] == plan.ids[begin + r]:
                bias[r, k] = -np.inf
                scores[r, k] = 0
        for k in range(count, scores.shape[1]):
            scores[r, k] = 0  # They repeat the last candidate, which may be a hit.


@compiled
def _finish_rows(plan, worker, tile, live, positives, references, sums, scales):
    """The rows' losses, and their gradients by the normalised user rows.

    `scales` gets what the item pass will multiply a row's exponentials with.
    """
    scalar = plan.user.dtype.type
    num_negatives = plan.shifts.size - 1
    width = plan.user.shape[1]
    begin = tile * plan.tile_rows
    gradient = plan.sums[worker]
    for r in range(min(plan.tile_rows, plan.active.size - begin)):
        i = begin + r
        weight = 1.0
        if plan.weights.size:
            weight = float(plan.weights[i])
        if live[r]:
            negatives = _sum(sums, 0, r)
            own_logit = scalar(plan.gamma) * positives[r]
            if plan.offsets.size:
                own_logit += plan.offsets[i]
            # loss = log(1 + negatives exp(gap)): small losses keep their digits, large gaps do not
            # overflow.
            gap = float(references[r]) - float(own_logit)
            own = math.exp(-gap)
            small = gap < 50
            loss = math.log1p(negatives / own) if small else gap + math.log(negatives + own)
            if plan.row_losses.size:
                plan.row_losses[i] = loss
        if not live[r] or weight == 0:
            scales[r] = 0
            if plan.with_grad:
                plan.user_inverse[i] = 1
                for d in range(width):
                    plan.user[i, d] = gradient[r, d] = 0
                for k in range(num_negatives if not live[r] else 0, num_negatives + 1):
                    plan.exps[k, i] = 0
            continue
        weight *= plan.inverse_count
        plan.chunk_sums[i // CHUNK, 0] += weight * loss
        total = negatives + own
        if plan.with_scalars:
            plan.chunk_sums[i // CHUNK, 1] += weight * _sum(sums, 1, r) / total
            plan.chunk_sums[i // CHUNK, 2] += weight * plan.gamma * negatives / total
            plan.chunk_sums[i // CHUNK, 3] += weight * plan.gamma * _sum(sums, 2, r) / total
        if plan.with_grad:
            plan.exps[num_negatives, i] = -negatives
            scales[r] = weight * plan.gamma / total
            for d in range(width):
                gradient[r, d] = scales[r] * (gradient[r, d] - scalar(negatives) * plan.item[i, d])


@compiled
def _gather_used(gradient, q, item, item_windows, exps, begin, first, count):
    """As `gather`, but items whose exponential is 0 add nothing."""
    width = item.shape[1]
    for r in range(q, q + QUAD):
        for k in range(first, first + count):
            weight = exps[k, begin + r]
            if weight != 0:
                j = item_windows[k] // width + r
                for d in range(width):
                    gradient[r, d] += weight * item[j, d]


@compiled
def _any(flags):
    found = False
    for i in range(flags.size):
        found |= flags[i]
    return found


@compiled
def _sum(sums, which, r):
    total = 0.0
    for k in range(sums.shape[2]):
        total += float(sums[which, r, k])
    return total
