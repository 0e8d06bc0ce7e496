"""sampled_softmax_loss: workloads, TensorFlow's own loss, and the truth.

What is timed is the mean of the losses and the gradients of the table, as a tf.IndexedSlices, and
of the inputs. Samples are given, and drawn as the default sampler draws them. XLA does not compile
TensorFlow's own loss where it removes accidental hits.

The limit is the multiply-add peak: three matrix products, 6 B S D operations. Exponentials, of
which there are B S, are not counted.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import suite
import tensorflow as tf
from measure import MachineLimits

import fastneg


@dataclasses.dataclass(frozen=True)
class Workload(suite.Workload):
    """Classes V, rows B, samples S, width D."""

    num_classes: int
    batch_size: int
    num_sampled: int
    embedding_dim: int

    @property
    def small(self) -> Workload:
        """The same kind of work in a size to warm up on."""
        return dataclasses.replace(self, batch_size=64)

    @property
    def is_large(self) -> bool:
        """Whether two threads have to pay."""
        return self.batch_size * self.num_sampled * self.embedding_dim >= 1 << 24


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arrays of one workload."""

    table: np.ndarray  # [V, D] float32
    inputs: np.ndarray  # [B, D] float32
    labels: np.ndarray  # [B, 1] int64
    sampled: np.ndarray  # [S] int64, different from one another
    true_count: np.ndarray  # [B, 1] float32
    sampled_count: np.ndarray  # [S] float32


@functools.lru_cache(maxsize=1)
def make_inputs(workload: Workload) -> Inputs:
    """Labels and samples are log-uniform, as if classes were numbered by frequency."""
    rng = np.random.default_rng(0)
    classes, size = workload.num_classes, workload.batch_size
    uniform = rng.random((size, 1))
    labels = np.minimum(np.exp(uniform * np.log(classes + 1)) - 1, classes - 1).astype(np.int64)
    sampled, true_count, sampled_count = tf.random.log_uniform_candidate_sampler(
        labels, 1, workload.num_sampled, True, classes, seed=1
    )
    table = 0.1 * rng.standard_normal((classes, workload.embedding_dim), dtype=np.float32)
    inputs = rng.standard_normal((size, workload.embedding_dim), dtype=np.float32)
    rounded = [tf.cast(tf.cast(x, workload.dtype), tf.float32).numpy() for x in (table, inputs)]
    return Inputs(*rounded, labels, sampled.numpy(), true_count.numpy(), sampled_count.numpy())


def make_tensors(workload: Workload, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """Table and inputs in the workload's dtype, labels and samples."""
    return (
        tf.cast(inputs.table, workload.dtype),
        tf.cast(inputs.inputs, workload.dtype),
        tf.constant(inputs.labels),
        tf.constant(inputs.sampled),
        tf.constant(inputs.true_count),
        tf.constant(inputs.sampled_count),
    )


def published(table, inputs, labels, *sampled_values):
    """TensorFlow's own, with the biases that it insists on."""
    losses = tf.nn.sampled_softmax_loss(
        table,
        tf.zeros([table.shape[0]]),
        labels,
        inputs,
        num_sampled=sampled_values[0].shape[0],
        num_classes=table.shape[0],
        sampled_values=sampled_values,
    )
    return tf.reduce_mean(losses)


def masked_product(table, inputs, labels, sampled, true_count, sampled_count):
    """One matrix product with the sampled rows, hits found by comparing ids, as XLA can."""
    true_logits = tf.reduce_sum(inputs * tf.gather(table, labels[:, 0]), axis=1)
    logits = tf.matmul(inputs, tf.gather(table, sampled), transpose_b=True)
    logits = tf.where(labels == sampled, -np.inf, logits - tf.math.log(sampled_count))
    true_logits = true_logits[:, None] - tf.math.log(true_count)
    everything = tf.concat([true_logits, logits], axis=1)
    return tf.reduce_mean(tf.reduce_logsumexp(everything, axis=1) - everything[:, 0])


def fastneg_loss(backend: str):
    """The public function on one backend, without biases."""

    def loss(table, inputs, labels, *sampled_values):
        losses = fastneg.sampled_softmax_loss(
            table,
            None,
            labels,
            inputs,
            num_sampled=sampled_values[0].shape[0],
            num_classes=table.shape[0],
            sampled_values=sampled_values,
        )
        return tf.reduce_mean(losses)

    return suite.on_backend(backend, loss)


def compute_truth(inputs: Inputs) -> tuple[float, np.ndarray, np.ndarray]:
    """The mean, the gradient of the inputs, and the gradient of the touched rows, in float64."""
    table, scored = inputs.table.astype(np.float64), inputs.inputs.astype(np.float64)
    labels, sampled = inputs.labels[:, 0], inputs.sampled
    size = len(scored)
    true_logits = np.einsum("bd,bd->b", scored, table[labels]) - np.log(inputs.true_count[:, 0])
    logits = scored @ table[sampled].T - np.log(inputs.sampled_count)
    logits[labels[:, None] == sampled] = -np.inf
    top = np.maximum(true_logits, logits.max(axis=1))
    exponentials = np.exp(logits - top[:, None])
    own = np.exp(true_logits - top)
    total = own + exponentials.sum(axis=1)
    loss = float(np.mean(np.log(total) + top - true_logits))
    weights = exponentials / total[:, None] / size
    own_weights = (own / total - 1) / size
    grad_inputs = weights @ table[sampled] + own_weights[:, None] * table[labels]
    grad_table = np.zeros_like(table)
    grad_table[sampled] = weights.T @ scored
    np.add.at(grad_table, labels, own_weights[:, None] * scored)
    return loss, grad_inputs, grad_table


def describe_error(truth, loss: float, grads) -> str | None:
    """The gradient of the table comes as values and indices."""
    true_loss, true_inputs, true_table = truth
    values, indices, grad_inputs = grads
    rows, places = np.unique(indices, return_inverse=True)
    grad_rows = np.zeros((len(rows), values.shape[1]))
    np.add.at(grad_rows, places.reshape(-1), values.astype(np.float64))
    untouched = np.delete(true_table, rows, axis=0)
    if untouched.any():
        return "rows of the table with a gradient are missing"
    dtype = np.float16 if values.dtype.itemsize == 2 else values.dtype
    return suite.describe_difference(
        (true_loss, true_inputs, true_table[rows]),
        loss,
        (grad_inputs, grad_rows.astype(dtype)),
        ("grad_inputs", "grad_table"),
    )


def _least_time_ms(limits: MachineLimits, workload: Workload, _: Inputs) -> float:
    operations = 6.0 * workload.batch_size * workload.num_sampled * workload.embedding_dim
    return operations / (limits.fma_gflops * 1e6)


SUITE = suite.Suite(
    stem="sampled_softmax",
    title="sampled_softmax_loss: mean loss, gradients of table and inputs",
    sizes="V,B,S,D",
    table=(
        Workload(1_000_000, 4096, 4096, 64),
        Workload(100_000, 1024, 1000, 64),
        Workload(1_000_000, 4096, 5, 64),
        Workload(100_000, 1024, 1000, 64, dtype="bfloat16", compares_all=False),
    ),
    quick=(
        Workload(1000, 64, 50, 32),
        Workload(1000, 64, 50, 32, dtype="float16", compares_all=False),
    ),
    make_inputs=make_inputs,
    make_tensors=make_tensors,
    fastneg_loss=fastneg_loss,
    num_differentiated=2,
    contenders=(
        suite.tensorflow_form("published", published, make_tensors, 2),
        suite.tensorflow_form("masked product", masked_product, make_tensors, 2),
        suite.tensorflow_form("masked product", masked_product, make_tensors, 2, jit_compile=True),
        *suite.fastneg_backends(fastneg_loss, make_tensors, 2),
    ),
    compute_truth=compute_truth,
    describe_error=describe_error,
    least_time_ms=_least_time_ms,
)
