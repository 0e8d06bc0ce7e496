"""Inputs of the sampled softmax loss that tests share, and every way to run it on them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import oracle_sampled_softmax as oracle
import tensorflow as tf
import traced
from problems import DTYPES, compute_dtype

MODES = ("eager", "graph", "unknown_batch", "xla")

# (batch_size, num_sampled, embedding_dim, num_classes, num_true): tails of every vector width and
# tile, one and several blocks of rows.
SHAPES = (
    (1, 1, 1, 1, 1),
    (2, 3, 5, 4, 1),
    (5, 2, 3, 50, 2),
    (17, 16, 8, 40, 1),
    (33, 70, 50, 90, 3),
    (64, 64, 64, 64, 1),
    (130, 5, 31, 1000, 2),
    (129, 300, 100, 400, 1),
    (600, 65, 130, 5000, 1),
    (1100, 33, 16, 200, 1),
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arguments of the loss, as NumPy arrays."""

    weights: Any
    biases: Any
    labels: Any
    inputs: Any
    sampled: Any
    true_expected_count: Any
    sampled_expected_count: Any
    remove_accidental_hits: bool = True
    upstream: Any = None

    @property
    def num_classes(self) -> int:
        """V."""
        return len(self.weights)

    @property
    def num_true(self) -> int:
        """T."""
        return self.labels.shape[1]


class Result(NamedTuple):
    """What `oracle.Truth` holds, as computed; None for biases that are not there."""

    loss: Any
    grad_weights: Any
    grad_biases: Any
    grad_inputs: Any


def make(
    batch_size: int,
    num_sampled: int,
    embedding_dim: int,
    num_classes: int,
    num_true: int = 1,
    dtype: str = "float32",
    *,
    biases: bool = True,
    upstream: bool = False,
    seed: int = 0,
    scale: float = 1.0,
    **options: Any,
) -> Problem:
    """Skewed labels and samples, so that there are accidental hits and labels that many share."""
    rng = np.random.default_rng([seed, batch_size, num_sampled, embedding_dim, num_true])
    compute = compute_dtype(DTYPES[dtype])
    labels = (num_classes * rng.random((batch_size, num_true)) ** 3).astype(np.int64)
    return Problem(
        (scale * rng.normal(size=(num_classes, embedding_dim))).astype(DTYPES[dtype]),
        rng.normal(size=num_classes).astype(compute) if biases else None,
        labels,
        rng.normal(size=(batch_size, embedding_dim)).astype(DTYPES[dtype]),
        rng.permutation(num_classes)[:num_sampled],
        (rng.random((batch_size, num_true)) + 0.01).astype(compute),
        (rng.random(num_sampled) + 0.01).astype(compute),
        upstream=rng.normal(size=batch_size).astype(compute) if upstream else None,
        **options,
    )


def run(loss: Callable[..., Any], problem: Problem, mode: str = "eager") -> Result:
    """Returns the losses and the gradients of their sum, weighted where there are upstreams."""
    num_classes, num_sampled, num_true = problem.num_classes, len(problem.sampled), problem.num_true
    remove_accidental_hits = problem.remove_accidental_hits

    def compute(**tensors: Any) -> tuple[Any, dict[str, Any]]:
        sources = {
            name: tensors[name] for name in ("weights", "inputs", "biases") if name in tensors
        }
        upstream = tensors.get("upstream")
        with tf.GradientTape() as tape:
            tape.watch(sources)
            value = loss(
                tensors["weights"],
                tensors.get("biases"),
                tensors["labels"],
                tensors["inputs"],
                num_sampled,
                num_classes,
                num_true,
                (
                    tensors["sampled"],
                    tensors["true_expected_count"],
                    tensors["sampled_expected_count"],
                ),
                remove_accidental_hits,
            )
            total = tf.reduce_sum(value if upstream is None else value * upstream)
        grads = tape.gradient(total, sources)
        return value, {name: tf.convert_to_tensor(grad) for name, grad in grads.items()}

    names = [field.name for field in dataclasses.fields(problem)]
    arguments = {
        name: tf.convert_to_tensor(getattr(problem, name))
        for name in names
        if name != "remove_accidental_hits" and getattr(problem, name) is not None
    }
    value, grads = _wrap(compute, mode, arguments)(**arguments)
    arrays = {name: grad.numpy() for name, grad in grads.items()}
    return Result(value.numpy(), arrays["weights"], arrays.get("biases"), arrays["inputs"])


def _wrap(compute: Callable[..., Any], mode: str, arguments: dict[str, Any]) -> Callable[..., Any]:
    specs = None
    if mode == "unknown_batch":
        batched = ("labels", "inputs", "true_expected_count", "upstream")
        specs = {
            name: tf.TensorSpec(
                [None, *value.shape[1:]] if name in batched else value.shape, value.dtype
            )
            for name, value in arguments.items()
        }
    return traced.wrap(compute, mode, arguments, specs)


def truth(problem: Problem) -> oracle.Truth:
    """The float64 result for inputs as rounded as the loss gets them."""
    return oracle.sampled_softmax(
        problem.weights,
        problem.biases,
        problem.labels,
        problem.inputs,
        problem.sampled,
        problem.true_expected_count,
        problem.sampled_expected_count,
        remove_accidental_hits=problem.remove_accidental_hits,
        upstream=1.0 if problem.upstream is None else problem.upstream,
    )


def assert_as_accurate(
    result: Result, plain: Result, expected: oracle.Truth, problem: Problem
) -> None:
    """The error of `result` is at most a small multiple of that of plain TensorFlow.

    The allowance beyond it is a few units in the last place of the largest element, or of what it
    would be if the logits were exact to some units of theirs.
    """
    epsilon = _epsilon(problem.true_expected_count.dtype)
    logit = max(1.0, np.abs(problem.inputs.astype(np.float64)).sum(axis=1).max())
    for name, actual, baseline, exact in zip(Result._fields, result, plain, expected, strict=True):
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
        allowance = 4 * _epsilon(actual.dtype) * scale + epsilon * logit
        assert error <= 4 * baseline_error + allowance, (name, error, baseline_error, scale)


def _epsilon(dtype: Any) -> float:
    return float(ml_dtypes.finfo(dtype).eps)
