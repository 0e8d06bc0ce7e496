# mypy: allow-untyped-defs, allow-untyped-calls
"""The compiled loops of `support_vector_guided_softmax_loss`.

A row's results depend on that row alone, whichever thread computes it and with which others, and
losses are added in blocks of fixed size: so results do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastneg.backends.numba.atomics import fetch_add, flush_denormals, relax, set_float_mode
from fastneg.backends.numba.plan import Array, compiled, strict
from fastneg.backends.numba.sv_softmax_simd import (
    HARDS,
    INVERSE,
    LEADS,
    LOSS,
    NEGATIVES,
    NUM_VALUES,
    POSITIVE,
    REFERENCE,
    SCALE,
    exponentiate_row,
    exponentiate_rows,
    finish_rows,
    largest_score,
    write_rows,
)

# Elements of a row that are summed in the compute dtype before they are added in float64.
_PART = 1024


class SvSoftmaxPlan(NamedTuple):
    """The arrays and numbers of one call; T is the compute dtype. Optional arrays may be empty."""

    pos_score: Array  # [P] T
    neg_scores: Array  # [P, K] T
    weights: Array  # [P] T, optional
    smooth: float
    margin: float
    t: float
    threshold: float
    inverse_count: float  # 1 / number of rows with a weight, or 0
    with_grad: bool
    with_scalars: bool
    lanes: int  # Of a vector: so many rows are a group.
    block_rows: int  # What a thread takes at a time, and what is summed first.
    # Results.
    block_sums: Array  # [blocks, 4] float64: loss; derivatives by smooth, margin, t
    grad_pos: Array  # [P] T, optional
    grad_neg: Array  # [P, K] T, optional
    grad_weights: Array  # [P] T, optional


class _Scratch(NamedTuple):
    """What one thread needs for a block; block_rows is rounded up to whole groups."""

    counted: Array  # [block_rows] bool: rows that are part of the loss and have gradients
    values: Array  # [groups, NUM_VALUES, lanes] T: what is known of the rows
    tile: Array  # [groups, K, lanes] T: short rows
    rows: Array  # [lanes, K] T: short rows of an incomplete group; of long rows, one


# The functions below handle whole blocks, with arrays in variables of their own: numba counts
# references whenever an array is taken out of a tuple or handed on, in memory that all threads
# share.


@compiled
def _start_block(plan, scratch, begin, count):
    """Fills POSITIVE of the values, and what rows count."""
    counted, values, lanes = scratch.counted, scratch.values, plan.lanes
    pos_score, weights = plan.pos_score, plan.weights
    margin = pos_score.dtype.type(plan.margin)
    for r in range(count):
        values[r // lanes, POSITIVE, r % lanes] = pos_score[begin + r] - margin
        counted[r] = weights[begin + r] != 0 if weights.size else True


@compiled
def _sum_short_rows(plan, scratch, begin, count):
    """Fills the values of rows shorter than a vector, and the tile."""
    scalar = plan.pos_score.dtype.type
    smooth, t, threshold = scalar(plan.smooth), scalar(plan.t), scalar(plan.threshold)
    sign = scalar(-1 if plan.smooth < 0 else 1)
    negatives, lanes = plan.neg_scores, plan.lanes
    width = negatives.shape[1]
    values, tile, rows = scratch.values, scratch.tile, scratch.rows
    whole = count // lanes
    for g in range(whole):
        start = (begin + g * lanes) * width
        if plan.with_scalars:
            exponentiate_rows(
                negatives, start, width, smooth, t, threshold, sign, values, tile, g, True
            )
        else:
            exponentiate_rows(
                negatives, start, width, smooth, t, threshold, sign, values, tile, g, False
            )
    for r in range(whole * lanes, count):
        for k in range(width):
            rows[r - whole * lanes, k] = negatives[begin + r, k]
    if whole * lanes < count:
        exponentiate_rows(rows, 0, width, smooth, t, threshold, sign, values, tile, whole, True)


@compiled
def _write_short_rows(plan, scratch, begin, count):
    """Gradients of the negatives."""
    grad, lanes = plan.grad_neg, plan.lanes
    width = grad.shape[1]
    values, tile, rows, counted = scratch.values, scratch.tile, scratch.rows, scratch.counted
    whole = count // lanes
    for g in range(whole):
        write_rows(tile, values, g, grad, (begin + g * lanes) * width, width)
    if whole * lanes < count:
        write_rows(tile, values, whole, rows, 0, width)
    for r in range(whole * lanes, count):
        for k in range(width):
            grad[begin + r, k] = rows[r - whole * lanes, k]
    # Whatever a row that does not count may hold, times 0.
    for r in range(count):
        for k in range(0 if counted[r] else width):
            grad[begin + r, k] = 0


@strict
def _sum_long_rows(plan, scratch, begin, count):
    """Fills the values of rows; leaves each negative's part in the gradient behind."""
    scalar = plan.pos_score.dtype.type
    smooth, t, threshold = scalar(plan.smooth), scalar(plan.t), scalar(plan.threshold)
    sign = scalar(-1 if plan.smooth < 0 else 1)
    negatives, lanes = plan.neg_scores, plan.lanes
    size = negatives.shape[1]
    values, counted = scratch.values, scratch.counted
    out = plan.grad_neg if plan.with_grad else scratch.rows
    # A row of weight 0 may still have a loss to tell its weight.
    read_all = plan.grad_weights.size > 0 and plan.inverse_count != 0
    for r in range(count):
        if not (read_all or counted[r]):
            continue
        g, lane = r // lanes, r % lanes
        start = (begin + r) * size
        place = start if plan.with_grad else 0
        positive = values[g, POSITIVE, lane]
        largest = largest_score(negatives, start, size, positive, t, threshold, sign)
        reference = sign * largest
        total = leads = hards = 0.0
        for first in range(0, size, _PART):
            part = min(_PART, size - first)
            if plan.with_scalars:
                sums = exponentiate_row(
                    negatives, start + first, part, positive, reference,
                    smooth, t, threshold, out, place + first, True,
                )  # fmt: skip
            else:
                sums = exponentiate_row(
                    negatives, start + first, part, positive, reference,
                    smooth, t, threshold, out, place + first, False,
                )  # fmt: skip
            total += float(sums[0])
            leads += float(sums[1])
            hards += float(sums[2])
        values[g, REFERENCE, lane] = reference
        values[g, NEGATIVES, lane] = total
        values[g, LEADS, lane] = leads
        values[g, HARDS, lane] = hards


@compiled
def _write_long_rows(plan, scratch, begin, count):
    """Gradients of the negatives."""
    grad, lanes = plan.grad_neg, plan.lanes
    size = grad.shape[1]
    values, counted = scratch.values, scratch.counted
    for r in range(count):
        i = begin + r
        if counted[r]:
            scale = values[r // lanes, SCALE, r % lanes]
            for k in range(size):
                grad[i, k] *= scale
        else:
            for k in range(size):
                grad[i, k] = 0


@strict
def _finish_block(plan, scratch, begin, count, block):
    """The block's loss, and gradients but for those of the negatives."""
    scalar = plan.pos_score.dtype.type
    values, counted, lanes = scratch.values, scratch.counted, plan.lanes
    weights, grad_pos, grad_weights = plan.weights, plan.grad_pos, plan.grad_weights
    smooth, inverse_count = plan.smooth, plan.inverse_count
    for g in range(-(-count // lanes)):
        finish_rows(values, g, scalar(smooth))
    loss_sum = smooth_sum = margin_sum = t_sum = 0.0
    for r in range(count):
        g, lane, i = r // lanes, r % lanes, begin + r
        loss = float(values[g, LOSS, lane])
        if grad_weights.size:
            grad_weights[i] = 0 if inverse_count == 0 else loss * inverse_count
        if not counted[r]:
            if plan.with_grad:
                grad_pos[i] = 0
            continue
        factor = (float(weights[i]) if weights.size else 1.0) * inverse_count
        loss_sum += factor * loss
        if not plan.with_grad:
            continue
        inverse, negatives = float(values[g, INVERSE, lane]), float(values[g, NEGATIVES, lane])
        scale = factor * smooth * inverse
        values[g, SCALE, lane] = scale
        grad_pos[i] = -scale * negatives
        if plan.with_scalars:
            behind = float(values[g, REFERENCE, lane]) - float(values[g, POSITIVE, lane])
            leads, hards = float(values[g, LEADS, lane]), float(values[g, HARDS, lane])
            smooth_sum += factor * inverse * (leads + negatives * behind)
            margin_sum += scale * negatives
            t_sum += scale * hards
    sums = plan.block_sums
    sums[block, 0], sums[block, 1] = loss_sum, smooth_sum
    sums[block, 2], sums[block, 3] = margin_sum, t_sum


@compiled
def _compute_block(plan, scratch, begin, count, block):
    is_short = plan.neg_scores.shape[1] < plan.lanes
    _start_block(plan, scratch, begin, count)
    if is_short:
        _sum_short_rows(plan, scratch, begin, count)
    else:
        _sum_long_rows(plan, scratch, begin, count)
    _finish_block(plan, scratch, begin, count, block)
    if plan.with_grad:
        if is_short:
            _write_short_rows(plan, scratch, begin, count)
        else:
            _write_long_rows(plan, scratch, begin, count)


def make_run(source: str) -> Any:
    """Makes the entry; `source` tells cached machine code apart."""

    def run(plan, counters, worker):
        """Takes blocks of rows until all are done: to be entered by any number of threads."""
        if source == "":
            return
        float_mode = flush_denormals()
        num_rows = plan.pos_score.size
        num_blocks = plan.block_sums.shape[0]
        dtype, lanes, width = plan.pos_score.dtype, plan.lanes, plan.neg_scores.shape[1]
        is_short = width < lanes
        groups = -(-plan.block_rows // lanes)
        scratch = _Scratch(
            np.zeros(plan.block_rows, np.bool_),
            np.zeros((groups, NUM_VALUES, lanes), dtype),
            np.zeros((groups, width if is_short else 0, lanes), dtype),
            np.zeros((lanes if is_short else 1, width), dtype),
        )
        while True:
            block = fetch_add(counters, 0, 1)
            if block >= num_blocks:
                break
            begin = block * plan.block_rows
            _compute_block(plan, scratch, begin, min(plan.block_rows, num_rows - begin), block)
            fetch_add(counters, 8, 1)
        while fetch_add(counters, 8, 0) < num_blocks:
            relax()
        set_float_mode(float_mode)

    return run
