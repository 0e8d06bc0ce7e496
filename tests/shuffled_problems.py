"""Inputs of the shuffled cosine loss that tests share, and ways to run it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import evaluation
import numpy as np
import oracle
import problems
import tensorflow as tf

import fastneg

LOSS = fastneg.negative_cosine_loss

# (batch_size, num_negatives, embedding_dim): K may exceed B, and B = 1 has a permutation too.
SHAPES = (
    (1, 1, 1),
    (2, 3, 2),
    (3, 1, 5),
    (7, 4, 17),
    (16, 40, 64),
    (33, 8, 50),
    (64, 20, 100),
    (130, 17, 31),
    (257, 64, 128),
    (150, 33, 300),
    (128, 5, 1024),
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arguments of the loss, as NumPy arrays and numbers."""

    query: Any
    doc: Any
    permutations: Any
    options: Mapping[str, Any]

    def with_options(self, **options: Any) -> "Problem":
        """The same embeddings and permutations, with other options."""
        return dataclasses.replace(self, options={**self.options, **options})


class Result(NamedTuple):
    """The loss and its gradients."""

    loss: Any
    grad_query: Any
    grad_doc: Any
    grad_scale: Any
    grad_t: Any


@functools.cache
def make(
    batch_size: int, num_negatives: int, embedding_dim: int, dtype: str = "float32", seed: int = 0
) -> Problem:
    """Normally distributed embeddings, each document leaning towards its query."""
    rng = np.random.default_rng([seed, batch_size, num_negatives, embedding_dim])
    query = rng.normal(size=(batch_size, embedding_dim))
    doc = rng.normal(size=(batch_size, embedding_dim)) + 0.5 * query
    permutations = np.stack([rng.permutation(batch_size) for _ in range(num_negatives)])
    numpy_dtype = problems.DTYPES[dtype]
    return Problem(query.astype(numpy_dtype), doc.astype(numpy_dtype), permutations, {})


def with_everything(problem: Problem) -> Problem:
    """Adds sampling probabilities (one too small), repeated ids, a scale and a temperature."""
    rng = np.random.default_rng(1)
    batch_size = len(problem.query)
    probability = rng.random(batch_size) ** 4
    probability[0] = 0
    return problem.with_options(
        candidate_sampling_probability=probability.astype(
            problems.compute_dtype(problem.query.dtype)
        ),
        candidate_ids=rng.integers(0, max(2, batch_size // 3), batch_size),
        scale=15.0,
        t=0.75,
    )


def run(loss: Callable[..., Any], problem: Problem, mode: str = "eager") -> Result:
    """The loss and the gradients of everything that has one."""
    dtype = problems.compute_dtype(problem.query.dtype)
    options = dict(problem.options)
    variables = {
        "query": tf.convert_to_tensor(problem.query),
        "doc": tf.convert_to_tensor(problem.doc),
        "scale": tf.constant(options.pop("scale", 20.0), dtype),
        "t": tf.constant(options.pop("t", 1.0), dtype),
    }

    def compute(permutations: Any, **tensors: Any) -> tuple[Any, dict[str, Any]]:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(permutations=permutations, **tensors, **options)
        return value, tape.gradient(value, tensors)

    arguments = {"permutations": tf.convert_to_tensor(problem.permutations), **variables}
    value, grads = evaluation.wrap(compute, mode, arguments)(**arguments)
    return Result(value.numpy(), *(grads[name].numpy() for name in variables))


def truth(problem: Problem) -> Result:
    """The float64 result."""
    options = dict(problem.options)
    scale, t = options.pop("scale", 20.0), options.pop("t", 1.0)
    exact = oracle.shuffled_cosine(
        problem.query, problem.doc, problem.permutations, scale=scale, t=t, **options
    )
    per_gamma = exact.grad_gamma
    return Result(
        exact.loss, exact.grad_user, exact.grad_item, per_gamma / t, -per_gamma * scale / t**2
    )


def assert_as_accurate(result: Result, plain: Result, problem: Problem) -> None:
    """The error is at most a small multiple of that of plain TensorFlow, or of rounding."""
    gamma = abs(problem.options.get("scale", 20.0) / problem.options.get("t", 1.0))
    batch_size = max(len(problem.query), 1)
    norms = [
        np.mean(np.linalg.norm(rows.astype(np.float64), axis=1))
        for rows in (problem.query, problem.doc)
    ]
    # A difference of logits is as exact as these are rounded.
    logits = 1.0 + gamma if evaluation.is_decoupled(problem.options) else 1.0
    usual = Result(
        logits, gamma / batch_size / norms[0], gamma / batch_size / norms[1], 1.0, 1.0 + gamma
    )
    evaluation.assert_within_budget(
        result, plain, truth(problem), usual, problems.compute_dtype(problem.query.dtype)
    )
