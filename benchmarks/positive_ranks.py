"""positive_ranks: workloads, what TensorFlow programs do for Recall@20, and the truth.

What is timed is the mean of min(rank, 20) over all queries, without gradients. The TensorFlow forms
score a block of queries at a time, as a whole matrix of scores would not fit. The limit is the
multiply-add peak: one matrix product, 2 B C D operations.
"""

from __future__ import annotations

import dataclasses
import functools

import in_batch_softmax
import numpy as np
import suite
import tensorflow as tf
from measure import MachineLimits

import fastneg

_HIGHEST_RANK = 20
_BLOCK_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Workload(in_batch_softmax.Workload):
    """Queries B, candidates C, width D."""

    @property
    def small(self) -> Workload:
        """The same kind of work in a size to warm up on."""
        return dataclasses.replace(self, batch_size=64)

    @property
    def memory_budget_bytes(self) -> int | None:
        """The scores of one block of the TensorFlow forms."""
        return 4 * _BLOCK_ROWS * self.num_candidates


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arrays of one workload."""

    query: np.ndarray  # [B, D] float32
    candidate: np.ndarray  # [C, D] float32
    positives: np.ndarray  # [B] int64


@functools.lru_cache(maxsize=1)
def make_inputs(workload: Workload) -> Inputs:
    """Queries near enough to their positives that some of the ranks are below 20."""
    rng = np.random.default_rng(0)
    shape = (workload.num_candidates, workload.embedding_dim)
    candidate = rng.standard_normal(shape, dtype=np.float32)
    positives = rng.integers(0, workload.num_candidates, workload.batch_size)
    noise = rng.standard_normal((workload.batch_size, shape[1]), dtype=np.float32)
    query = candidate[positives] + 1.5 * noise
    rounded = [tf.cast(tf.cast(x, workload.dtype), tf.float32).numpy() for x in (query, candidate)]
    return Inputs(*rounded, positives)


def make_tensors(workload: Workload, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """The embeddings in the workload's dtype, and the positives."""
    return (
        tf.cast(inputs.query, workload.dtype),
        tf.cast(inputs.candidate, workload.dtype),
        tf.constant(inputs.positives),
    )


def _in_blocks(ranks_of_block):
    """The mean of clipped ranks, block by block."""

    def mean_rank(query, candidate, positives):
        size = query.shape[0]

        def body(first, total):
            rows = slice(first, first + _BLOCK_ROWS)
            ranks = ranks_of_block(query[rows], candidate, positives[rows])
            return first + _BLOCK_ROWS, total + tf.reduce_sum(tf.cast(ranks, tf.float32))

        _, total = tf.while_loop(lambda first, _: first < size, body, (0, 0.0))
        return total / size

    return mean_rank


def _by_top_k(query, candidate, positives):
    scores = tf.linalg.matmul(query, candidate, transpose_b=True)
    top = tf.math.top_k(scores, k=min(_HIGHEST_RANK, candidate.shape[0])).indices
    hits = tf.cast(top, tf.int64) == positives[:, None]
    place = tf.argmax(hits, axis=1, output_type=tf.int32)
    return tf.where(tf.reduce_any(hits, axis=1), place, _HIGHEST_RANK)


def _by_comparison(query, candidate, positives):
    scores = tf.linalg.matmul(query, candidate, transpose_b=True)
    own = tf.gather(scores, positives, batch_dims=1)
    ranks = tf.reduce_sum(tf.cast(scores > own[:, None], tf.int32), axis=1)
    return tf.minimum(ranks, _HIGHEST_RANK)


def fastneg_loss(backend: str):
    """The public function on one backend."""

    def mean_rank(query, candidate, positives):
        ranks = fastneg.positive_ranks(query, candidate, positives)
        return tf.reduce_mean(tf.cast(tf.minimum(ranks, _HIGHEST_RANK), tf.float32))

    return suite.on_backend(backend, mean_rank)


def compute_truth(inputs: Inputs) -> tuple[float]:
    """The mean in float64, some rows at a time."""
    candidate = inputs.candidate.astype(np.float64)
    total = 0
    for begin in range(0, len(inputs.query), _BLOCK_ROWS):
        rows = slice(begin, begin + _BLOCK_ROWS)
        scores = inputs.query[rows].astype(np.float64) @ candidate.T
        own = scores[np.arange(len(scores)), inputs.positives[rows]]
        total += np.minimum(np.sum(scores > own[:, None], axis=1), _HIGHEST_RANK).sum()
    return (total / len(inputs.query),)


def describe_error(truth: tuple[float], loss: float, _: object) -> str | None:
    """What is wrong with a mean, or None: scores that are almost equal may change places."""
    return suite.describe_difference(truth, loss, (), (), loss_tolerance=1e-3)


def _least_time_ms(limits: MachineLimits, workload: Workload, _: Inputs) -> float:
    products = workload.batch_size * workload.num_candidates * workload.embedding_dim
    return 2.0 * products / (limits.fma_gflops * 1e6)


def _why_no_reference(workload: Workload) -> str | None:
    scores = 4 * workload.batch_size * workload.num_candidates
    return None if scores < 1 << 31 else f"{scores >> 30} GiB for the scores alone"


_form = functools.partial(suite.tensorflow_form, make_tensors=make_tensors, num_differentiated=0)

SUITE = suite.Suite(
    stem="positive_ranks",
    title="positive_ranks: mean of min(rank, 20), no gradients",
    sizes="B,C,D",
    table=(
        Workload(1024, 41000, 64),
        Workload(30000, 41000, 64),
        Workload(1024, 400000, 64),
    ),
    quick=(Workload(70, 500, 16),),
    make_inputs=make_inputs,
    make_tensors=make_tensors,
    fastneg_loss=fastneg_loss,
    num_differentiated=0,
    contenders=(
        _form("published", _in_blocks(_by_top_k)),
        _form("comparisons", _in_blocks(_by_comparison)),
        *(
            contender
            for contender in suite.fastneg_backends(
                fastneg_loss, make_tensors, 0, _why_no_reference
            )
            if contender.name != "fastneg numba"  # Which has no ranks.
        ),
    ),
    compute_truth=compute_truth,
    describe_error=describe_error,
    least_time_ms=_least_time_ms,
)
