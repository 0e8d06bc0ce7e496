"""Inputs of the in-batch softmax loss that tests share, and ways to run it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import evaluation
import numpy as np
import oracle_in_batch_softmax as oracle
import problems
import tensorflow as tf

import fastneg

LOSS = fastneg.in_batch_softmax_loss

# (batch_size, num_candidates, embedding_dim): tails of every vector width, one and many panels.
SHAPES = (
    (1, 1, 1),
    (2, 2, 3),
    (3, 9, 2),
    (7, 7, 17),
    (16, 40, 64),
    (33, 33, 50),
    (64, 64, 100),
    (130, 257, 31),
    (257, 257, 128),
    (150, 151, 300),
    (40, 700, 8),
)
_SCALARS = {"temperature": 1.0, "margin": 0.0, "t": 1.0}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Arguments of the loss, as NumPy arrays and numbers."""

    query: Any
    candidate: Any
    options: Mapping[str, Any]

    def with_options(self, **options: Any) -> "Problem":
        """The same embeddings, with other options."""
        return dataclasses.replace(self, options={**self.options, **options})

    @property
    def compute_dtype(self) -> Any:
        """That of the loss."""
        return problems.compute_dtype(self.query.dtype)


class Result(NamedTuple):
    """The loss and its gradients; None for what has none."""

    loss: Any
    grad_query: Any
    grad_candidate: Any
    grad_weight: Any
    grad_temperature: Any
    grad_margin: Any
    grad_t: Any


def make(
    batch_size: int,
    num_candidates: int,
    embedding_dim: int,
    dtype: str = "float32",
    seed: int = 0,
    **options: Any,
) -> Problem:
    """Normally distributed embeddings, each of the first candidates leaning towards its query."""
    rng = np.random.default_rng([seed, batch_size, num_candidates, embedding_dim])
    query = rng.normal(size=(batch_size, embedding_dim))
    candidate = rng.normal(size=(num_candidates, embedding_dim))
    size = min(batch_size, num_candidates)
    candidate[:size] += 0.5 * query[:size]
    scale = embedding_dim**-0.25
    numpy_dtype = problems.DTYPES[dtype]
    return Problem(
        (scale * query).astype(numpy_dtype), (scale * candidate).astype(numpy_dtype), options
    )


# What each makes of a problem, by name.
VARIANTS: dict[str, Callable[[Problem, np.random.Generator], dict[str, Any]]] = {
    "plain": lambda _, __: {},
    "cosine": lambda _, __: {"normalize": True, "temperature": 0.1},
    "re-weighted": lambda _, __: {
        "normalize": True,
        "temperature": 0.2,
        "margin": 0.1,
        "t": 1.2,
    },
    "probabilities": lambda p, rng: {"candidate_sampling_probability": probabilities(p, rng)},
    "weights": lambda p, rng: {"sample_weight": weights(p, rng)},
    "ids": lambda p, rng: {"candidate_ids": ids(p, rng)},
    "candidate mask": lambda p, rng: {"candidate_mask": rng.random(len(p.candidate)) < 0.7},
    "score mask": lambda p, rng: {"score_mask": rng.random((len(p.query), len(p.candidate))) < 0.7},
    "positives": lambda p, rng: {
        "positives": rng.integers(0, len(p.candidate), len(p.query)),
        "candidate_ids": ids(p, rng),
    },
    "hard": lambda p, rng: {
        "num_hard_negatives": max(1, len(p.candidate) // 5),
        "candidate_sampling_probability": probabilities(p, rng),
        "margin": 0.2,
        "t": 0.9,
    },
    "smoothing": lambda p, rng: {"label_smoothing": 0.1, "candidate_ids": ids(p, rng)},
    "smoothing, re-weighted": lambda p, rng: {
        "label_smoothing": 0.3,
        "num_hard_negatives": max(1, len(p.candidate) // 2),
        "score_mask": rng.random((len(p.query), len(p.candidate))) < 0.7,
        "t": 1.3,
        "margin": 0.3,
        "sample_weight": weights(p, rng),
    },
    "decoupled": lambda p, rng: {
        "positive_in_softmax": False,
        "negative_weight": 1.2,
        "candidate_ids": ids(p, rng),
        "sample_weight": weights(p, rng),
    },
    "refined": lambda p, rng: {
        "correction": "refined",
        "candidate_sampling_probability": probabilities(p, rng),
        "normalize": True,
        "temperature": 0.1,
        "margin": 0.1,
        "t": 1.2,
        "sample_weight": weights(p, rng),
    },
    "two ways": lambda p, rng: {
        "bidirectional": True,
        "candidate_sampling_probability": probabilities(p, rng),
        "candidate_ids": ids(p, rng),
        "sample_weight": weights(p, rng),
    },
    "two ways, re-weighted": lambda p, rng: {
        "bidirectional": True,
        "normalize": True,
        "temperature": 0.1,
        "margin": 0.1,
        "t": 1.2,
        "label_smoothing": 0.1,
        "candidate_mask": rng.random(len(p.candidate)) < 0.7,
        "score_mask": rng.random((len(p.query), len(p.candidate))) < 0.7,
    },
    "two ways, decoupled": lambda p, rng: {
        "bidirectional": True,
        "positive_in_softmax": False,
        "negative_weight": 1.2,
        "candidate_ids": ids(p, rng),
        "sample_weight": weights(p, rng),
    },
}


def variant(name: str, problem: Problem, reduction: str = "mean") -> Problem:
    """A problem with the options of a variant."""
    options = VARIANTS[name](problem, np.random.default_rng(len(name)))
    return problem.with_options(reduction=reduction, **options)


def probabilities(problem: Problem, rng: np.random.Generator) -> Any:
    """Sampling probabilities, one too small and one too large."""
    values = rng.random(len(problem.candidate)) ** 4
    values[0], values[-1] = 0, 1.5
    return values.astype(problem.compute_dtype)


def weights(problem: Problem, rng: np.random.Generator) -> Any:
    """Weights of rows, some 0."""
    size = len(problem.query)
    return (rng.random(size) * (rng.random(size) < 0.8)).astype(problem.compute_dtype)


def ids(problem: Problem, rng: np.random.Generator) -> Any:
    """Ids that occur about twice."""
    size = len(problem.candidate)
    names = rng.integers(-(2**62), 2**62, max(size // 2, 1))
    return names[rng.integers(0, len(names), size)]


def upstream(problem: Problem) -> Any:
    """The gradient of the loss."""
    if problem.options.get("reduction") == "none":
        return np.linspace(-1, 2, len(problem.query)).astype(problem.compute_dtype)
    return problem.compute_dtype(3)


def run(loss: Callable[..., Any], problem: Problem, mode: str = "eager") -> Result:
    """The loss and the gradients of everything that has one."""
    options = dict(problem.options)
    variables = {"query_embeddings": problem.query, "candidate_embeddings": problem.candidate}
    if "sample_weight" in options:
        variables["sample_weight"] = options.pop("sample_weight")
    for name, default in _SCALARS.items():
        variables[name] = problem.compute_dtype(options.pop(name, default))
    tensors = {name: tf.convert_to_tensor(value) for name, value in variables.items()}
    others = {
        name: tf.convert_to_tensor(options.pop(name))
        for name in list(options)
        if isinstance(options[name], np.ndarray)
    }
    followed_names = tuple(variables)

    def compute(factor: tf.Tensor, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        followed = {name: arguments[name] for name in followed_names}
        with tf.GradientTape() as tape:
            tape.watch(followed)
            value = loss(**arguments, **options)
        return value, tape.gradient(value, followed, output_gradients=factor)

    arguments = {"factor": tf.constant(upstream(problem)), **tensors, **others}
    value, grads = evaluation.wrap(compute, mode, arguments)(**arguments)
    arrays = {name: None if grad is None else grad.numpy() for name, grad in grads.items()}
    return Result(
        value.numpy(),
        arrays["query_embeddings"],
        arrays["candidate_embeddings"],
        arrays.get("sample_weight"),
        *(arrays[name] for name in _SCALARS),
    )


def truth(problem: Problem) -> Result:
    """The float64 result for inputs as rounded as the loss gets them."""
    options = dict(problem.options)
    for name in _SCALARS:
        if name in options:
            options[name] = float(problem.compute_dtype(options[name]))
    exact = oracle.in_batch_softmax(
        problem.query, problem.candidate, upstream=upstream(problem), **options
    )
    return Result(*exact)


def assert_as_accurate(result: Result, plain: Result, problem: Problem) -> None:
    """The error is at most a small multiple of that of plain TensorFlow, or of rounding."""
    options, batch_size = problem.options, max(len(problem.query), 1)
    rows = batch_size if options.get("reduction", "mean") == "mean" else 1
    scale = 3 * (1 + 1 / options.get("temperature", 1.0)) / rows
    lengths = [1.0, 1.0]
    if not options.get("normalize"):
        lengths = [
            np.mean(np.linalg.norm(values.astype(np.float64), axis=1))
            for values in (problem.candidate, problem.query)
        ]
    # A difference of logits is as exact as these are rounded.
    logits = 1 + 1 / options.get("temperature", 1.0) if evaluation.is_decoupled(options) else 1.0
    usual = Result(
        logits * (1 if rows > 1 else batch_size),
        scale * lengths[0],
        scale * lengths[1],
        3 * logits / rows,
        *([scale * batch_size * (1 + 1 / options.get("temperature", 1.0))] * 3),
    )
    exact = truth(problem)
    if result.grad_weight is None:
        exact = exact._replace(grad_weight=None)
    evaluation.assert_within_budget(result, plain, exact, usual, problem.compute_dtype)
