"""in_batch_softmax_loss: workloads, the forms that TensorFlow programs use, and the truth.

What is timed is the mean loss with logQ correction and both gradients, every query scoring every
candidate. The limit is the multiply-add peak: three matrix products, 6 B C D operations.
Exponentials, of which there are B C, are not counted.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import suite
import tensorflow as tf
from measure import MachineLimits

import fastneg

_SCORES_LIMIT_BYTES = 4 << 30
_TRUTH_ROWS = 1024  # Of all scores at a time.


@dataclasses.dataclass(frozen=True)
class Workload(suite.Workload):
    """Queries B, candidates C, width D."""

    batch_size: int
    num_candidates: int
    embedding_dim: int

    @property
    def small(self) -> Workload:
        """The same kind of work in a size to warm up on."""
        return dataclasses.replace(self, batch_size=64, num_candidates=64)

    @property
    def is_large(self) -> bool:
        """Whether two threads have to pay."""
        return self.batch_size * self.num_candidates * self.embedding_dim >= 1 << 24

    @property
    def memory_budget_bytes(self) -> int | None:
        """No scores are stored, whatever their number."""
        return 300 << 20


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arrays of one workload."""

    query: np.ndarray  # [B, D] float32
    candidate: np.ndarray  # [C, D] float32
    probability: np.ndarray  # [C] float32


@functools.lru_cache(maxsize=1)
def make_inputs(workload: Workload) -> Inputs:
    """Scores of a standard deviation of 1, but for the positives', which are larger."""
    rng = np.random.default_rng(0)
    size, dim = workload.batch_size, workload.embedding_dim
    query = rng.standard_normal((size, dim), dtype=np.float32) / np.float32(np.sqrt(dim))
    candidate = rng.standard_normal((workload.num_candidates, dim), dtype=np.float32)
    candidate[:size] += 3 * query
    rounded = [tf.cast(tf.cast(x, workload.dtype), tf.float32).numpy() for x in (query, candidate)]
    probability = rng.random(workload.num_candidates, dtype=np.float32) ** 2
    return Inputs(*rounded, np.maximum(probability, np.float32(1e-4)))


def make_tensors(workload: Workload, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """The embeddings in the workload's dtype, and the probabilities."""
    return (
        tf.cast(inputs.query, workload.dtype),
        tf.cast(inputs.candidate, workload.dtype),
        tf.constant(inputs.probability),
    )


def published(query, candidate, probability):
    """What TensorFlow Recommenders' task of retrieval is composed of."""
    scores = tf.linalg.matmul(query, candidate, transpose_b=True)
    labels = tf.eye(tf.shape(scores)[0], tf.shape(scores)[1])
    scores -= tf.math.log(tf.clip_by_value(probability, 1e-6, 1.0))
    losses = tf.nn.softmax_cross_entropy_with_logits(labels, scores)
    return tf.reduce_mean(losses)


def minus_diagonal(query, candidate, probability):
    """The logarithm of the sum of exponentials less the scores on the diagonal."""
    scores = tf.linalg.matmul(query, candidate, transpose_b=True) - tf.math.log(probability)
    own = tf.reduce_sum(query * candidate[: query.shape[0]], axis=1)
    own -= tf.math.log(probability[: query.shape[0]])
    return tf.reduce_mean(tf.reduce_logsumexp(scores, axis=1) - own)


def sparse_cross_entropy(query, candidate, probability):
    """TensorFlow's fused cross-entropy, with the row's number as its label."""
    scores = tf.linalg.matmul(query, candidate, transpose_b=True) - tf.math.log(probability)
    labels = tf.range(tf.shape(query)[0])
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores))


def fastneg_loss(backend: str):
    """The public function on one backend."""

    def loss(query, candidate, probability):
        return fastneg.in_batch_softmax_loss(
            query, candidate, candidate_sampling_probability=probability
        )

    return suite.on_backend(backend, loss)


@functools.lru_cache(maxsize=1)
def _truth_of(query: bytes, candidate: bytes, probability: bytes, dim: int):
    q, c, p = (np.frombuffer(values, np.float32) for values in (query, candidate, probability))
    q, c = q.reshape(-1, dim).astype(np.float64), c.reshape(-1, dim).astype(np.float64)
    log_q = np.log(p.astype(np.float64))
    loss, grad_query, grad_candidate = 0.0, np.zeros_like(q), np.zeros_like(c)
    for begin in range(0, len(q), _TRUTH_ROWS):
        rows = np.arange(begin, min(begin + _TRUTH_ROWS, len(q)))
        logits = q[rows] @ c.T - log_q
        top = logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits - top)
        total = exponentials.sum(axis=1, keepdims=True)
        own = logits[rows - begin, rows]
        loss += np.sum(np.log(total[:, 0]) + top[:, 0] - own) / len(q)
        grads = exponentials / total / len(q)
        grads[rows - begin, rows] -= 1 / len(q)
        grad_query[rows] = grads @ c
        grad_candidate += grads.T @ q[rows]
    return loss, grad_query, grad_candidate


def compute_truth(inputs: Inputs) -> tuple[float, np.ndarray, np.ndarray]:
    """The mean loss and both gradients in float64, some rows at a time."""
    return _truth_of(
        inputs.query.tobytes(),
        inputs.candidate.tobytes(),
        inputs.probability.tobytes(),
        inputs.query.shape[1],
    )


def describe_error(truth, loss: float, grads) -> str | None:
    """What is wrong with a result, or None."""
    return suite.describe_difference(truth, loss, grads, ("grad_query", "grad_candidate"))


def _least_time_ms(limits: MachineLimits, workload: Workload, _: Inputs) -> float:
    products = workload.batch_size * workload.num_candidates * workload.embedding_dim
    return 6.0 * products / (limits.fma_gflops * 1e6)


def _why_too_large(workload: Workload) -> str | None:
    scores = 4 * workload.batch_size * workload.num_candidates
    return None if scores < _SCORES_LIMIT_BYTES else f"{scores >> 30} GiB for the scores alone"


_form = functools.partial(
    suite.tensorflow_form,
    make_tensors=make_tensors,
    num_differentiated=2,
    why_skipped=_why_too_large,
)

SUITE = suite.Suite(
    stem="in_batch_softmax",
    title="in_batch_softmax_loss: mean loss with logQ correction, both gradients",
    sizes="B,C,D",
    table=(
        Workload(512, 512, 64),
        Workload(1024, 1024, 64),
        Workload(4096, 4096, 128),
        Workload(8192, 8192, 128),
        Workload(16384, 16384, 64),
        Workload(65536, 65536, 64, compares_all=False),
        Workload(4096, 4096, 128, dtype="bfloat16", compares_all=False),
    ),
    quick=(
        Workload(64, 80, 32),
        Workload(64, 80, 32, dtype="float16", compares_all=False),
    ),
    make_inputs=make_inputs,
    make_tensors=make_tensors,
    fastneg_loss=fastneg_loss,
    num_differentiated=2,
    contenders=(
        _form("published", published),
        _form("logsumexp minus diagonal", minus_diagonal),
        _form("logsumexp minus diagonal", minus_diagonal, jit_compile=True),
        _form("sparse cross-entropy", sparse_cross_entropy),
        *(
            contender
            for contender in suite.fastneg_backends(fastneg_loss, make_tensors, 2, _why_too_large)
            if contender.name != "fastneg numba"  # Which has no such loss.
        ),
    ),
    compute_truth=compute_truth,
    describe_error=describe_error,
    least_time_ms=_least_time_ms,
)
