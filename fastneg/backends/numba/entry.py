# mypy: allow-untyped-defs, allow-untyped-calls
"""The compiled entry: three passes over tiles of rows, each tile a task that any thread may take.

1. `prepare_tile` normalises the rows into padded scratch;
2. `score_tile` computes losses and user gradients, and keeps the negatives' exponentials for
3. `gather_tile`, the item gradients.

The shifts are sorted: the windows of neighbouring shifts overlap, and a tile finds most of its rows
in the second-level cache. The scratch rows continue past the batch with its first rows, which
`wrap_rows` does between the passes, so that no window of a tile wraps around.
"""

from __future__ import annotations

from typing import Any

from fastneg.backends.numba.atomics import fetch_add, flush_denormals, relax, set_float_mode
from fastneg.backends.numba.item_grads import WRAP_ROWS, gather_tile, wrap_rows
from fastneg.backends.numba.rows import prepare_tile
from fastneg.backends.numba.scores import score_tile

# Counters lie this far apart, in elements: on different cache lines.
_COUNTER_STRIDE = 8


def make_run(source: str) -> Any:
    """Makes the entry; `source` tells cached machine code apart."""

    def run(plan, block, counters, worker):
        """Takes tasks until the whole call is done: to be entered by any number of threads.

        Args:
            plan: What to compute.
            block: A tuple of as many zeros as a vector has lanes.
            counters: Zeros, int64, shared by the threads of this call.
            worker: A number below `plan.sums.shape[0]` that no other thread of this call has.
        """
        if source == "":
            return
        float_mode = flush_denormals()
        num_tiles = -(-plan.active.size // plan.tile_rows)
        num_wraps = -(-plan.shifts.size // WRAP_ROWS)
        for phase in range(4 if plan.with_grad else 2):
            num_tasks = num_wraps if phase == 2 else num_tiles
            claimed = 2 * phase * _COUNTER_STRIDE
            finished = claimed + _COUNTER_STRIDE
            while True:
                task = fetch_add(counters, claimed, 1)
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
                fetch_add(counters, finished, 1)
            while fetch_add(counters, finished, 0) < num_tasks:
                relax()
        set_float_mode(float_mode)

    return run
