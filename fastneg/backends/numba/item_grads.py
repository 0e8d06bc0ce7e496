# mypy: allow-untyped-defs, allow-untyped-calls
"""The item pass: every item row gathers the user rows that had it as a candidate.

No two tasks write the same row, and a row's sum runs in the order of the shifts, so the result does
not depend on who runs what.
"""

from __future__ import annotations

import numpy as np

from fastneg.backends.numba.plan import compiled
from fastneg.backends.numba.rows import fill, project_rows
from fastneg.backends.numba.simd import QUAD, gather

# Shifts whose windows are walked together: few enough for the second-level cache.
_WINDOWS = 32

# Rows of exponentials that one task continues past the batch.
WRAP_ROWS = 64


@compiled
def wrap_rows(plan, task):
    """Continues exponentials and user rows past the batch, where windows would wrap around."""
    batch_size = plan.active.size
    rows = min(plan.tile_rows, batch_size)
    if task == 0:
        for r in range(rows):
            for d in range(plan.user.shape[1]):
                plan.user[batch_size + r, d] = plan.user[r, d]
    for k in range(task * WRAP_ROWS, min((task + 1) * WRAP_ROWS, plan.shifts.size)):
        for r in range(rows):
            plan.exps[k, batch_size + r] = plan.exps[k, r]


@compiled
def gather_tile(plan, worker, tile):
    """Item gradients of one tile."""
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
    fill(gradient, 0)
    for first in range(0, num_windows, _WINDOWS):
        count = min(_WINDOWS, num_windows - first)
        for q in range(0, rows, QUAD):
            gather(gradient, q, plan.user, user_windows, plan.exps, exp_windows, q, first, count)
    project_rows(plan.sums[worker], plan.item, plan.item_inverse, plan.grad_item, begin, rows,
                  plan.normalise)  # fmt: skip
