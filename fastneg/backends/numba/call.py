"""One call of the numba kernels on NumPy arrays: layout, scratch, threads."""

from __future__ import annotations

import math
import os
import threading
from typing import Any, NamedTuple

import numpy as np

from fastneg.backends.numba import compiling, entry
from fastneg.backends.numba.plan import CHUNK, Array, Plan
from fastneg.backends.numba.simd import QUAD
from fastneg.backends.numba.vector_ir import ROW_VECTORS, VECTOR_BYTES

_MAX_TILE_ROWS = 512
_TILE_BYTES = 128 << 10

# Scratch up to this size is kept for the next call: the system's clearing of fresh memory takes
# longer than much of what is done in it.
_KEPT_BYTES = 512 << 20


class Result(NamedTuple):
    """The loss and its gradients for an upstream gradient of 1; empty where not asked for."""

    loss: Array  # scalar
    grad_user: Array  # [B, D]
    grad_item: Array  # [B, D]
    grad_weights: Array  # [B]
    grad_scalars: Array  # [3]: gamma, margin, t


class _Arena:
    """Hands out aligned arrays from one block of memory that outlives the call."""

    def __init__(self) -> None:
        self._block: Array = np.empty(0, np.uint8)
        self._lock = threading.Lock()

    def take(
        self, shapes: dict[str, tuple[int, ...]], dtype: Any
    ) -> tuple[dict[str, Array], Array]:
        """Returns uninitialised arrays, and their memory, to be given back when all is done."""
        lines = {
            name: -(-_size(shape) * dtype.itemsize // 64) * 64 for name, shape in shapes.items()
        }
        needed = sum(lines.values()) + 64
        with self._lock:
            block, self._block = self._block, np.empty(0, np.uint8)
        if block.size < needed:
            block = np.empty(needed, np.uint8)
        start = -block.ctypes.data % 64
        arrays = {}
        for name, shape in shapes.items():
            view = block[start : start + _size(shape) * dtype.itemsize]
            arrays[name] = view.view(dtype).reshape(shape)
            start += lines[name]
        return arrays, block

    def give_back(self, block: Array) -> None:
        if block.size <= _KEPT_BYTES:
            with self._lock:
                if block.size > self._block.size:
                    self._block = block


_arena = _Arena()


def _forget_arena() -> None:
    # A forked child may have got the lock in the hands of a thread that it did not get.
    global _arena
    _arena = _Arena()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_arena)


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array whose memory TensorFlow takes over without a copy."""
    size = _size(shape) * dtype.itemsize
    block = np.empty(size + 64, np.uint8)
    start = -block.ctypes.data % 64
    array: Array = block[start : start + size].view(dtype).reshape(shape)
    return array


def _tile_rows(batch_size: int, row_bytes: int, num_threads: int) -> int:
    """Rows of a tile: few enough for the second-level cache, and for the threads to share the work.

    No result depends on it.
    """
    rows = _MAX_TILE_ROWS
    while rows > CHUNK and (rows * row_bytes > _TILE_BYTES or rows * 4 * num_threads > batch_size):
        rows //= 2
    return rows


def rolled_softmax(
    user_emb: Array,
    item_emb: Array,
    active: Array,
    shifts: Array,
    *,
    embed_normed: bool,
    weights: Array | None,
    gamma: float,
    margin: float,
    t: float,
    sampling_probability: Array | None,
    candidate_ids: Array | None,
    positive_in_softmax: bool,
    negative_weight: float,
    correction: str,
    with_grad: bool,
    with_scalar_grad: bool,
    num_threads: int,
) -> Result:
    """Computes the loss, and on demand its gradients, of valid arguments.

    Args:
        user_emb: [B, D], float32 or float64, contiguous.
        item_emb: As `user_emb`.
        active: [B], bool: rows with a label > 0.
        shifts: [K], int64, in 1 .. B - 1.
        embed_normed: As in the public function; likewise all below.
        weights: [B] in the dtype of `user_emb`.
        gamma: Scalar.
        margin: Scalar.
        t: Scalar.
        sampling_probability: [B] in the dtype of `user_emb`.
        candidate_ids: [B], int64.
        positive_in_softmax: False with the refined correction.
        negative_weight: Number.
        correction: "standard" or "refined".
        with_grad: Compute the gradients of the embeddings and, where given, the weights.
        with_scalar_grad: Compute the gradients of gamma, margin and t.
        num_threads: How many threads may work.

    Returns:
        The loss and the gradients asked for.
    """
    dtype = user_emb.dtype
    batch_size, dim = user_emb.shape
    if batch_size == 0:
        return Result(
            loss=np.zeros((), dtype),
            grad_user=np.zeros((0, dim), dtype),
            grad_item=np.zeros((0, dim), dtype),
            grad_weights=np.zeros(0, dtype),
            grad_scalars=np.zeros(3, dtype),
        )
    num_negatives = shifts.size
    counted = int(active.sum())
    none = np.empty(0, dtype)
    want_row_losses = weights is not None and with_grad
    if weights is not None:
        weighted = active & (weights != 0)
        counted = int(weighted.sum())
        if counted == 0 or not want_row_losses:
            active = weighted
    offsets = log_others = none
    if sampling_probability is not None:
        smallest = dtype.type(1e-9)
        probability = np.maximum(sampling_probability, smallest)
        offsets = -np.log(probability)
        if correction == "refined":
            log_others = np.log(np.maximum(1 - probability, smallest))
    lanes = VECTOR_BYTES // dtype.itemsize
    vectors = -(-max(dim, 1) // lanes)
    width = -(-vectors // ROW_VECTORS) * ROW_VECTORS * lanes
    tile_rows = _tile_rows(batch_size, width * dtype.itemsize, num_threads)
    num_tiles = -(-batch_size // tile_rows)
    num_threads = min(num_threads, num_tiles)
    extended = batch_size + tile_rows + QUAD
    shapes = {
        "user": (extended, width),
        "item": (extended, width),
        "sums": (num_threads, tile_rows if with_grad else 0, width),
        "exps": (num_negatives + 2, -(-extended // lanes) * lanes) if with_grad else (0, 0),
        "user_inverse": (batch_size,),
        "item_inverse": (batch_size,),
        "tile_norms": (num_tiles, 2),
    }
    scratch, block = _arena.take(shapes, dtype)
    plan = Plan(
        user_emb=compiling.frozen(user_emb),
        item_emb=compiling.frozen(item_emb),
        active=compiling.frozen(active),
        weights=compiling.frozen(none if weights is None else weights),
        offsets=compiling.frozen(offsets),
        log_others=compiling.frozen(log_others),
        ids=compiling.frozen(np.empty(0, np.int64) if candidate_ids is None else candidate_ids),
        shifts=compiling.frozen(np.append(np.sort(shifts), 0)),
        gamma=float(gamma),
        margin=float(margin),
        t=float(t),
        inverse_count=1.0 / counted if counted else 0.0,
        max_offset=float(offsets.max()) if offsets.size else 0.0,
        min_offset=float(offsets.min()) if offsets.size else 0.0,
        positive_in_softmax=positive_in_softmax,
        negative_weight=negative_weight,
        normalise=not embed_normed,
        with_grad=with_grad,
        with_scalars=with_scalar_grad,
        tile_rows=tile_rows,
        tile_spoilt=np.zeros(num_tiles, np.bool_),
        row_losses=np.zeros(batch_size if want_row_losses else 0, dtype),
        chunk_sums=np.zeros((-(-batch_size // CHUNK), 4)),
        grad_user=aligned((batch_size, dim) if with_grad else (0, 0), dtype),
        grad_item=aligned((batch_size, dim) if with_grad else (0, 0), dtype),
        **scratch,
    )
    counters = np.zeros(64, np.int64)
    arguments = (plan, (0,) * lanes, counters)
    run = compiling.entry(entry.make_run)
    compiling.run_together(
        ("rolled_softmax", dtype), lambda worker: run(*arguments, worker), num_threads
    )
    _arena.give_back(block)
    totals = plan.chunk_sums.sum(axis=0)
    return Result(
        loss=np.asarray(totals[0], dtype),
        grad_user=plan.grad_user,
        grad_item=plan.grad_item,
        grad_weights=plan.row_losses * dtype.type(plan.inverse_count) if want_row_losses else none,
        grad_scalars=totals[1:].astype(dtype) if with_scalar_grad else none,
    )
