"""What one call of the kernels works on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

# Losses are summed by so many rows at a time, whatever the tiles are.
CHUNK = 32

# NaN and infinity keep their meaning; sums may be reordered, but by the compiler only.
compiled = njit(fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")

# Sums keep their order. Needed where a loop adds up and writes: the compiler may make two forms of
# such a loop and choose by where arrays lie in memory, which differs from one process to the next.
strict = njit(fastmath={"contract", "nsz"}, error_model="numpy")


class Plan(NamedTuple):
    """The arrays and numbers of one call; T is the compute dtype.

    Arrays marked "optional" are empty where they are not wanted.
    """

    user_emb: Array  # [B, D] T
    item_emb: Array  # [B, D] T
    active: Array  # [B] bool: rows whose loss is wanted
    weights: Array  # [B] T, optional
    offsets: Array  # [B] T, -log q, optional
    log_others: Array  # [B] T, log(1 - q), for the refined correction, else empty
    ids: Array  # [B] int64, optional
    shifts: Array  # [K + 1] int64: sorted, in 1 .. B - 1; then 0, the positive
    gamma: float
    margin: float
    t: float
    inverse_count: float  # 1 / number of counted rows with a weight, or 0
    max_offset: float
    min_offset: float
    positive_in_softmax: bool
    negative_weight: float
    normalise: bool
    with_grad: bool
    with_scalars: bool
    tile_rows: int  # A multiple of CHUNK.
    # Results.
    row_losses: Array  # [B] T, optional: of the active rows, without weight
    chunk_sums: Array  # [chunks, 4] float64: loss; derivatives by gamma, margin, t
    grad_user: Array  # [B, D] T, optional
    grad_item: Array  # [B, D] T, optional
    # Scratch.
    user: Array  # [B + tile_rows + QUAD, width] T
    item: Array
    user_inverse: Array  # [B] T: 1 / norm, negative where the norm was clipped
    item_inverse: Array
    tile_norms: Array  # [tiles, 2] T: largest norms, where not normalised
    tile_spoilt: Array  # [tiles] bool: an item row holds NaN, or numbers whose squares overflow
    exps: Array  # [K + 2, B + tile_rows + QUAD] T, optional; the last row is a dump
    sums: Array  # [workers, tile_rows, width] T: gradients in the making
