"""Inputs of the SV-softmax loss over given scores, and how tests run it and compare."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import evaluation
import ml_dtypes
import numpy as np
import oracle_sv_softmax
import problems
import tensorflow as tf

MODES = ("eager", "graph", "unknown_size", "xla")
SCALARS = ("smooth", "margin", "t")

# (num_rows, num_negatives): every width of short rows, tails of every vector width, long rows.
SHAPES = (
    (1, 1),
    (5, 1),
    (33, 2),
    (17, 3),
    (64, 4),
    (70, 5),
    (16, 8),
    (37, 9),
    (40, 15),
    (50, 16),
    (300, 17),
    (19, 20),
    (48, 33),
    (35, 100),
    (24, 256),
    (17, 1000),
    (3, 5003),
    (1, 9000),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of the loss, as NumPy arrays and numbers."""

    pos_score: Any
    neg_scores: Any
    options: Mapping[str, Any]

    @property
    def dtype(self) -> np.dtype:
        """That of the scores."""
        return self.neg_scores.dtype

    def with_options(self, **options: Any) -> "Case":
        """The same scores with other options."""
        return dataclasses.replace(self, options={**self.options, **options})


def make(
    num_rows: int,
    num_negatives: int,
    dtype: str = "float32",
    *,
    seed: int = 0,
    **options: Any,
) -> Case:
    """Normally distributed scores, the positive's a little higher."""
    rng = np.random.default_rng([seed, num_rows, num_negatives])
    kind = problems.DTYPES[dtype]
    return Case(
        (rng.normal(size=num_rows) + 1).astype(kind),
        rng.normal(size=(num_rows, num_negatives)).astype(kind),
        {"margin": 0.1, "t": 1.2, "smooth": 3.0, "threshold": 0.05, **options},
    )


def with_weights(case: Case, *, seed: int = 0) -> Case:
    """Adds weights, some of them 0, none of them all."""
    rng = np.random.default_rng(seed)
    weights = rng.random(len(case.pos_score)) * (rng.random(len(case.pos_score)) < 0.8)
    weights[0] = 0.7
    return case.with_options(weights=weights.astype(problems.compute_dtype(case.dtype)))


class Result(NamedTuple):
    """What `oracle_sv_softmax.Truth` holds, as computed; None for what has no gradient."""

    loss: Any
    grad_pos: Any
    grad_neg: Any
    grad_weights: Any
    grad_smooth: Any
    grad_margin: Any
    grad_t: Any


def run(loss: Callable[..., Any], case: Case, mode: str = "eager") -> Result:
    """Returns the loss and its gradients with respect to everything that has one."""
    dtype = problems.compute_dtype(case.dtype)
    options = dict(case.options)
    variables = {"pos_score": case.pos_score, "neg_scores": case.neg_scores}
    if np.ndim(options.get("weights", 1.0)):
        variables["weights"] = options.pop("weights")
    for name in SCALARS:
        variables[name] = dtype(options.pop(name, {"margin": 0.0}.get(name, 1.0)))

    def compute(**tensors: Any) -> tuple[Any, dict[str, Any]]:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(**tensors, **options)
        return value, tape.gradient(value, tensors)

    arguments = {name: tf.convert_to_tensor(value) for name, value in variables.items()}
    how = "unknown_batch" if mode == "unknown_size" else mode
    value, grads = evaluation.wrap(compute, how, arguments)(**arguments)
    grads = {name: None if grad is None else grad.numpy() for name, grad in grads.items()}
    return Result(
        value.numpy(),
        grads["pos_score"],
        grads["neg_scores"],
        grads.get("weights"),
        *(grads[name] for name in SCALARS),
    )


def truth(case: Case) -> oracle_sv_softmax.Truth:
    """The true result for inputs as rounded as the loss gets them."""
    options = dict(case.options)
    for name in (*SCALARS, "threshold"):
        if name in options:
            options[name] = float(problems.compute_dtype(case.dtype)(options[name]))
    return oracle_sv_softmax.sv_softmax(case.pos_score, case.neg_scores, **options)


def truth_without_missing(case: Case) -> oracle_sv_softmax.Truth:
    """The same, of rows from which the negatives of -inf have been taken out one by one."""
    weights = np.broadcast_to(case.options.get("weights", 1.0), len(case.pos_score))
    total = oracle_sv_softmax.Truth(
        0.0, *np.zeros((1, len(weights))), np.zeros(case.neg_scores.shape), np.zeros(len(weights)),
        0.0, 0.0, 0.0,
    )  # fmt: skip
    share = 1 / np.count_nonzero(weights)
    for i, negatives in enumerate(case.neg_scores):
        present = negatives != np.float32(-np.inf)
        row = truth(
            Case(case.pos_score[i : i + 1], negatives[None, present], case.options).with_options(
                weights=1.0
            )
        )
        weight = share * float(weights[i])
        total.grad_pos[i] = weight * row.grad_pos[0]
        total.grad_neg[i, present] = weight * row.grad_neg[0]
        total.grad_weights[i] = share * row.loss
        scalars = ("loss", "grad_smooth", "grad_margin", "grad_t")
        total = total._replace(
            **{name: getattr(total, name) + weight * getattr(row, name) for name in scalars}
        )
    return total


def assert_as_accurate(
    result: Any, plain: Result, expected: oracle_sv_softmax.Truth, case: Case
) -> None:
    """The error of `result` is at most a small multiple of that of plain TensorFlow.

    The allowance beyond it is a few units in the last place of the largest element, or of what it
    would be in a row whose probabilities are not all close to 0 and 1.
    """
    usual = _usual_scales(case)
    for name, actual, baseline, exact in zip(Result._fields, result, plain, expected, strict=True):
        if actual is None:
            continue
        actual = np.asarray(actual)
        assert actual.shape == np.shape(exact), name
        if baseline is not None:
            assert actual.dtype == baseline.dtype, name
        error, baseline_error = (
            0.0 if value is None else np.max(np.abs(value.astype(np.float64) - exact), initial=0.0)
            for value in (actual, baseline)
        )
        scale = np.max(np.abs(exact), initial=0.0)
        compute = ml_dtypes.finfo(problems.compute_dtype(case.dtype)).eps
        own = float(ml_dtypes.finfo(actual.dtype).eps)
        allowance = 4 * own * scale + 4 * float(compute) * usual[name]
        assert error <= 4 * baseline_error + allowance, name


def _usual_scales(case: Case) -> dict[str, float]:
    num_rows = max(1, len(case.pos_score))
    smooth = 1 + abs(case.options.get("smooth", 1.0))
    emphasis = max(1.0, abs(case.options.get("t", 1.0)))
    spread = 1 + abs(case.options.get("margin", 0.0)) + emphasis
    return {
        "loss": 1.0,
        "grad_pos": smooth / num_rows,
        "grad_neg": smooth * emphasis / num_rows,
        "grad_weights": 1 / num_rows,
        "grad_smooth": spread,
        "grad_margin": smooth,
        "grad_t": smooth,
    }
