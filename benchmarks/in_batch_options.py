"""in_batch_softmax_loss with its options: what each costs beside the plain loss.

What is timed is the mean loss and both gradients. `published` is what TensorFlow Recommenders' task
of retrieval is composed of where it has sampling probabilities, candidate ids and sample weights;
the line of fastneg to compare it with is `ids, weights, logQ`. Before it is timed, each result is
compared with the plain composition, `fastneg.reference`, in float64.
"""

from __future__ import annotations

from typing import Any

import in_batch_softmax
import numpy as np
import suite
import tensorflow as tf
from in_batch_softmax import Inputs, Workload, make_inputs
from measure import MachineLimits

import fastneg


def make_tensors(workload: Workload, inputs: Inputs) -> tuple[tf.Tensor, ...]:
    """Embeddings, probabilities, ids of which one in twenty is there twice, and weights."""
    rng = np.random.default_rng(1)
    size = workload.num_candidates
    ids = rng.permutation(size)
    repeated = rng.choice(size, size // 20, replace=False)
    ids[repeated] = ids[rng.permutation(repeated)]
    weights = rng.uniform(0.5, 2, workload.batch_size).astype(np.float32)
    tensors = in_batch_softmax.make_tensors(workload, inputs)
    return *tensors, tf.constant(ids), tf.constant(weights)


def published(query, candidate, probability, ids, weights):
    """Scores less log q, accidental hits pushed down, categorical cross-entropy by weight."""
    scores = tf.linalg.matmul(query, candidate, transpose_b=True)
    labels = tf.eye(tf.shape(scores)[0], tf.shape(scores)[1])
    scores -= tf.math.log(tf.clip_by_value(probability, 1e-6, 1.0))
    own = tf.linalg.matmul(labels, tf.cast(ids, tf.float32)[:, None])
    hits = tf.cast(own == tf.cast(ids, tf.float32)[None, :], scores.dtype) - labels
    scores += hits * (scores.dtype.min / 100)
    losses = tf.nn.softmax_cross_entropy_with_logits(labels, scores)
    return tf.reduce_mean(weights * losses)


def _all_of_them(probability, ids, weights) -> dict[str, Any]:
    return {
        "candidate_ids": ids,
        "sample_weight": weights,
        "candidate_sampling_probability": probability,
    }


def _check(run: suite.Run, workload: Workload, inputs: Inputs, make: Any) -> suite.Run:
    """Raises if a result is not that of the composition in float64.

    Gradients are compared as a whole: which of two almost equal negatives is among the hardest may
    differ.
    """
    tensors = make_tensors(workload, inputs)
    query, candidate, probability, weights = (
        tf.cast(x, tf.float64) for x in (*tensors[:3], tensors[4])
    )
    with tf.GradientTape() as tape:
        tape.watch([query, candidate])
        options = make(probability, tensors[3], weights)
        loss = fastneg.reference.in_batch_softmax_loss(query, candidate, **options)
    expected = [x.numpy() for x in (loss, *tape.gradient(loss, [query, candidate]))]
    for name, right, result in zip(("loss", "query", "candidate"), expected, run(1), strict=True):
        error = np.linalg.norm(result.numpy() - right) / np.linalg.norm(right)
        if not error < (1e-5 if name == "loss" else 1e-3):
            raise ValueError(f"{name} is off by {error:.1e} of its norm")
    return run


def _option(name: str, make: Any) -> suite.Contender:
    """The loss with the options that `make` takes from probabilities, ids and weights."""

    def loss(query, candidate, probability, ids, weights):
        return fastneg.in_batch_softmax_loss(query, candidate, **make(probability, ids, weights))

    def build(workload: Workload, inputs: Inputs) -> suite.Run:
        step = suite.make_step(suite.on_backend("native", loss), 2)
        run = suite.repeated(step, make_tensors(workload, inputs))
        return _check(run, workload, inputs, make)

    return suite.Contender(f"fastneg {name}", "fastneg", build)


def _published(jit_compile: bool) -> suite.Contender:
    def build(workload: Workload, inputs: Inputs) -> suite.Run:
        step = suite.make_step(published, 2, jit_compile)
        run = suite.repeated(step, make_tensors(workload, inputs))
        return _check(run, workload, inputs, _all_of_them)

    name = f"published, {'XLA' if jit_compile else 'graph'}"
    return suite.Contender(name, "TensorFlow form", build)


def _least_time_ms(limits: MachineLimits, workload: Workload, _: Inputs) -> float:
    products = workload.batch_size * workload.num_candidates * workload.embedding_dim
    return 6.0 * products / (limits.fma_gflops * 1e6)


SUITE = suite.Suite(
    stem="in_batch_options",
    title="in_batch_softmax_loss with options: mean loss, both gradients",
    sizes="B,C,D",
    table=(
        Workload(1024, 1024, 64, compares_all=False),
        Workload(4096, 4096, 128, compares_all=False),
        Workload(8192, 8192, 128, compares_all=False),
    ),
    quick=(Workload(64, 80, 32, compares_all=False),),
    make_inputs=make_inputs,
    make_tensors=make_tensors,
    fastneg_loss=in_batch_softmax.fastneg_loss,
    num_differentiated=2,
    contenders=(
        _published(jit_compile=False),
        _published(jit_compile=True),
        _option("plain", lambda q, ids, w: {}),
        _option("logQ", lambda q, ids, w: {"candidate_sampling_probability": q}),
        _option("ids", lambda q, ids, w: {"candidate_ids": ids}),
        _option("weights", lambda q, ids, w: {"sample_weight": w}),
        _option("ids, weights, logQ", _all_of_them),
        _option("margin and t", lambda q, ids, w: {"margin": 0.1, "t": 1.2}),
        _option("label smoothing", lambda q, ids, w: {"label_smoothing": 0.1}),
        _option(
            "decoupled, weight 1.22",
            lambda q, ids, w: {"positive_in_softmax": False, "negative_weight": 1.22},
        ),
        _option("normalize", lambda q, ids, w: {"normalize": True, "temperature": 0.08}),
        _option("64 hard negatives", lambda q, ids, w: {"num_hard_negatives": 64}),
        _option("bidirectional", lambda q, ids, w: {"bidirectional": True}),
    ),
    compute_truth=lambda _: None,
    describe_error=lambda *_: None,  # `_check` has compared it.
    least_time_ms=_least_time_ms,
    plain="fastneg plain",
)
