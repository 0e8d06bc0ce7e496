"""Runs a loss on a problem in every way that TensorFlow offers, and compares with the truth."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import oracle
import problems
import tensorflow as tf
import traced

MODES = ("eager", "graph", "unknown_batch", "xla")

_SCALARS = ("gamma", "margin", "t")


class Result(NamedTuple):
    """What `oracle.Truth` holds, as computed; None for what has no gradient."""

    loss: Any
    grad_user: Any
    grad_item: Any
    grad_weights: Any
    grad_gamma: Any
    grad_margin: Any
    grad_t: Any


def run(loss: Callable[..., Any], problem: problems.Problem, mode: str = "eager") -> Result:
    """Returns the loss and its gradients with respect to everything that has one."""
    dtype = tf.as_dtype(problems.compute_dtype(problem.dtype))
    options = dict(problem.options)
    variables = {"user_emb": problem.user_emb, "item_emb": problem.item_emb}
    if np.ndim(options.get("weights", 1.0)):
        variables["weights"] = options.pop("weights")
    for name in _SCALARS:
        variables[name] = dtype.as_numpy_dtype(options.pop(name, {"margin": 0.0}.get(name, 1.0)))

    def compute(labels: Any, shifts: Any, **tensors: Any) -> tuple[Any, dict[str, Any]]:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(labels=labels, shifts=shifts, **tensors, **options)
        return value, tape.gradient(value, tensors)

    arguments = {
        name: tf.convert_to_tensor(value)
        for name, value in (
            ("labels", problem.labels),
            ("shifts", problem.shifts),
            *variables.items(),
        )
    }
    value, grads = wrap(compute, mode, arguments)(**arguments)
    grads = {name: None if grad is None else grad.numpy() for name, grad in grads.items()}
    return Result(
        value.numpy(),
        grads["user_emb"],
        grads["item_emb"],
        grads.get("weights"),
        *(grads[name] for name in _SCALARS),
    )


def wrap(compute: Callable[..., Any], mode: str, arguments: dict[str, Any]) -> Callable[..., Any]:
    """`compute` as it runs in a mode; `arguments` tell dtypes and ranks."""
    specs = None
    if mode == "unknown_batch":
        specs = {
            name: tf.TensorSpec([None] * value.shape.rank, value.dtype)
            for name, value in arguments.items()
        }
    return traced.wrap(compute, mode, arguments, specs)


def truth(problem: problems.Problem) -> oracle.Truth:
    """The float64 result for inputs as rounded as the loss gets them."""
    options = dict(problem.options)
    for name in _SCALARS:
        if name in options:
            options[name] = float(problems.compute_dtype(problem.dtype)(options[name]))
    return oracle.rolled_softmax(
        problem.user_emb, problem.item_emb, problem.labels, problem.shifts, **options
    )


def assert_as_accurate(
    result: Result, plain: Result, expected: oracle.Truth, problem: problems.Problem
) -> None:
    """The error of `result` is at most a small multiple of that of plain TensorFlow.

    The allowance beyond it is a few units in the last place of the largest element, or of what it
    would be in a row whose probabilities are not all close to 0 and 1.
    """
    usual = Result(**_usual_scales(problem))
    assert_within_budget(result, plain, expected, usual, problems.compute_dtype(problem.dtype))


def assert_within_budget(result: Any, plain: Any, expected: Any, usual: Any, dtype: Any) -> None:
    """Compares named tuples: of results, of plain TensorFlow's, of exact and of usual values."""
    for name, actual, baseline, exact, size in zip(
        result._fields, result, plain, expected, usual, strict=True
    ):
        if actual is None:
            assert baseline is None, name
            continue
        assert actual.dtype == baseline.dtype, name
        assert actual.shape == np.shape(exact), name
        error, baseline_error = (
            np.max(np.abs(value.astype(np.float64) - exact), initial=0.0)
            for value in (actual, baseline)
        )
        scale = np.max(np.abs(exact), initial=0.0)
        allowance = 4 * _epsilon(actual.dtype) * scale + 4 * _epsilon(dtype) * size
        assert error <= 4 * baseline_error + allowance, name


def _usual_scales(problem: problems.Problem) -> dict[str, float]:
    num_rows = max(1, np.count_nonzero(problem.labels))
    gamma = 1 + abs(problem.options.get("gamma", 1.0))
    norms = [
        np.mean(np.linalg.norm(rows.astype(np.float64), axis=1))
        for rows in (problem.user_emb, problem.item_emb)
    ]
    # A difference of logits is as exact as these are rounded.
    logits = gamma if is_decoupled(problem.options) else 1.0
    return {
        "loss": logits,
        "grad_user": gamma / num_rows / norms[0],
        "grad_item": gamma / num_rows / norms[1],
        "grad_weights": logits / num_rows,
        "grad_gamma": 1.0,
        "grad_margin": gamma,
        "grad_t": gamma,
    }


def is_decoupled(options: Mapping[str, Any]) -> bool:
    """Whether the positive is out of the softmax."""
    return not options.get("positive_in_softmax", True) or options.get("correction") == "refined"


def _epsilon(dtype: Any) -> float:
    return float(ml_dtypes.finfo(dtype).eps)
