"""The reference composition against the arithmetic that was published.

Written anew from the published description: roll, stack, boolean_mask, batch dot, sparse softmax
cross-entropy averaged over the rows of non-zero weight. It shares no code with the package.
"""

import numpy as np
import problems
import pytest
import tensorflow as tf

import fastneg


def _published(
    user_emb: tf.Tensor,
    item_emb: tf.Tensor,
    labels: tf.Tensor,
    shifts: tf.Tensor,
    *,
    weights: tf.Tensor | float = 1.0,
    gamma: float = 1.0,
    margin: float = 0.0,
    t: float = 1.0,
) -> tf.Tensor:
    user_emb = tf.nn.l2_normalize(user_emb, axis=-1)
    item_emb = tf.nn.l2_normalize(item_emb, axis=-1)
    candidates = tf.stack(
        [item_emb, *(tf.roll(item_emb, shift, axis=0) for shift in shifts)], axis=1
    )
    positive_rows = labels > 0
    users = tf.boolean_mask(user_emb, positive_rows)
    candidates = tf.boolean_mask(candidates, positive_rows)
    if isinstance(weights, tf.Tensor):
        weights = tf.boolean_mask(weights, positive_rows)
    scores = tf.linalg.matvec(candidates, users)
    positive, negatives = scores[:, :1] - margin, scores[:, 1:]
    hard = tf.cast(positive - negatives < 0, scores.dtype)
    negatives = hard * (negatives * t + t - 1) + (1 - hard) * negatives
    logits = gamma * tf.concat([positive, negatives], axis=1)
    loss = tf.compat.v1.losses.sparse_softmax_cross_entropy(
        tf.zeros(tf.shape(logits)[0], tf.int32), logits, weights=weights
    )
    return tf.where(tf.math.is_nan(loss), tf.zeros_like(loss), loss)


@pytest.mark.parametrize("positive_share", [0.1, 0.8])
@pytest.mark.parametrize("weights", [1.0, 0.25, "vector"])
@pytest.mark.parametrize(
    "scalars", [{}, {"gamma": 20.0, "margin": 0.1, "t": 1.2}], ids=["plain", "support vectors"]
)
def test_reference_agrees(
    scalars: dict[str, float], weights: float | str, positive_share: float
) -> None:
    problem = problems.make(50, 7, 16, "float32", positive_share=positive_share)
    if weights == "vector":
        rng = np.random.default_rng(1)
        weights = tf.constant(rng.integers(0, 3, 50), tf.float32)
    tensors = [tf.constant(problem.user_emb), tf.constant(problem.item_emb)]
    results = []
    for loss in (_published, fastneg.reference.softmax_loss_with_negative_mining):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(
                *tensors, problem.labels, shifts=problem.shifts, weights=weights, **scalars
            )
        results.append((value, *tape.gradient(value, tensors)))
    for published, reference in zip(*results, strict=True):
        np.testing.assert_allclose(reference, published, rtol=2e-5, atol=1e-7)


def test_no_positive_row() -> None:
    problem = problems.make(5, 2, 3)
    arguments = (problem.user_emb, problem.item_emb, np.zeros(5), problem.shifts)
    user_emb, item_emb, labels, shifts = arguments
    reference = fastneg.reference.softmax_loss_with_negative_mining(
        user_emb, item_emb, labels, shifts=shifts
    )
    assert _published(*arguments) == reference == 0.0
