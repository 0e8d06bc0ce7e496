"""negative_cosine_loss: workloads, the published steps, other TensorFlow forms, and the truth.

All contenders get the same permutations. The published layer normalises over the wrong axis; here
its steps end in the softmax over candidates that its description asks for.

The model of the work is that of the rolled loss, with every row counted: 6 B (K + 1) D operations
and 8 B (K + 1) D bytes from L2.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import suite
import tensorflow as tf
from measure import MachineLimits

import fastneg

SCALE = 20.0


@dataclasses.dataclass(frozen=True)
class Workload(suite.Workload):
    """Rows B, negatives K, width D."""

    batch_size: int
    num_negatives: int
    embedding_dim: int

    @property
    def small(self) -> Workload:
        """The same kind of work in a size to warm up on."""
        return dataclasses.replace(self, batch_size=256, num_negatives=4)

    @property
    def is_large(self) -> bool:
        """Whether two threads have to pay."""
        return self.batch_size * self.num_negatives * self.embedding_dim >= 1 << 24


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arrays of one workload."""

    query: np.ndarray  # [B, D] float32
    doc: np.ndarray  # [B, D] float32
    permutations: np.ndarray  # [K, B] int32


def make_inputs(workload: Workload) -> Inputs:
    """Trained-looking pairs and uniform permutations."""
    rng = np.random.default_rng(0)
    shape = (workload.batch_size, workload.embedding_dim)
    query = rng.standard_normal(shape, dtype=np.float32)
    doc = 0.5 * query + rng.standard_normal(shape, dtype=np.float32)
    permutations = [rng.permutation(workload.batch_size) for _ in range(workload.num_negatives)]
    rounded = [tf.cast(tf.cast(x, workload.dtype), tf.float32).numpy() for x in (query, doc)]
    return Inputs(*rounded, np.stack(permutations).astype(np.int32))


def make_tensors(workload: Workload, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """Embeddings in the workload's dtype, and permutations."""
    return (
        tf.cast(inputs.query, workload.dtype),
        tf.cast(inputs.doc, workload.dtype),
        tf.constant(inputs.permutations),
    )


def published(query: tf.Tensor, doc: tf.Tensor, permutations: tf.Tensor) -> tf.Tensor:
    """Gathers, concatenates and tiles [(K + 1) B, D]."""
    copies = permutations.shape[0] + 1
    docs = tf.concat([doc, *(tf.gather(doc, rows) for rows in tf.unstack(permutations))], axis=0)
    query_norm = tf.tile(tf.sqrt(tf.reduce_sum(query**2, axis=1, keepdims=True)), [copies, 1])
    doc_norm = tf.sqrt(tf.reduce_sum(docs**2, axis=1, keepdims=True))
    products = tf.reduce_sum(tf.tile(query, [copies, 1]) * docs, axis=1, keepdims=True)
    cosines = tf.transpose(tf.reshape(products / (query_norm * doc_norm), [copies, -1])) * SCALE
    return -tf.reduce_mean(tf.math.log(tf.nn.softmax(cosines)[:, :1]))


def gathered(query: tf.Tensor, doc: tf.Tensor, permutations: tf.Tensor) -> tf.Tensor:
    """Candidates gathered to [B, K + 1, D], one einsum."""
    query, doc = tf.nn.l2_normalize(query, axis=1), tf.nn.l2_normalize(doc, axis=1)
    own = tf.range(query.shape[0])[:, None]
    candidates = tf.gather(doc, tf.concat([own, tf.transpose(permutations)], axis=1))
    return _loss_of_cosines(tf.einsum("bd,bkd->bk", query, candidates))


def one_by_one(query: tf.Tensor, doc: tf.Tensor, permutations: tf.Tensor) -> tf.Tensor:
    """One gather, multiply and sum per permutation."""
    query, doc = tf.nn.l2_normalize(query, axis=1), tf.nn.l2_normalize(doc, axis=1)
    columns = [tf.reduce_sum(query * doc, axis=1)]
    for rows in tf.unstack(permutations):
        columns.append(tf.reduce_sum(query * tf.gather(doc, rows), axis=1))
    return _loss_of_cosines(tf.stack(columns, axis=1))


def full_product(query: tf.Tensor, doc: tf.Tensor, permutations: tf.Tensor) -> tf.Tensor:
    """All [B, B] cosines by one matrix product, of which [B, K + 1] are gathered."""
    query, doc = tf.nn.l2_normalize(query, axis=1), tf.nn.l2_normalize(doc, axis=1)
    own = tf.range(query.shape[0])[:, None]
    rows = tf.concat([own, tf.transpose(permutations)], axis=1)
    return _loss_of_cosines(tf.gather(tf.matmul(query, doc, transpose_b=True), rows, batch_dims=1))


def _loss_of_cosines(cosines: tf.Tensor) -> tf.Tensor:
    logits = SCALE * cosines
    return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - logits[:, 0])


def fastneg_loss(backend: str):
    """The public function on one backend."""
    return suite.on_backend(
        backend,
        lambda query, doc, permutations: fastneg.negative_cosine_loss(
            query, doc, permutations=permutations, scale=SCALE
        ),
    )


def compute_truth(inputs: Inputs) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients in float64, one permutation at a time."""
    query, query_norm = _unit(inputs.query)
    doc, doc_norm = _unit(inputs.doc)
    rows = np.concatenate([np.arange(len(query))[None], inputs.permutations])
    logits = SCALE * np.stack([np.einsum("bd,bd->b", query, doc[r]) for r in rows], axis=1)
    top = logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits - top)
    total = exponentials.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(total[:, 0]) + top[:, 0] - logits[:, 0]))
    weights = SCALE * exponentials / total / len(query)
    weights[:, 0] -= SCALE / len(query)
    grad_query, grad_doc = np.zeros_like(query), np.zeros_like(doc)
    for weight, row in zip(weights.T, rows, strict=True):
        grad_query += weight[:, None] * doc[row]
        grad_doc[row] += weight[:, None] * query  # A permutation: no row twice.
    return loss, _through(grad_query, query, query_norm), _through(grad_doc, doc, doc_norm)


def _unit(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / norms, norms


def _through(grad: np.ndarray, unit: np.ndarray, norm: np.ndarray) -> np.ndarray:
    return (grad - unit * np.sum(grad * unit, axis=1, keepdims=True)) / norm


def _least_time_ms(limits: MachineLimits, workload: Workload, _: Inputs) -> float:
    elements = workload.batch_size * (workload.num_negatives + 1.0) * workload.embedding_dim
    return max(
        6 * elements / (limits.fma_gflops * 1e6),
        8 * elements / (limits.read_gb_per_s["L2"] * 1e6),
    )


def _form(name: str, loss_fn, *, jit_compile: bool = False) -> suite.Contender:
    def why_skipped(workload: Workload) -> str | None:
        needed = 12 * workload.batch_size * (workload.num_negatives + 1) * workload.embedding_dim
        if loss_fn is full_product:
            needed = 12 * workload.batch_size**2
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return f"needs about {needed / 2**30:.1f} GiB" if needed > free else None

    return suite.tensorflow_form(
        name, loss_fn, make_tensors, 2, jit_compile=jit_compile, why_skipped=why_skipped
    )


SUITE = suite.Suite(
    stem="shuffled_cosine",
    title="negative_cosine_loss: loss and both gradients",
    sizes="B,K,D",
    table=(
        Workload(512, 4, 64),
        Workload(4096, 20, 64),
        Workload(4096, 20, 64, dtype="bfloat16", compares_all=False),
        Workload(4096, 64, 128),
        Workload(16384, 20, 64),
    ),
    quick=(Workload(256, 4, 32), Workload(300, 17, 50, dtype="float16", compares_all=False)),
    make_inputs=make_inputs,
    make_tensors=make_tensors,
    fastneg_loss=fastneg_loss,
    num_differentiated=2,
    contenders=(
        _form("published", published),
        _form("published", published, jit_compile=True),
        _form("gathered einsum", gathered),
        _form("gathered einsum", gathered, jit_compile=True),
        _form("one by one", one_by_one, jit_compile=True),
        _form("full product", full_product),
        _form("full product", full_product, jit_compile=True),
        *suite.fastneg_backends(fastneg_loss, make_tensors, 2),
    ),
    compute_truth=compute_truth,
    describe_error=lambda truth, loss, grads: suite.describe_difference(
        truth, loss, grads, ("grad_query", "grad_doc")
    ),
    least_time_ms=_least_time_ms,
)
