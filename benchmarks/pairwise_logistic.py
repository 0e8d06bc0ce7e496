"""pairwise_loss: workloads, TensorFlow forms, and the truth."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import suite
import tensorflow as tf

import fastneg


@dataclasses.dataclass(frozen=True)
class Workload(suite.Workload):
    """Rows B, number of labels, per cent of labels above 0, rows per session (0: no sessions)."""

    batch_size: int
    num_labels: int
    positive_percent: int
    session_rows: int

    @property
    def small(self) -> Workload:
        """The same kind of work in a size to warm up on."""
        return dataclasses.replace(self, batch_size=256)

    @property
    def is_large(self) -> bool:
        """Whether two threads have to pay."""
        return self.batch_size >= 8192


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arrays of one workload."""

    logits: np.ndarray  # [B] float32
    labels: np.ndarray  # [B] float32
    session_ids: np.ndarray | None  # [B] int64


def make_inputs(workload: Workload) -> Inputs:
    """Normally distributed logits; sessions in no order."""
    rng = np.random.default_rng(0)
    size = workload.batch_size
    labels = rng.integers(1, workload.num_labels, size)
    labels[rng.random(size) >= workload.positive_percent / 100] = 0
    sessions = None
    if workload.session_rows:
        sessions = rng.integers(0, max(1, size // workload.session_rows), size)
    return Inputs(
        tf.cast(tf.cast(rng.normal(size=size), workload.dtype), tf.float32).numpy(),
        labels.astype(np.float32),
        sessions,
    )


def make_tensors(workload: Workload, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """Logits in the workload's dtype, labels, and session ids where there are sessions."""
    tensors = tf.cast(inputs.logits, workload.dtype), tf.constant(inputs.labels)
    return tensors if inputs.session_ids is None else (*tensors, tf.constant(inputs.session_ids))


def published(
    logits: tf.Tensor, labels: tf.Tensor, session_ids: tf.Tensor | None = None
) -> tf.Tensor:
    """All [B, B] differences, masked out by boolean_mask: the published composition."""
    differences = tf.expand_dims(logits, -1) - tf.expand_dims(logits, 0)
    mask = tf.expand_dims(labels, -1) - tf.expand_dims(labels, 0) > 0
    differences = tf.boolean_mask(differences, _in_one_session(mask, session_ids))
    loss = tf.reduce_mean(
        tf.nn.sigmoid_cross_entropy_with_logits(tf.ones_like(differences), differences)
    )
    return tf.where(tf.math.is_nan(loss), tf.zeros_like(loss), loss)


def masked(logits: tf.Tensor, labels: tf.Tensor, session_ids: tf.Tensor | None = None) -> tf.Tensor:
    """The same with a selection in the place of boolean_mask, which XLA can fuse."""
    mask = _in_one_session(labels[:, None] > labels[None, :], session_ids)
    losses = tf.where(mask, tf.nn.softplus(logits[None, :] - logits[:, None]), 0.0)
    return tf.math.divide_no_nan(
        tf.reduce_sum(losses), tf.math.count_nonzero(mask, dtype=tf.float32)
    )


def _in_one_session(mask: tf.Tensor, session_ids: tf.Tensor | None) -> tf.Tensor:
    if session_ids is None:
        return mask
    return mask & (session_ids[:, None] == session_ids[None, :])


def gathered(num_labels: int):
    """Each label's rows against those of lower labels, gathered: no pair too many."""

    def loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        total, count = 0.0, 0.0
        for level in range(1, num_labels):
            above = tf.boolean_mask(logits, labels == level)
            below = tf.boolean_mask(logits, labels < level)
            total += tf.reduce_sum(tf.nn.softplus(below[None, :] - above[:, None]))
            count += tf.cast(tf.size(above), tf.float32) * tf.cast(tf.size(below), tf.float32)
        return total / count

    return loss


def fastneg_loss(backend: str):
    """The public function on one backend."""
    return suite.on_backend(
        backend,
        lambda logits, labels, session_ids=None: fastneg.pairwise_loss(labels, logits, session_ids),
    )


def compute_truth(inputs: Inputs) -> tuple[float, np.ndarray]:
    """Loss and gradient in float64, one row's pairs at a time."""
    logits = inputs.logits.astype(np.float64)
    groups = [np.arange(len(logits))]
    if inputs.session_ids is not None:
        order = np.argsort(inputs.session_ids, kind="stable")
        starts = np.flatnonzero(np.diff(inputs.session_ids[order])) + 1
        groups = np.split(order, starts)
    total, count = 0.0, 0
    grad = np.zeros_like(logits)
    for rows in groups:
        for i in rows[inputs.labels[rows] > 0]:
            lower = rows[inputs.labels[rows] < inputs.labels[i]]
            differences = logits[lower] - logits[i]
            total += np.logaddexp(0, differences).sum()
            sigmoids = 1 / (1 + np.exp(-differences))
            grad[i] -= sigmoids.sum()
            grad[lower] += sigmoids
            count += len(lower)
    return total / count, grad / count


def _why_dense_is_skipped(workload: Workload) -> str | None:
    needed = 30 * workload.batch_size**2
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"needs about {needed / 2**30:.1f} GiB" if needed > free else None


def _gathered() -> suite.Contender:
    def build(workload: Workload, inputs: Inputs) -> suite.Run:
        step = suite.make_step(gathered(workload.num_labels), 1)
        return suite.repeated(step, make_tensors(workload, inputs))

    def why_skipped(workload: Workload) -> str | None:
        if workload.session_rows:
            return "has no form for sessions"
        share = workload.positive_percent / 100
        pairs = workload.batch_size**2 * share * (1 - share / 2)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        needed = 20 * pairs
        return f"needs about {needed / 2**30:.1f} GiB" if needed > free else None

    return suite.Contender(
        "gathered, graph",
        "TensorFlow form",
        build,
        why_skipped,
        loss_of=lambda workload: gathered(workload.num_labels),
    )


SUITE = suite.Suite(
    stem="pairwise_logistic",
    title="pairwise_loss: loss and gradient",
    sizes="B,labels,percent,session",
    table=(
        Workload(512, 2, 20, 0),
        Workload(8192, 2, 20, 0),
        Workload(8192, 5, 80, 0),
        Workload(65536, 2, 20, 20),
        Workload(131072, 2, 20, 20),
        Workload(131072, 2, 1, 0),
    ),
    quick=(Workload(300, 2, 20, 0), Workload(300, 5, 80, 0), Workload(600, 3, 50, 20)),
    make_inputs=make_inputs,
    make_tensors=make_tensors,
    fastneg_loss=fastneg_loss,
    num_differentiated=1,
    contenders=(
        suite.tensorflow_form(
            "published", published, make_tensors, 1, why_skipped=_why_dense_is_skipped
        ),
        suite.tensorflow_form("masked", masked, make_tensors, 1, why_skipped=_why_dense_is_skipped),
        suite.tensorflow_form(
            "masked",
            masked,
            make_tensors,
            1,
            jit_compile=True,
            why_skipped=_why_dense_is_skipped,
        ),
        _gathered(),
        *suite.fastneg_backends(fastneg_loss, make_tensors, 1, _why_dense_is_skipped),
    ),
    compute_truth=compute_truth,
    # A float32 sum over 10^7 pairs loses digits, depending on who forms it.
    describe_error=lambda truth, loss, grads: suite.describe_difference(
        truth, loss, grads, ("grad_logits",), loss_tolerance=1e-4
    ),
)
