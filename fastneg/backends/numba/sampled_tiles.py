"""The sampled softmax loss and its gradients in NumPy, a tile of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastneg.backends.numba.plan import Array

_TILE_BYTES = 4 << 20
_MIN_TILE_ROWS = 16


class Problem(NamedTuple):
    """Arguments of the loss. Arrays are in the compute dtype where nothing else is said."""

    rows: Array  # [U, D] distinct table rows
    inputs: Array  # [B, D]
    biases: Array | None  # [U]
    label_rows: Array  # [B, num_true], int32: places in `rows`
    sampled_rows: Array  # [S], int32
    true_expected_count: Array  # [B, num_true]
    sampled_expected_count: Array  # [S]
    remove_accidental_hits: bool


class _Tile(NamedTuple):
    where: slice
    inputs: Array
    true_rows: Array  # [rows, num_true, D]
    exponentials: Array  # [rows, S], relative to the largest logit of the row
    others: Array  # [rows], their sums
    true_logits: Array  # [rows, num_true], likewise relative
    sums: Array  # [rows] of all exponentials


class _Candidates(NamedTuple):
    rows: Array  # [S, D]
    offsets: Array  # [S] bias - log expected count
    last: Array | None  # [U] last sample that is the row, or -1


def losses(problem: Problem) -> Array:
    """Returns the losses, [B]."""
    result = np.empty(len(problem.inputs), problem.inputs.dtype)
    with np.errstate(all="ignore"):  # NaN and infinity go through, as everywhere.
        for tile in _tiles(problem, _candidates(problem)):
            mean = tile.true_logits.mean(axis=1)
            row_losses = np.log(tile.sums) - mean
            if tile.true_logits.shape[1] == 1:
                # No small loss from a difference: where the label has the largest logit, the sum
                # is 1 + others.
                row_losses = np.where(mean == 0, np.log1p(tile.others), row_losses)
            result[tile.where] = row_losses
    return result


def gradients(problem: Problem, upstream: Array) -> tuple[Array, Array, Array]:
    """Returns the gradients of rows, inputs and biases for the losses' upstream gradients.

    Rows whose upstream gradient is 0 add nothing, whatever they hold.
    """
    used = upstream != 0
    if used.all():
        return _gradients(problem, upstream)
    batch = {
        name: getattr(problem, name)[used]
        for name in ("inputs", "label_rows", "true_expected_count")
    }
    grad_rows, grad_of_used, grad_biases = _gradients(problem._replace(**batch), upstream[used])
    grad_inputs = np.zeros_like(problem.inputs)
    grad_inputs[used] = grad_of_used
    return grad_rows, grad_inputs, grad_biases


def _gradients(problem: Problem, upstream: Array) -> tuple[Array, Array, Array]:
    candidates = _candidates(problem)
    grad_inputs = np.empty_like(problem.inputs)
    grad_candidates = np.zeros_like(candidates.rows)
    grad_offsets = np.zeros_like(candidates.offsets)
    grad_true = np.empty(problem.label_rows.shape, problem.inputs.dtype)
    num_true = problem.label_rows.shape[1]
    with np.errstate(all="ignore"):
        for tile in _tiles(problem, candidates):
            weight = upstream[tile.where][:, np.newaxis]
            scale = weight / tile.sums[:, np.newaxis]
            if num_true == 1:
                coefficients = -tile.others[:, np.newaxis] * scale
            else:
                coefficients = np.exp(tile.true_logits) * scale - weight / num_true
            probabilities = np.multiply(tile.exponentials, scale, out=tile.exponentials)
            grad_true[tile.where] = coefficients
            grad_inputs[tile.where] = probabilities @ candidates.rows
            grad_inputs[tile.where] += np.einsum("bt,btd->bd", coefficients, tile.true_rows)
            grad_candidates += probabilities.T @ tile.inputs
            grad_offsets += probabilities.sum(axis=0)
        grad_rows = np.zeros_like(problem.rows)
        grad_biases = np.zeros(len(problem.rows), problem.rows.dtype)
        _add_by_row(grad_rows, problem.sampled_rows, grad_candidates)
        _add_by_row(grad_biases, problem.sampled_rows, grad_offsets)
        for t in range(num_true):
            rows, coefficient = problem.label_rows[:, t], grad_true[:, t]
            _add_by_row(grad_rows, rows, coefficient[:, np.newaxis] * problem.inputs)
            _add_by_row(grad_biases, rows, coefficient)
    return grad_rows, grad_inputs, grad_biases


def _candidates(problem: Problem) -> _Candidates:
    with np.errstate(all="ignore"):
        offsets = -np.log(problem.sampled_expected_count)
    if problem.biases is not None:
        offsets = problem.biases[problem.sampled_rows] + offsets
    last = None
    if problem.remove_accidental_hits:
        last = np.full(len(problem.rows), -1)
        last[problem.sampled_rows] = np.arange(len(problem.sampled_rows))
    return _Candidates(problem.rows[problem.sampled_rows], offsets, last)


def _tiles(problem: Problem, candidates: _Candidates) -> Iterator[_Tile]:
    batch_size, itemsize = len(problem.inputs), problem.inputs.itemsize
    row_bytes = itemsize * (len(candidates.rows) + problem.label_rows.shape[1] * 64)
    tile_rows = max(_MIN_TILE_ROWS, _TILE_BYTES // row_bytes)
    for start in range(0, batch_size, tile_rows):
        where = slice(start, min(start + tile_rows, batch_size))
        inputs, label_rows = problem.inputs[where], problem.label_rows[where]
        true_rows = problem.rows[label_rows]
        true_logits = np.einsum("bd,btd->bt", inputs, true_rows)
        if problem.biases is not None:
            true_logits += problem.biases[label_rows]
        true_logits -= np.log(problem.true_expected_count[where])
        logits = inputs @ candidates.rows.T
        logits += candidates.offsets
        if candidates.last is not None:
            hits = candidates.last[label_rows]
            rows, positions = np.nonzero(hits >= 0)
            logits[rows, hits[rows, positions]] = -np.inf
        largest = np.maximum(true_logits.max(axis=1), logits.max(axis=1))[:, np.newaxis]
        logits -= largest
        true_logits -= largest
        exponentials = np.exp(logits, out=logits)
        others = exponentials.sum(axis=1)
        sums = np.exp(true_logits).sum(axis=1) + others
        yield _Tile(where, inputs, true_rows, exponentials, others, true_logits, sums)


def _add_by_row(out: Array, rows: Array, values: Array) -> None:
    """out[rows[i]] += values[i], the values of a row added first, in order."""
    if not len(rows):
        return
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    out[ordered[starts]] += np.add.reduceat(values[order], starts, axis=0)
