"""support_vector_guided_softmax_loss: workloads, TensorFlow forms, and the truth.

The floor is memory: reading the scores once and writing their gradients once, 8 P K bytes.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import suite
import tensorflow as tf
from measure import MachineLimits

import fastneg

MARGIN, T, SMOOTH = 0.1, 1.2, 4.0


@dataclasses.dataclass(frozen=True)
class Workload(suite.Workload):
    """Rows P and negatives K."""

    num_rows: int
    num_negatives: int

    @property
    def small(self) -> Workload:
        """The same kind of work in a size to warm up on."""
        return dataclasses.replace(self, num_rows=64, num_negatives=4)

    @property
    def is_large(self) -> bool:
        """Whether two threads have to pay."""
        return self.num_rows * self.num_negatives >= 1 << 20


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arrays of one workload."""

    pos_score: np.ndarray  # [P, 1] float32
    neg_scores: np.ndarray  # [P, K] float32


def make_inputs(workload: Workload) -> Inputs:
    """Normally distributed scores."""
    rng = np.random.default_rng(0)
    shapes = ((workload.num_rows, 1), (workload.num_rows, workload.num_negatives))
    scores = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    return Inputs(*(tf.cast(tf.cast(x, workload.dtype), tf.float32).numpy() for x in scores))


def make_tensors(workload: Workload, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """Both scores in the workload's dtype."""
    return tf.cast(inputs.pos_score, workload.dtype), tf.cast(inputs.neg_scores, workload.dtype)


def published(pos_score: tf.Tensor, neg_scores: tf.Tensor) -> tf.Tensor:
    """Mask as numbers, concatenation, sparse softmax: the published composition."""
    positive = pos_score - MARGIN
    is_hard = tf.cast(positive - neg_scores < 0, tf.float32)
    negatives = is_hard * (neg_scores * T + T - 1) + (1 - is_hard) * neg_scores
    logits = tf.concat([positive, negatives], axis=1) * SMOOTH
    loss = tf.compat.v1.losses.sparse_softmax_cross_entropy(
        tf.zeros(tf.shape(logits)[0], tf.int32), logits
    )
    return tf.where(tf.math.is_nan(loss), tf.zeros_like(loss), loss)


def select_and_concatenate(pos_score: tf.Tensor, neg_scores: tf.Tensor) -> tf.Tensor:
    """The same with a selection in the place of the mask."""
    positive = pos_score - MARGIN
    negatives = tf.where(positive < neg_scores, T * neg_scores + (T - 1), neg_scores)
    logits = SMOOTH * tf.concat([positive, negatives], axis=1)
    return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - logits[:, 0])


def without_concatenation(pos_score: tf.Tensor, neg_scores: tf.Tensor) -> tf.Tensor:
    """Logits relative to the positive's, which is then 0."""
    relative = _relative_logits(pos_score, neg_scores)
    top = tf.stop_gradient(tf.maximum(tf.reduce_max(relative, axis=1, keepdims=True), 0.0))
    total = tf.exp(-top[:, 0]) + tf.reduce_sum(tf.exp(relative - top), axis=1)
    return tf.reduce_mean(top[:, 0] + tf.math.log(total))


def without_maximum(pos_score: tf.Tensor, neg_scores: tf.Tensor) -> tf.Tensor:
    """The same without protection from overflow: right for scores as small as these alone."""
    relative = _relative_logits(pos_score, neg_scores)
    return tf.reduce_mean(tf.math.log1p(tf.reduce_sum(tf.exp(relative), axis=1)))


def _relative_logits(pos_score: tf.Tensor, neg_scores: tf.Tensor) -> tf.Tensor:
    positive = pos_score - MARGIN
    negatives = tf.where(positive < neg_scores, T * neg_scores + (T - 1), neg_scores)
    return SMOOTH * (negatives - positive)


def fastneg_loss(backend: str):
    """The public function on one backend."""
    return suite.on_backend(
        backend,
        lambda pos_score, neg_scores: fastneg.support_vector_guided_softmax_loss(
            pos_score, neg_scores, margin=MARGIN, t=T, smooth=SMOOTH
        ),
    )


def compute_truth(inputs: Inputs) -> tuple[float, np.ndarray, np.ndarray]:
    """Loss and gradients in float64."""
    positive = inputs.pos_score.astype(np.float64) - MARGIN
    negatives = inputs.neg_scores.astype(np.float64)
    hard = positive < negatives
    logits = SMOOTH * np.where(hard, T * negatives + T - 1, negatives)
    top = np.maximum(logits.max(axis=1, keepdims=True), SMOOTH * positive)
    exponentials = np.exp(logits - top)
    total = exponentials.sum(axis=1, keepdims=True) + np.exp(SMOOTH * positive - top)
    loss = float(np.mean(np.log(total) + top - SMOOTH * positive))
    grads = SMOOTH / len(positive) * exponentials / total
    grad_positive = -grads.sum(axis=1, keepdims=True)
    return loss, grad_positive, grads * np.where(hard, T, 1.0)


def _least_time_ms(limits: MachineLimits, workload: Workload, _: Inputs) -> float:
    num_bytes = 8 * workload.num_rows * workload.num_negatives
    level = "DRAM" if num_bytes > 64 << 20 else "L3" if num_bytes > 2 << 20 else "L2"
    return num_bytes / (limits.read_gb_per_s[level] * 1e6)


FORMS = {
    "published": published,
    "selection": select_and_concatenate,
    "no concatenation": without_concatenation,
    "no maximum": without_maximum,
}

SUITE = suite.Suite(
    stem="sv_softmax",
    title="support_vector_guided_softmax_loss: loss and both gradients",
    sizes="P,K",
    table=(
        Workload(512, 20),
        Workload(65536, 4),
        Workload(1024, 1024),
        Workload(8192, 256),
        Workload(8192, 256, dtype="bfloat16", compares_all=False),
        Workload(8192, 256, dtype="float16", compares_all=False),
    ),
    quick=(Workload(200, 20), Workload(300, 33, dtype="bfloat16", compares_all=False)),
    make_inputs=make_inputs,
    make_tensors=make_tensors,
    fastneg_loss=fastneg_loss,
    num_differentiated=2,
    contenders=(
        *(
            suite.tensorflow_form(name, loss_fn, make_tensors, 2, jit_compile=jit_compile)
            for name, loss_fn in FORMS.items()
            for jit_compile in (False, True)
        ),
        *suite.fastneg_backends(fastneg_loss, make_tensors, 2),
    ),
    compute_truth=compute_truth,
    describe_error=lambda truth, loss, grads: suite.describe_difference(
        truth, loss, grads, ("grad_pos_score", "grad_neg_scores")
    ),
    least_time_ms=_least_time_ms,
)
