"""Checks what only run-time shapes and values tell, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ROW_OPTIONS = ("positive_in_softmax", "negative_weight", "correction")


def prepare(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Turns the arguments of a backend, as arrays and numbers, into those of `call.rolled_softmax`.

    Raises:
        ValueError: A requirement on shapes or values is not met.
    """
    user_emb, item_emb = arguments["user_emb"], arguments["item_emb"]
    _require(
        user_emb.ndim == 2,
        f"`user_emb` must have rank 2, [batch_size, embedding_dim]. Received: {_text(user_emb)}.",
    )
    _require(
        item_emb.shape == user_emb.shape,
        f"`item_emb` must have the shape of `user_emb`, {_text(user_emb)}. "
        f"Received: {_text(item_emb)}.",
    )
    batch_size = user_emb.shape[0]
    labels = _per_row(arguments, "labels", batch_size, column=True)
    shifts = arguments["shifts"]
    _require(
        shifts.ndim == 1, f"`shifts` must have rank 1, [num_negatives]. Received: {_text(shifts)}."
    )
    prepared = {
        "user_emb": user_emb,
        "item_emb": item_emb,
        "active": labels > 0,
        **{name: arguments[name] for name in ("embed_normed", *ROW_OPTIONS)},
        "weights": _per_row(arguments, "weights", batch_size, column=True),
        "sampling_probability": _per_row(arguments, "candidate_sampling_probability", batch_size),
        "candidate_ids": _per_row(arguments, "candidate_ids", batch_size),
    }
    for name in ("gamma", "margin", "t"):
        value = arguments[name]
        _require(
            np.ndim(value) == 0,
            f"`{name}` must be a scalar. Received: {list(np.shape(value))}.",
        )
        prepared[name] = float(value)
    if batch_size > 0:
        shifts = _in_range(shifts, batch_size)
    return {**prepared, "shifts": shifts}


def _in_range(shifts: Array, batch_size: int) -> Array:
    _require(
        1 <= shifts.size < batch_size,
        f"`num_negative_samples` must be at least 1 and less than the batch size, {batch_size}. "
        f"Received: {shifts.size}.",
    )
    remainders = shifts % batch_size
    if not remainders.all():
        k = int(np.argmin(remainders != 0))
        raise ValueError(
            f"`shifts` must not be 0 modulo the batch size, {batch_size}. "
            f"Received: shifts[{k}] = {shifts[k]}."
        )
    return remainders


def _per_row(
    arguments: Mapping[str, Any], name: str, batch_size: int, *, column: bool = False
) -> Any:
    value = arguments.get(name)
    if value is None:
        return None
    shapes = [(batch_size,), (batch_size, 1)] if column else [(batch_size,)]
    expected = " or ".join(str(list(shape)) for shape in shapes)
    _require(
        value.shape in shapes, f"`{name}` must have shape {expected}. Received: {_text(value)}."
    )
    return value.reshape(batch_size)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _text(array: Array) -> str:
    return str(list(array.shape))
