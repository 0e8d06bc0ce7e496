"""The rolled SV-softmax loss and its gradients in numba: what is computed, on plain NumPy arrays.

Three passes over fixed tiles of rows, each tile a task that any thread may take:

1. `_prepare_tile` normalises the rows into padded scratch;
2. `_score_tile` meets every user row with its candidates: loss, user gradient, and the negatives'
   exponentials, kept for
3. `_gather_tile`: item row j gathers the user rows that had it as a candidate. No two tasks write
   the same row, and sums run in a fixed order, so the result does not depend on who runs what.

The shifts are sorted: the windows of neighbouring shifts overlap, and a tile finds most item rows in
the second-level cache. The scratch rows continue past the batch with its first rows, so that no window
of a tile wraps around. A row's softmax is taken relative to a reference that bounds alone give, where
that is safe; else relative to its largest logit, which needs one more sweep.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from fastneg.backends.numba import simd

# What rounding may do to a cosine.
_COSINE_BOUND = 1.00001

# tf.nn.l2_normalize's: shorter rows are only scaled, and have no projection in their gradient.
_EPSILON = 1e-12

# Counters lie this far apart, in elements: on different cache lines.
_COUNTER_STRIDE = 8

# Rows of exponentials that one task continues past the batch.
_WRAP_ROWS = 64

# Shifts whose windows the item pass walks together: few enough for the second-level cache.
_ITEM_WINDOWS = 32

_QUAD = simd.QUAD
_FOUR = (0,) * 4

# NaN and infinity keep their meaning; sums may be reordered, but by the compiler only.
compiled = njit(fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")


class Plan(NamedTuple):
    """The arrays and numbers of one call; T is the compute dtype.

    Arrays marked "optional" are empty where they are not wanted.
    """

    user_emb: np.ndarray[Any, Any]  # [B, D] T
    item_emb: np.ndarray[Any, Any]  # [B, D] T
    active: np.ndarray[Any, Any]  # [B] bool: rows whose loss is wanted
    weights: np.ndarray[Any, Any]  # [B] T, optional
    offsets: np.ndarray[Any, Any]  # [B] T, -log q, optional
    ids: np.ndarray[Any, Any]  # [B] int64, optional
    shifts: np.ndarray[Any, Any]  # [K + 1] int64: sorted, in 1 .. B - 1; then 0, the positive
    gamma: float
    margin: float
    t: float
    inverse_count: float  # 1 / number of counted rows with a weight, or 0
    max_offset: float
    normalise: bool
    with_grad: bool
    with_scalars: bool
    tile_rows: int  # A multiple of _QUAD.
    # Results.
    row_losses: np.ndarray[Any, Any]  # [B] T, optional: of the active rows, without weight
    tile_sums: np.ndarray[Any, Any]  # [tiles, 4] float64: loss; its derivatives by gamma, margin, t
    grad_user: np.ndarray[Any, Any]  # [B, D] T, optional
    grad_item: np.ndarray[Any, Any]  # [B, D] T, optional
    # Scratch.
    user: np.ndarray[Any, Any]  # [B + tile_rows + _QUAD, width] T
    item: np.ndarray[Any, Any]
    user_inverse: np.ndarray[Any, Any]  # [B] T: 1 / norm, negative where the norm was clipped
    item_inverse: np.ndarray[Any, Any]
    tile_norms: np.ndarray[Any, Any]  # [tiles, 2] T: largest norms, where not normalised
    exps: np.ndarray[Any, Any]  # [K + 2, B + tile_rows + _QUAD] T, optional; the last row is a dump
    sums: np.ndarray[Any, Any]  # [workers, tile_rows, width] T: gradients in the making


@compiled
def prepare_tile(plan, tile):  # type: ignore[no-untyped-def]
    """Fills one tile of `user` and `item`. User rows that are not active become zeros."""
    batch_size = plan.active.size
    begin = tile * plan.tile_rows
    end = min(begin + plan.tile_rows, batch_size)
    plan.tile_norms[tile, 0] = _prepare_rows(
        plan.user_emb, plan.active, plan.user, plan.user_inverse, begin, end, plan.normalise
    )
    plan.tile_norms[tile, 1] = _prepare_rows(
        plan.item_emb, plan.active[:0], plan.item, plan.item_inverse, begin, end, plan.normalise
    )
    for i in range(begin, min(end, plan.tile_rows)):
        for d in range(plan.item.shape[1]):
            plan.item[batch_size + i, d] = plan.item[i, d]


@compiled
def _prepare_rows(source, active, target, inverses, begin, end, normalise):  # type: ignore[no-untyped-def]
    """Copies rows into padded ones, normalised if wanted; returns their largest norm."""
    scalar = target.dtype.type
    dim = source.shape[1]
    epsilon = scalar(_EPSILON)
    largest = scalar(0)
    for i in range(begin, end):
        if active.size and not active[i]:
            for d in range(target.shape[1]):
                target[i, d] = 0
            continue
        squares = scalar(0)
        for d in range(dim):
            squares += source[i, d] * source[i, d]
        largest = max(largest, squares)
        scale = scalar(1)
        if normalise:
            # Written so that NaN goes through.
            clipped = squares < epsilon
            scale = scalar(1) / np.sqrt(epsilon if clipped else squares)
            inverses[i] = -scale if clipped else scale
        for d in range(dim):
            target[i, d] = source[i, d] * scale
        for d in range(dim, target.shape[1]):
            target[i, d] = 0
    return np.sqrt(largest)


@compiled
def _fill(matrix, value):  # type: ignore[no-untyped-def]
    for r in range(matrix.shape[0]):
        for d in range(matrix.shape[1]):
            matrix[r, d] = value


@compiled
def _upper_bound(plan):  # type: ignore[no-untyped-def]
    """No logit of a negative is above it."""
    cosine = _COSINE_BOUND
    if not plan.normalise:
        user = item = 0.0
        for tile in range(plan.tile_norms.shape[0]):
            user = max(user, float(plan.tile_norms[tile, 0]))
            item = max(item, float(plan.tile_norms[tile, 1]))
        cosine *= user * item
    reach = abs(plan.t) * cosine
    if plan.gamma > 0:
        score = max(cosine, reach + plan.t - 1.0)
    else:
        score = min(-cosine, -reach + plan.t - 1.0)
    return plan.gamma * score + plan.max_offset


@compiled
def _fill_bias(plan, begin, rows, first, count, scores, bias):  # type: ignore[no-untyped-def]
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


@compiled
def _choose_references(plan, begin, rows, live, exact, positives, references):  # type: ignore[no-untyped-def]
    """The numbers that stand in for the rows' largest logits; True if some row needs the real one."""
    scalar = plan.user.dtype.type
    upper = scalar(_upper_bound(plan))
    any_exact = False
    for r in range(rows, references.size):
        references[r] = np.inf
    for r in range(rows):
        i = begin + r
        live[r] = plan.active[i]
        if not live[r]:
            references[r] = np.inf
            continue
        score = scalar(0)
        for d in range(plan.user.shape[1]):
            score += plan.user[i, d] * plan.item[i, d]
        positives[r] = score - scalar(plan.margin)
        lower = scalar(plan.gamma) * positives[r]
        if plan.offsets.size:
            lower += plan.offsets[i]
        weight = plan.weights[i] if plan.weights.size else scalar(1)
        scale = abs(weight * plan.gamma) * plan.inverse_count
        span = upper - lower
        references[r] = lower
        if span > 40 and span <= 100 and scale <= 1e3:
            references[r] = upper - 40
        elif not span <= 40:
            exact[r] = any_exact = True
    return any_exact


@compiled
def score_tile(plan, block, worker, tile):  # type: ignore[no-untyped-def]
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
    any_exact = _choose_references(plan, begin, rows, live, exact, positives, references)

    sums = np.zeros((3, plan.tile_rows, lanes), dtype)
    scores = np.zeros((_QUAD, lanes), dtype)
    slopes = np.zeros((_QUAD, lanes), dtype)
    bias = np.zeros((_QUAD, lanes), dtype)
    gamma, t = scalar(plan.gamma), scalar(plan.t)
    with_bias = plan.offsets.size + plan.ids.size > 0
    gradient = plan.sums[worker]
    user, item, exps = plan.user, plan.item, plan.exps
    if plan.with_grad:
        _fill(gradient, 0)
    if any_exact:
        _fill(sums[0], -np.inf)

    # Twice where a row's largest logit has to be found first.
    for sweep in range(0 if any_exact else 1, 2):
        for first in range(0, num_negatives, lanes):
            count = min(lanes, num_negatives - first)
            for k in range(lanes):
                for r in range(_QUAD):
                    bias[r, k] = 0 if k < count else -np.inf
            for q in range(0, rows, _QUAD):
                wanted = live if sweep == 1 else exact
                if not (wanted[q] or wanted[q + 1] or wanted[q + 2] or wanted[q + 3]):
                    if plan.with_grad and sweep == 1:
                        for k in range(first, first + count):
                            for r in range(_QUAD):
                                plan.exps[k, begin + q + r] = 0
                    continue
                for r in range(_QUAD):
                    row = (q + r) * width
                    start = begin * width + row
                    if not wanted[q + r]:
                        for k in range(lanes):
                            scores[r, k] = 0
                    elif count > _QUAD:
                        simd.dots(block, user, start, item, item_windows, first, row, width,
                                  scores, r * lanes)  # fmt: skip
                    else:
                        simd.dots(_FOUR, user, start, item, item_windows, first, row, width,
                                  scores, r * lanes)  # fmt: skip
                if with_bias:
                    _fill_bias(plan, begin + q, min(_QUAD, rows - q), first, count, scores, bias)
                if sweep == 0:
                    simd.raise_maxima(scores, bias, lanes, positives, q, gamma, t, sums)
                    continue
                if plan.with_scalars:
                    simd.exponentiate(scores, bias, lanes, positives, references, q, gamma, t,
                                      sums[0], slopes, sums[1], sums[2], True)  # fmt: skip
                else:
                    simd.exponentiate(scores, bias, lanes, positives, references, q, gamma, t,
                                      sums[0], slopes, sums[1], sums[2], False)  # fmt: skip
                if plan.with_grad:
                    simd.transpose(slopes, exps, exp_windows, first, begin + q)
                    simd.gather(gradient, q * width, width, item, item_windows, q * width, exps,
                                exp_windows, begin + q, first, count)  # fmt: skip
        if sweep == 0:
            for r in range(rows):
                for k in range(lanes):
                    if exact[r] and sums[0, r, k] > references[r]:
                        references[r] = sums[0, r, k]
            _fill(sums[0], 0)

    scales = references
    _finish_rows(plan, worker, tile, live, positives, references, sums, scales)
    if plan.with_grad:
        _project_rows(plan.sums[worker], plan.user, plan.user_inverse, plan.grad_user, begin, rows,
                      plan.normalise)  # fmt: skip
        _scale_rows(plan.user, begin, rows, scales)


@compiled
def _finish_rows(plan, worker, tile, live, positives, references, sums, scales):  # type: ignore[no-untyped-def]
    """The rows' losses and user gradients; scales their user rows for the item pass."""
    scalar = plan.user.dtype.type
    num_negatives = plan.shifts.size - 1
    width = plan.user.shape[1]
    begin = tile * plan.tile_rows
    gradient = plan.sums[worker]
    loss_sum = gamma_sum = margin_sum = t_sum = 0.0
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
            if gap < 50:
                loss = math.log1p(negatives / own)
            else:
                loss = gap + math.log(negatives + own)
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
        loss_sum += weight * loss
        total = negatives + own
        if plan.with_scalars:
            gamma_sum += weight * _sum(sums, 1, r) / total
            margin_sum += weight * plan.gamma * negatives / total
            t_sum += weight * plan.gamma * _sum(sums, 2, r) / total
        if plan.with_grad:
            plan.exps[num_negatives, i] = -negatives
            scales[r] = weight * plan.gamma / total
            for d in range(width):
                gradient[r, d] = scales[r] * (gradient[r, d] - scalar(negatives) * plan.item[i, d])
    plan.tile_sums[tile, 0] = loss_sum
    plan.tile_sums[tile, 1] = gamma_sum
    plan.tile_sums[tile, 2] = margin_sum
    plan.tile_sums[tile, 3] = t_sum


@compiled
def _sum(sums, which, r):  # type: ignore[no-untyped-def]
    total = 0.0
    for k in range(sums.shape[2]):
        total += float(sums[which, r, k])
    return total


@compiled
def _project_rows(gradient, rows, inverses, out, begin, count, normalise):  # type: ignore[no-untyped-def]
    """Takes gradients by normalised rows back through the normalisation."""
    scalar = rows.dtype.type
    for r in range(count):
        i = begin + r
        inverse = scalar(1)
        along = scalar(0)
        if normalise:
            inverse = abs(inverses[i])
            if not inverses[i] < 0:
                for d in range(rows.shape[1]):
                    along += gradient[r, d] * rows[i, d]
        for d in range(out.shape[1]):
            out[i, d] = inverse * (gradient[r, d] - along * rows[i, d])


@compiled
def _scale_rows(rows, begin, count, scales):  # type: ignore[no-untyped-def]
    for r in range(count):
        for d in range(rows.shape[1]):
            rows[begin + r, d] *= scales[r]


@compiled
def wrap_rows(plan, task):  # type: ignore[no-untyped-def]
    """Continues the exponentials and user rows past the batch, for windows that would wrap around."""
    batch_size = plan.active.size
    rows = min(plan.tile_rows, batch_size)
    if task == 0:
        for r in range(rows):
            for d in range(plan.user.shape[1]):
                plan.user[batch_size + r, d] = plan.user[r, d]
    for k in range(task * _WRAP_ROWS, min((task + 1) * _WRAP_ROWS, plan.shifts.size)):
        for r in range(rows):
            plan.exps[k, batch_size + r] = plan.exps[k, r]


@compiled
def gather_tile(plan, worker, tile):  # type: ignore[no-untyped-def]
    """Item gradients of one tile."""
    scalar = plan.item.dtype.type
    batch_size = plan.active.size
    width = plan.item.shape[1]
    begin = tile * plan.tile_rows
    rows = min(plan.tile_rows, batch_size - begin)
    num_windows = plan.shifts.size
    user_windows = np.empty(num_windows, np.int64)
    exp_windows = np.empty(num_windows, np.int64)
    for k in range(num_windows):
        start = begin + plan.shifts[k]
        if start >= batch_size:
            start -= batch_size
        user_windows[k] = start * width
        exp_windows[k] = k * plan.exps.shape[1] + start
    gradient = plan.sums[worker]
    _fill(gradient, 0)
    for first in range(0, num_windows, _ITEM_WINDOWS):
        count = min(_ITEM_WINDOWS, num_windows - first)
        for q in range(0, rows, _QUAD):
            simd.gather(gradient, q * width, width, plan.user, user_windows, q * width,
                        plan.exps, exp_windows, q, first, count)  # fmt: skip
    _project_rows(plan.sums[worker], plan.item, plan.item_inverse, plan.grad_item, begin, rows,
                  plan.normalise)  # fmt: skip


def make_run(source: str) -> Any:
    """Compiles `run` once per combination of types; `source` tells cached machine code apart."""

    def run(plan, block, counters, worker):  # type: ignore[no-untyped-def]
        """Takes tasks until the whole call is done: to be entered by any number of threads.

        Args:
            plan: What to compute.
            block: A tuple of as many zeros as a vector has lanes.
            counters: Zeros, int64, shared by the threads of this call.
            worker: A number below `plan.sums.shape[0]` that no other thread of this call has.
        """
        if source == "":
            return
        num_tiles = plan.tile_sums.shape[0]
        num_wraps = -(-plan.shifts.size // _WRAP_ROWS)
        for phase in range(4 if plan.with_grad else 2):
            num_tasks = num_wraps if phase == 2 else num_tiles
            claimed = 2 * phase * _COUNTER_STRIDE
            finished = claimed + _COUNTER_STRIDE
            while True:
                task = simd.fetch_add(counters, claimed, 1)
                if task >= num_tasks:
                    break
                if phase == 0:
                    prepare_tile(plan, task)
                elif phase == 1:
                    score_tile(plan, block, worker, task)
                elif phase == 2:
                    wrap_rows(plan, task)
                else:
                    gather_tile(plan, worker, task)
                simd.fetch_add(counters, finished, 1)
            while simd.fetch_add(counters, finished, 0) < num_tasks:
                simd.relax()

    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(run)
    except RuntimeError:
        # No directory for the cache can be written, next to this file or in the user's home.
        return njit(**options)(run)
