"""`pairwise_loss` as TensorFlow sees the numba kernels: checks, sorting, and what the sums mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fastneg.arguments.pairwise_logistic import PairwiseLogisticArguments
from fastneg.backends.numba import bridge
from fastneg.backends.numba.pairwise_sums import add_pairs, series

Array = np.ndarray[Any, Any]

_SCALARS = ("margin", "temperature")


class Result(NamedTuple):
    """The loss and its gradients for an upstream gradient of 1, empty where not wanted."""

    loss: Array
    grad_logits: Array
    grad_weights: Array
    grad_scalars: Array


def pairwise_logistic(arguments: PairwiseLogisticArguments) -> tf.Tensor:
    """Calls the kernels."""
    labels, logits = arguments.labels, arguments.logits
    if logits.dtype in (tf.float16, tf.bfloat16):
        logits = tf.cast(logits, tf.float32)
    if labels.dtype in (tf.float16, tf.bfloat16):
        labels = tf.cast(labels, tf.float32)  # bfloat16 is a stranger to NumPy's sorting.
    differentiable = {"logits": logits}
    if arguments.weights is not None:
        differentiable["weights"] = arguments.weights
    numbers = {}
    for name in _SCALARS:
        value = getattr(arguments, name)
        if isinstance(value, tf.Tensor):
            differentiable[name] = value
        else:
            # What the other backends compute with.
            numbers[name] = np.asarray(value, logits.dtype.as_numpy_dtype)

    def compute(arrays: Mapping[str, Any], with_grad: bool) -> Result:
        return _compute(_checked({**arrays, **numbers}), with_grad)

    return bridge.fused_loss(
        differentiable,
        {"labels": labels, "session_ids": arguments.session_ids},
        compute,
        _unit_grads,
        num_outputs=len(Result._fields),
    )


def _unit_grads(names: Sequence[str], results: Sequence[Any]) -> list[Any]:
    _, grad_logits, grad_weights, grad_scalars = results
    found = {"logits": grad_logits, "weights": grad_weights}
    found |= {name: grad_scalars[i] for i, name in enumerate(_SCALARS) if name in names}
    return [found[name] for name in names]


def _checked(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Checks run-time shapes and values; columns become vectors."""
    logits = arguments["logits"]
    shape = list(logits.shape)
    if logits.ndim not in (1, 2) or shape[1:] not in ([], [1]):
        raise ValueError(
            f"`logits` must have shape [batch_size] or [batch_size, 1]. Received: {shape}."
        )
    size = shape[0]
    checked = {"logits": logits.reshape(size)}
    for name in ("labels", "session_ids", "weights"):
        value = arguments.get(name)
        if value is not None and value.shape not in ((size,), (size, 1)):
            raise ValueError(
                f"`{name}` must have shape [{size}] or [{size}, 1]. Received: {list(value.shape)}."
            )
        checked[name] = None if value is None else value.reshape(size)
    for name in _SCALARS:
        value = arguments[name]
        if np.ndim(value) != 0:
            raise ValueError(f"`{name}` must be a scalar. Received: {list(np.shape(value))}.")
        checked[name] = float(value)
    if checked["temperature"] == 0:
        raise ValueError("`temperature` must not be 0. Received: 0.")
    return checked


class _SortedRows(NamedTuple):
    """Rows with a label, by session and label: see `pairwise_sums.add_pairs`."""

    order: Array
    level_begin: Array
    sessions: Array
    session_of_row: Array


def _sorted_rows(labels: Array, session_ids: Array | None) -> _SortedRows:
    order = np.flatnonzero(labels == labels)  # NaN differs from itself.
    keys = [labels[order]] if session_ids is None else [labels[order], session_ids[order]]
    order = order[np.lexsort(keys)]
    starts_session = np.zeros(order.size, bool)
    starts_session[:1] = True
    if session_ids is not None:
        starts_session[1:] = np.diff(session_ids[order]) != 0
    starts_level = starts_session.copy()
    starts_level[1:] |= labels[order][1:] != labels[order][:-1]
    level_begin = np.maximum.accumulate(np.where(starts_level, np.arange(order.size), 0))
    sessions = np.append(np.flatnonzero(starts_session), order.size)
    return _SortedRows(order, level_begin, sessions, np.cumsum(starts_session) - 1)


def _compute(arguments: Mapping[str, Any], with_grad: bool) -> Result:
    logits, weights = arguments["logits"], arguments["weights"]
    dtype, size = logits.dtype, logits.size
    rows = _sorted_rows(arguments["labels"], arguments["session_ids"])
    sorted_weights = np.ones(rows.order.size)
    if weights is not None:
        sorted_weights = weights[rows.order].astype(np.float64)
    num_below = rows.level_begin - rows.sessions[rows.session_of_row]
    num_pairs = int(num_below[sorted_weights != 0].sum())
    grad_logits, grad_weights = np.zeros(size, dtype), np.zeros(size, dtype)
    if num_pairs == 0:
        return Result(np.zeros((), dtype), grad_logits, grad_weights, np.zeros(2, dtype))

    temperature, margin = arguments["temperature"], arguments["margin"]
    position = _positions(logits[rows.order].astype(np.float64), rows, temperature)
    value, above, below = np.zeros((3, rows.order.size))
    _call(position, rows, sorted_weights, margin, (value, above, below), with_grad)
    # Rows of weight 0 may hold NaN, which concerns nothing but the gradient of their weights.
    counted = sorted_weights != 0
    loss = np.sum(np.where(counted, sorted_weights * value, 0.0)) / num_pairs
    if not with_grad:
        none = np.empty(0, dtype)
        return Result(np.asarray(loss, dtype), none, none, none)
    above = np.where(counted, sorted_weights * above, 0.0) / num_pairs
    grads = (below / num_pairs - above) / temperature
    moved = grads != 0  # A row in no pair has no gradient, whatever its logit is.
    grad_temperature = -np.sum(grads[moved] * position[moved])
    grad_logits[rows.order] = grads
    grad_weights[rows.order] = value / num_pairs
    grad_scalars = np.array([np.sum(above), grad_temperature], dtype)
    return Result(np.asarray(loss, dtype), grad_logits, grad_weights, grad_scalars)


def _positions(logits: Array, rows: _SortedRows, temperature: float) -> Array:
    """Logits over the temperature, relative to that of the session that is closest to 0.

    Neither a large number that all logits have in common nor an outlier costs digits then.
    """
    starts = rows.sessions[:-1]
    smallest = np.minimum.reduceat(np.where(logits >= 0, logits, np.inf), starts)
    largest = np.maximum.reduceat(np.where(logits < 0, logits, -np.inf), starts)
    origins = np.where(smallest <= -largest, smallest, largest)
    origins = np.where(np.isfinite(origins), origins, 0.0)
    with np.errstate(all="ignore"):
        positions: Array = (logits - origins[rows.session_of_row]) / temperature
    return positions


def _call(
    position: Array,
    rows: _SortedRows,
    weights: Array,
    margin: float,
    sums: tuple[Array, Array, Array],
    with_slopes: bool,
) -> None:
    arguments = (position, rows.level_begin, rows.sessions, weights, margin, series())
    try:
        add_pairs(*arguments, *sums, with_slopes)
    except OSError:
        # The machine code is there, but could not be written to the cache: nothing is computed yet.
        add_pairs(*arguments, *sums, with_slopes)
