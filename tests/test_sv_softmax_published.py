"""The reference composition against the arithmetic that was published.

Written anew from the published description: a mask of hard negatives made of zeros and ones, sparse
softmax cross-entropy averaged over the rows of non-zero weight. It shares no code with the package.
"""

import numpy as np
import pytest
import sv_softmax_cases as cases
import tensorflow as tf

import fastneg


def _published(
    pos_score: tf.Tensor,
    neg_scores: tf.Tensor,
    margin: float = 0,
    t: float = 1,
    smooth: float = 1.0,
    threshold: float = 0,
    weights: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    positive = tf.reshape(pos_score, [-1, 1]) - margin
    easy = tf.cast(positive - neg_scores >= threshold, tf.float32)
    negatives = (1 - easy) * (neg_scores * t + t - 1) + easy * neg_scores
    logits = tf.concat([positive, negatives], axis=1) * smooth
    loss = tf.compat.v1.losses.sparse_softmax_cross_entropy(
        tf.zeros(tf.shape(logits)[0], tf.int32), logits, weights=weights
    )
    return tf.where(tf.math.is_nan(loss), tf.zeros_like(loss), loss)


@pytest.mark.parametrize("weights", [1.0, 0.25, "vector"])
@pytest.mark.parametrize(
    "options",
    [{}, {"smooth": 20.0, "margin": 0.1, "t": 1.2}, {"threshold": 0.4, "t": 0.8}],
    ids=["plain", "support vectors", "threshold"],
)
def test_reference_agrees(options: dict[str, float], weights: float | str) -> None:
    case = cases.make(50, 7)
    if weights == "vector":
        weights = tf.constant(np.random.default_rng(1).integers(0, 3, 50), tf.float32)
    tensors = [tf.constant(case.pos_score), tf.constant(case.neg_scores)]
    results = []
    for loss in (_published, fastneg.reference.support_vector_guided_softmax_loss):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(*tensors, weights=weights, **options)
        results.append((value, *tape.gradient(value, tensors)))
    for published, reference in zip(*results, strict=True):
        np.testing.assert_allclose(reference, published, rtol=2e-5, atol=1e-7)


def test_no_row() -> None:
    empty = tf.zeros([0]), tf.zeros([0, 3])
    assert _published(*empty) == 0.0
    assert fastneg.reference.support_vector_guided_softmax_loss(*empty) == 0.0
