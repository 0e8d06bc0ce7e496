"""`support_vector_guided_softmax_loss` as TensorFlow sees the numba kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fastneg.arguments.sv_softmax import SvSoftmaxArguments
from fastneg.backends.numba import bridge, compiling
from fastneg.backends.numba.call import aligned
from fastneg.backends.numba.plan import Array
from fastneg.backends.numba.sv_softmax_kernels import SvSoftmaxPlan, make_run
from fastneg.backends.numba.vector_ir import VECTOR_BYTES

_SCALARS = ("smooth", "margin", "t")
_BLOCK_ELEMENTS = 1 << 15
_MAX_BLOCK_ROWS = 1024


class _Result(NamedTuple):
    """The loss and its gradients for an upstream gradient of 1; empty where not asked for."""

    loss: Array  # scalar
    grad_pos: Array  # [P]
    grad_neg: Array  # [P, K]
    grad_weights: Array  # [P]
    grad_scalars: Array  # [3]: smooth, margin, t


def sv_softmax(arguments: SvSoftmaxArguments) -> tf.Tensor:
    """Calls the kernels."""
    pos_score, neg_scores = arguments.pos_score, arguments.neg_scores
    if neg_scores.dtype in (tf.float16, tf.bfloat16):
        pos_score, neg_scores = tf.cast(pos_score, tf.float32), tf.cast(neg_scores, tf.float32)
    differentiable = {"pos_score": pos_score, "neg_scores": neg_scores}
    if arguments.weights is not None:
        differentiable["weights"] = arguments.weights
    numbers: dict[str, Any] = {}
    for name in _SCALARS:
        value = getattr(arguments, name)
        if isinstance(value, tf.Tensor):
            differentiable[name] = value
        else:
            numbers[name] = value
    constants = {}
    if isinstance(arguments.threshold, tf.Tensor):
        constants["threshold"] = arguments.threshold
    else:
        numbers["threshold"] = arguments.threshold

    def compute(arrays: Mapping[str, Any], with_grad: bool) -> _Result:
        with_scalars = with_grad and any(name in arrays for name in _SCALARS)
        return _compute({**arrays, **numbers}, with_grad, with_scalars)

    return bridge.fused_loss(
        differentiable, constants, compute, _unit_grads, num_outputs=len(_Result._fields)
    )


def _unit_grads(names: Sequence[str], results: Sequence[Any]) -> list[Any]:
    _, grad_pos, grad_neg, grad_weights, grad_scalars = results
    found = {"pos_score": grad_pos, "neg_scores": grad_neg, "weights": grad_weights}
    found |= {name: grad_scalars[i] for i, name in enumerate(_SCALARS) if name in names}
    return [found[name] for name in names]


def _compute(arguments: Mapping[str, Any], with_grad: bool, with_scalars: bool) -> _Result:
    """Checks shapes, and runs the kernels.

    Raises:
        ValueError: A shape is not as it must be.
    """
    neg_scores = arguments["neg_scores"]
    if neg_scores.ndim != 2:
        raise ValueError(
            "`neg_scores` must have rank 2, [num_rows, num_negatives]. "
            f"Received: {list(neg_scores.shape)}."
        )
    num_rows, num_negatives = neg_scores.shape
    pos_score = _per_row("pos_score", arguments["pos_score"], num_rows)
    dtype = neg_scores.dtype
    none = np.empty(0, dtype)
    weights = none
    count = num_rows
    if "weights" in arguments:
        weights = _per_row("weights", arguments["weights"], num_rows)
        count = int(np.count_nonzero(weights))
    for name in (*_SCALARS, "threshold"):
        shape = list(np.shape(arguments[name]))
        if shape:
            raise ValueError(f"`{name}` must be a scalar. Received: {shape}.")
    block_rows = min(max(_BLOCK_ELEMENTS // max(num_negatives, 1), 1), _MAX_BLOCK_ROWS)
    num_blocks = -(-num_rows // block_rows)
    num_threads = min(bridge.num_threads(), max(num_blocks, 1))
    plan = SvSoftmaxPlan(
        pos_score=compiling.frozen(pos_score),
        neg_scores=compiling.frozen(neg_scores),
        weights=compiling.frozen(weights),
        **{name: float(arguments[name]) for name in (*_SCALARS, "threshold")},
        inverse_count=1.0 / count if count else 0.0,
        with_grad=with_grad,
        with_scalars=with_scalars,
        lanes=VECTOR_BYTES // dtype.itemsize,
        block_rows=block_rows,
        block_sums=np.zeros((num_blocks, 4)),
        grad_pos=np.empty(num_rows if with_grad else 0, dtype),
        grad_neg=aligned(neg_scores.shape if with_grad else (0, 0), dtype),
        grad_weights=np.empty(weights.size if with_grad else 0, dtype),
    )
    run = compiling.entry(make_run)
    counters = np.zeros(16, np.int64)
    compiling.run_together(
        (make_run, dtype), lambda worker: run(plan, counters, worker), num_threads
    )
    totals = plan.block_sums.sum(axis=0)
    return _Result(
        loss=np.asarray(totals[0], dtype),
        grad_pos=plan.grad_pos,
        grad_neg=plan.grad_neg,
        grad_weights=plan.grad_weights,
        grad_scalars=totals[1:].astype(dtype) if with_scalars else none,
    )


def _per_row(name: str, value: Array, num_rows: int) -> Array:
    if value.shape not in ((num_rows,), (num_rows, 1)):
        raise ValueError(
            f"`{name}` must have shape [{num_rows}] or [{num_rows}, 1]. "
            f"Received: {list(value.shape)}."
        )
    return value.reshape(num_rows)
