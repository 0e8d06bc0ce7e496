# mypy: allow-untyped-defs, allow-untyped-calls
"""Embedding rows: normalising them, and taking gradients back through that."""

from __future__ import annotations

import numpy as np

from fastneg.backends.numba.plan import compiled

# tf.nn.l2_normalize's: shorter rows are only scaled, and have no projection in their gradient.
_EPSILON = 1e-12


@compiled
def prepare_tile(plan, tile):
    """Fills one tile of `user` and `item`. User rows that are not active become zeros."""
    batch_size = plan.active.size
    begin = tile * plan.tile_rows
    end = min(begin + plan.tile_rows, batch_size)
    plan.tile_norms[tile, 0], _ = prepare_rows(
        plan.user_emb, plan.active, plan.user, plan.user_inverse, begin, end, plan.normalise
    )
    plan.tile_norms[tile, 1], plan.tile_spoilt[tile] = prepare_rows(
        plan.item_emb, plan.active[:0], plan.item, plan.item_inverse, begin, end, plan.normalise
    )
    for i in range(begin, min(end, plan.tile_rows)):
        for d in range(plan.item.shape[1]):
            plan.item[batch_size + i, d] = plan.item[i, d]


@compiled
def prepare_rows(source, active, target, inverses, begin, end, normalise):
    """Copies rows into padded ones, normalised if wanted.

    Returns their largest norm, and whether the squares of one are NaN or overflow.
    """
    scalar = target.dtype.type
    dim = source.shape[1]
    epsilon = scalar(_EPSILON)
    largest = scalar(0)
    spoilt = False
    for i in range(begin, end):
        if active.size and not active[i]:
            for d in range(target.shape[1]):
                target[i, d] = 0
            continue
        squares = scalar(0)
        for d in range(dim):
            squares += source[i, d] * source[i, d]
        largest = max(largest, squares)
        spoilt |= not np.isfinite(squares)
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
    return np.sqrt(largest), spoilt


@compiled
def project_rows(gradient, rows, inverses, out, begin, count, normalise):
    """Takes gradients by normalised rows back through the normalisation.

    A gradient of zeros stays that: NaN in a row that nobody used does not come back.
    """
    scalar = rows.dtype.type
    for r in range(count):
        i = begin + r
        along = scalar(0)
        size = scalar(0)
        for d in range(rows.shape[1]):
            along += gradient[r, d] * rows[i, d]
            size += abs(gradient[r, d])
        if size == 0:
            for d in range(out.shape[1]):
                out[i, d] = 0
            continue
        inverse = scalar(1)
        if normalise:
            inverse = abs(inverses[i])
        if not normalise or inverses[i] < 0:
            along = scalar(0)
        for d in range(out.shape[1]):
            out[i, d] = inverse * (gradient[r, d] - along * rows[i, d])


@compiled
def scale_rows(rows, begin, count, scales):
    """Multiplies each row by its number."""
    for r in range(count):
        for d in range(rows.shape[1]):
            rows[begin + r, d] *= scales[r]


@compiled
def fill(matrix, value):
    """Sets every element (an assignment to a slice takes seconds to compile)."""
    for r in range(matrix.shape[0]):
        for d in range(matrix.shape[1]):
            matrix[r, d] = value
