# mypy: allow-untyped-defs, allow-untyped-calls
"""The score pass: every user row meets its candidates."""

from __future__ import annotations

import math

import numpy as np

from fastneg.backends.numba.plan import CHUNK, compiled
from fastneg.backends.numba.references import choose_references, own_logit
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
                if exact[r] and references[r] == -np.inf:
                    references[r] = 0  # There is nothing to be summed.
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
            gap = float(references[r]) - float(own_logit(plan, i, positives[r]))
            if plan.positive_in_softmax:
                loss, positive, total = _with_positive(negatives, gap)
                factor = 1.0
            else:
                loss, positive, total, factor = _without_positive(
                    plan, worker, i, r, negatives, gap, float(references[r]), sums
                )
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
        weight *= factor
        if plan.with_scalars:
            by_gamma = _sum(sums, 1, r)
            if plan.negative_weight != 1:
                by_gamma += positive * (plan.negative_weight - 1) * float(positives[r])
            plan.chunk_sums[i // CHUNK, 1] += weight * by_gamma / total
            plan.chunk_sums[i // CHUNK, 2] += weight * plan.gamma * positive / total
            plan.chunk_sums[i // CHUNK, 3] += weight * plan.gamma * _sum(sums, 2, r) / total
        if plan.with_grad:
            plan.exps[num_negatives, i] = -positive
            scales[r] = weight * plan.gamma / total
            for d in range(width):
                gradient[r, d] = scales[r] * (gradient[r, d] - scalar(positive) * plan.item[i, d])


@compiled
def _with_positive(negatives, gap):
    """The loss, and what the positive and the sum of all count as in gradients.

    loss = log(1 + negatives exp(gap)): small losses keep their digits, large gaps do not overflow.
    """
    own = math.exp(-gap)
    small = gap < 50
    loss = math.log1p(negatives / own) if small else gap + math.log(negatives + own)
    return loss, negatives, negatives + own


@compiled
def _without_positive(plan, worker, i, r, negatives, gap, reference, sums):
    """The same with the positive out of the softmax, and a constant factor of all gradients.

    A row without negatives has loss 0, and gradients of 0 by a sum of infinity.
    """
    if negatives == 0:
        return 0.0, 0.0, np.inf, 1.0
    weight = plan.negative_weight
    log_sum = math.log(negatives)
    if plan.log_others.size:
        log_sum += float(plan.log_others[i])
    loss = weight * log_sum + (weight - 1) * reference + gap
    factor = 1.0
    if plan.log_others.size:
        odds = -gap - (log_sum - math.log(_num_negatives(plan, i)))
        factor = 1 / (1 + math.exp(min(odds, 700.0)))
        loss *= factor
    if abs(weight) >= 1e-6:
        return loss, negatives / weight, negatives / weight, factor
    # These quotients could overflow.
    share = plan.user.dtype.type(weight / negatives)
    for which in range(1, sums.shape[0]):
        for k in range(sums.shape[2]):
            sums[which, r, k] *= share
    if plan.with_grad:
        for k in range(plan.shifts.size - 1):
            plan.exps[k, i] *= share
        for d in range(plan.user.shape[1]):
            plan.sums[worker, r, d] *= share
    return loss, 1.0, 1.0, factor


@compiled
def _num_negatives(plan, i):
    """How many of row i's candidates have another id."""
    count = plan.shifts.size - 1
    for k in range(plan.shifts.size - 1 if plan.ids.size else 0):
        count -= plan.ids[i - plan.shifts[k]] == plan.ids[i]  # Negative places count from the end.
    return count


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
