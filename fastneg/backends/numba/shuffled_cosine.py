"""`negative_cosine_loss` in numba: checks, layout, and how TensorFlow sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fastneg.arguments.shuffled_cosine import ShuffledCosineArguments
from fastneg.backends.numba import bridge, compiling
from fastneg.backends.numba.plan import Array
from fastneg.backends.numba.shuffled_kernels import ROWS, ShuffledPlan, make_run


def shuffled_cosine(arguments: ShuffledCosineArguments) -> tf.Tensor:
    """Calls the kernels."""
    query, doc = arguments.query, arguments.doc
    if query.dtype in (tf.float16, tf.bfloat16):
        query, doc = tf.cast(query, tf.float32), tf.cast(doc, tf.float32)
    differentiable = {"query": query, "doc": doc}
    number = None
    if isinstance(arguments.gamma, tf.Tensor):
        differentiable["gamma"] = arguments.gamma
    else:
        number = arguments.gamma

    def compute(arrays: Mapping[str, Any], with_grad: bool) -> Sequence[Any]:
        _check(arrays)
        gamma = float(arrays["gamma"]) if number is None else number
        return _compute(arrays, gamma, arguments, with_grad)

    constants = {
        "permutations": arguments.permutations,
        "candidate_sampling_probability": arguments.candidate_sampling_probability,
        "candidate_ids": arguments.candidate_ids,
    }
    return bridge.fused_loss(differentiable, constants, compute, _unit_grads, num_outputs=4)


def _unit_grads(names: Sequence[str], results: Sequence[Any]) -> list[Any]:
    _, grad_query, grad_doc, grad_gamma = results
    found = {"query": grad_query, "doc": grad_doc, "gamma": grad_gamma}
    return [found[name] for name in names]


def _check(arrays: Mapping[str, Any]) -> None:
    query, doc, permutations = arrays["query"], arrays["doc"], arrays["permutations"]
    if query.ndim != 2:
        raise ValueError(
            f"`query` must have rank 2, [batch_size, embedding_dim]. Received: {list(query.shape)}."
        )
    if doc.shape != query.shape:
        raise ValueError(
            f"`doc` must have the shape of `query`, {list(query.shape)}. "
            f"Received: {list(doc.shape)}."
        )
    size = query.shape[0]
    if permutations.ndim != 2 or permutations.shape[1] != size:
        raise ValueError(
            f"`permutations` must have shape [num_negatives, {size}]. "
            f"Received: {list(permutations.shape)}."
        )
    if permutations.shape[0] < 1:
        raise ValueError("`num_negatives` must be at least 1. Received: 0.")
    for name in ("candidate_sampling_probability", "candidate_ids"):
        if name in arrays and arrays[name].shape != (size,):
            raise ValueError(
                f"`{name}` must have shape [{size}]. Received: {list(arrays[name].shape)}."
            )
    if "gamma" in arrays and arrays["gamma"].ndim != 0:
        raise ValueError(f"`scale` must be a scalar. Received: {list(arrays['gamma'].shape)}.")


def _inverted(permutations: Array) -> Array:
    """The inverse of each row, which has to be a permutation."""
    size = permutations.shape[1]
    inverses = np.empty(permutations.shape, np.int64)
    columns = np.broadcast_to(np.arange(size), permutations.shape)
    wrong = (permutations < 0) | (permutations >= size)
    if not wrong.any():
        np.put_along_axis(inverses, permutations, columns, axis=1)
        wrong = np.take_along_axis(inverses, permutations, axis=1) != columns  # Repeated entries.
    if wrong.any():
        k, i = np.argwhere(wrong)[0]
        raise ValueError(
            f"`permutations` must hold each of 0 .. {size - 1} once in every row. "
            f"Received: permutations[{k}, {i}] = {permutations[k, i]}."
        )
    return inverses


def _unit_rows(rows: Array) -> tuple[Array, Array]:
    """Rows over their norms, and 1 / norm, negative where the norm was too small."""
    smallest = rows.dtype.type(1e-12)
    with np.errstate(over="ignore", invalid="ignore"):  # Infinity in a row makes it NaN.
        squares = np.einsum("bd,bd->b", rows, rows)
        clipped = squares < smallest
        inverse = 1 / np.sqrt(np.where(clipped, smallest, squares))
        return rows * inverse[:, None], np.where(clipped, -inverse, inverse)


def _compute(
    arrays: Mapping[str, Any], gamma: float, options: ShuffledCosineArguments, with_grad: bool
) -> Sequence[Any]:
    query, doc = arrays["query"], arrays["doc"]
    dtype = query.dtype
    batch_size, dim = query.shape
    inverses = _inverted(arrays["permutations"])
    if batch_size == 0:
        return (
            np.zeros((), dtype),
            np.zeros((0, dim), dtype),
            np.zeros((0, dim), dtype),
            _zero(dtype),
        )
    num_candidates = len(inverses) + 1
    unit_query, query_inverse = _unit_rows(query)
    unit_doc, doc_inverse = _unit_rows(doc)
    offsets = log_others = np.empty(0, dtype)
    if "candidate_sampling_probability" in arrays:
        smallest = dtype.type(1e-9)
        probability = np.maximum(arrays["candidate_sampling_probability"], smallest)
        offsets = -np.log(probability)
        if options.correction == "refined":
            log_others = np.log(np.maximum(1 - probability, smallest))
    plan = ShuffledPlan(
        query=unit_query,
        doc=unit_doc,
        query_inverse=query_inverse,
        doc_inverse=doc_inverse,
        permutations=compiling.frozen(arrays["permutations"].astype(np.int64)),
        inverses=inverses,
        offsets=compiling.frozen(offsets),
        log_others=compiling.frozen(log_others),
        ids=compiling.frozen(arrays.get("candidate_ids", np.empty(0, np.int64))),
        gamma=gamma,
        positive_in_softmax=options.positive_in_softmax,
        negative_weight=options.negative_weight,
        with_grad=with_grad,
        row_losses=np.empty(batch_size, dtype),
        row_grad_gamma=np.empty(batch_size, dtype),
        grad_query=np.empty((batch_size, dim) if with_grad else (0, 0), dtype),
        grad_doc=np.empty((batch_size, dim) if with_grad else (0, 0), dtype),
        cosines=np.empty((batch_size, num_candidates), dtype),
        weights=np.empty((batch_size, num_candidates), dtype),
    )
    run = compiling.entry(make_run)
    num_threads = min(bridge.num_threads(), -(-batch_size // ROWS))
    counters = np.zeros(64, np.int64)
    compiling.run_together(("shuffled_cosine", dtype), lambda _: run(plan, counters), num_threads)
    scale = dtype.type(1 / batch_size)
    return (
        np.asarray(plan.row_losses.mean(dtype=np.float64), dtype),
        plan.grad_query * scale,
        plan.grad_doc * scale,
        np.asarray(plan.row_grad_gamma.mean(dtype=np.float64), dtype),
    )


def _zero(dtype: Any) -> Any:
    return np.zeros((), dtype)
