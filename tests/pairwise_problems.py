"""Inputs of the pairwise logistic loss, ways to run it, and comparison with the truth."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import evaluation
import ml_dtypes
import numpy as np
import oracle_pairwise_logistic as oracle
import tensorflow as tf

DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
}
MODES = ("eager", "graph", "unknown_batch", "xla")

_SCALARS = {"margin": 0.0, "temperature": 1.0}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arguments of the loss, as NumPy arrays and numbers."""

    labels: Any
    logits: Any
    options: Mapping[str, Any]

    def with_options(self, **options: Any) -> "Problem":
        """The same labels and logits, with other options."""
        return dataclasses.replace(self, options={**self.options, **options})


class Result(NamedTuple):
    """The loss and the gradients of `oracle.Truth`, as computed; None for what has no gradient."""

    loss: Any
    grad_logits: Any
    grad_weights: Any
    grad_margin: Any
    grad_temperature: Any


def compute_dtype(dtype: Any) -> Any:
    """The dtype of losses and scalars for logits of `dtype`."""
    return np.float64 if np.dtype(dtype) == np.float64 else np.float32


def make(
    batch_size: int,
    dtype: str = "float32",
    *,
    num_labels: int = 2,
    positive_share: float = 0.3,
    scale: float = 1.0,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """Normally distributed logits that lean towards the labels; 0 labels: all different."""
    rng = np.random.default_rng([seed, batch_size, num_labels])
    if num_labels == 0:
        labels = rng.permutation(batch_size).astype(np.float32)
    elif num_labels == 2:
        labels = (rng.random(batch_size) < positive_share).astype(np.float32)
        labels[rng.integers(batch_size)] = 1
    else:
        labels = rng.integers(0, num_labels, batch_size).astype(np.float32)
    noise = rng.normal(size=batch_size)
    logits = scale * (noise + 0.5 * (labels - labels.mean()) / (labels.std() + 1e-3))
    return Problem(labels, logits.astype(DTYPES[dtype]), dict(options))


def with_everything(problem: Problem, num_sessions: int = 3, *, seed: int = 0) -> Problem:
    """Adds sessions, weights (some 0), a margin and a temperature."""
    rng = np.random.default_rng(seed)
    size = len(problem.labels)
    dtype = compute_dtype(problem.logits.dtype)
    weights = 2 * rng.random(size) * (rng.random(size) < 0.8)
    return problem.with_options(
        session_ids=rng.integers(-num_sessions // 2, num_sessions - num_sessions // 2, size),
        weights=weights.astype(dtype),
        margin=0.2,
        temperature=0.7,
    )


def run(loss: Callable[..., Any], problem: Problem, mode: str = "eager") -> Result:
    """Returns the loss and its gradients with respect to everything that has one."""
    dtype = compute_dtype(problem.logits.dtype)
    options = dict(problem.options)
    variables = {"logits": problem.logits}
    if np.ndim(options.get("weights", 1.0)):
        variables["weights"] = options.pop("weights")
    for name, default in _SCALARS.items():
        variables[name] = dtype(options.pop(name, default))
    constants = {"labels": problem.labels}
    if options.get("session_ids") is not None:
        constants["session_ids"] = options.pop("session_ids")

    watched_names = tuple(variables)

    def compute(**tensors: Any) -> tuple[Any, dict[str, Any]]:
        watched = {name: tensors[name] for name in watched_names}
        with tf.GradientTape() as tape:
            tape.watch(watched)
            value = loss(**tensors, **options)
        return value, tape.gradient(value, watched)

    arguments = {
        name: tf.convert_to_tensor(value) for name, value in {**constants, **variables}.items()
    }
    value, grads = evaluation.wrap(compute, mode, arguments)(**arguments)
    return Result(
        value.numpy(),
        *(
            None if grads.get(name) is None else grads[name].numpy()
            for name in ("logits", "weights", *_SCALARS)
        ),
    )


def truth(problem: Problem) -> oracle.Truth:
    """The float64 result for inputs as rounded as the loss gets them."""
    options = dict(problem.options)
    for name in _SCALARS:
        if name in options:
            options[name] = float(compute_dtype(problem.logits.dtype)(options[name]))
    return oracle.pairwise_logistic(problem.labels, problem.logits, **options)


def assert_as_accurate(result: Result, plain: Result, expected: oracle.Truth) -> None:
    """The error of `result` is at most a small multiple of that of plain TensorFlow.

    The allowance beyond it is a few units in the last place of the largest element (of the terms,
    where a sum cancels), and in float64 what the order of a long sum makes of the oracle itself.
    """
    for name, actual, baseline in zip(Result._fields, result, plain, strict=True):
        exact = getattr(expected, name)
        if actual is None:
            assert baseline is None, name
            continue
        assert actual.dtype == baseline.dtype, name
        assert actual.size == np.size(exact), name
        error, baseline_error = (
            np.max(np.abs(value.astype(np.float64).reshape(np.shape(exact)) - exact), initial=0.0)
            for value in (actual, baseline)
        )
        scale = np.max(np.abs(exact), initial=0.0)
        if name == "grad_temperature":
            scale = expected.temperature_terms
        epsilon = max(float(ml_dtypes.finfo(actual.dtype).eps), 1e-14)
        assert error <= 4 * baseline_error + 4 * epsilon * scale, name
