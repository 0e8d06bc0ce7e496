"""The classes of `fastneg.losses`: values, weights, masks, saving."""

from typing import Any

import keras
import numpy as np
import oracle_pairwise_logistic as oracle
import pytest
import tensorflow as tf

import fastneg
from fastneg.losses import OutputLoss, PairwiseLoss

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 12)
LOGITS = RNG.normal(size=12).astype(np.float32)
SESSIONS = RNG.integers(0, 3, 12)
WEIGHTS = RNG.uniform(size=12).astype(np.float32)
WEIGHTS[[2, 5]] = 0


def _fitted_loss(loss: Any, y: Any, outputs: np.ndarray, weights: Any = None) -> float:
    """What Keras reports for a model with these outputs, before it trains."""
    x = keras.Input([])
    model = keras.Model(x, keras.layers.Reshape([1])(x))
    model.compile("sgd", loss=loss)
    return float(model.evaluate(outputs, y, sample_weight=weights, batch_size=12, verbose=0))


@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS[:, None]], ids=["none", "B", "B1"])
@pytest.mark.parametrize("sessions", [False, True])
def test_value_of_pairwise_loss(sessions: bool, weights: Any) -> None:
    loss = PairwiseLoss(margin=0.1, temperature=0.7, sessions=sessions)
    expected = oracle.pairwise_logistic(
        LABELS,
        LOGITS,
        SESSIONS if sessions else None,
        margin=0.1,
        temperature=0.7,
        weights=1.0 if weights is None else WEIGHTS,
    ).loss
    y = np.stack([LABELS, SESSIONS], 1) if sessions else LABELS
    np.testing.assert_allclose(loss(y, LOGITS, weights), expected, rtol=1e-5)
    np.testing.assert_allclose(loss(y.astype(np.float32), LOGITS, weights), expected, rtol=1e-5)
    np.testing.assert_allclose(loss(y, LOGITS[:, None], weights), expected, rtol=1e-5)
    np.testing.assert_allclose(_fitted_loss(loss, y, LOGITS, weights), expected, rtol=1e-5)


def test_weights_rank_what_they_are_for() -> None:
    """As a function, the loss could not tell these two apart."""
    labels, logits = [1, 0, 1, 0], [2.0, 0.0, -2.0, 0.0]
    loss = PairwiseLoss()
    first = np.log1p(np.exp(-2.0))
    third = np.log1p(np.exp(2.0))
    np.testing.assert_allclose(loss(labels, logits, [1, 0, 0, 0]), first, rtol=1e-6)
    np.testing.assert_allclose(loss(labels, logits, [0, 0, 1, 0]), third, rtol=1e-6)


def test_masked_rows_are_in_no_pair() -> None:
    kept = np.arange(12) % 4 != 1
    logits = tf.constant(LOGITS[:, None])
    logits._keras_mask = tf.constant(kept)
    expected = oracle.pairwise_logistic(LABELS[kept], LOGITS[kept]).loss
    np.testing.assert_allclose(PairwiseLoss()(LABELS, logits), expected, rtol=1e-5)


def test_value_of_output_loss() -> None:
    losses = RNG.uniform(size=(12, 1)).astype(np.float32)
    mean = (losses[:, 0] * WEIGHTS).sum() / 10
    loss = OutputLoss()
    np.testing.assert_allclose(loss(None, losses), losses.mean(), rtol=1e-6)
    np.testing.assert_allclose(loss(None, losses, WEIGHTS), mean, rtol=1e-6)
    np.testing.assert_allclose(_fitted_loss(loss, None, losses), losses.mean(), rtol=1e-6)
    np.testing.assert_allclose(_fitted_loss(loss, WEIGHTS, losses, WEIGHTS), mean, rtol=1e-6)
    assert loss(None, np.array([3.5], np.float32)) == 3.5
    assert loss(None, np.zeros([0, 1], np.float32)) == 0
    assert loss(None, tf.constant(3.5)) == 3.5


def test_rows_of_weight_0_may_have_any_loss() -> None:
    losses = tf.constant([[1.0], [np.nan], [np.inf]])
    with tf.GradientTape() as tape:
        tape.watch(losses)
        loss = OutputLoss()(None, losses, [2.0, 0.0, 0.0])
    assert loss == 2
    np.testing.assert_array_equal(tape.gradient(loss, losses), [[2.0], [0.0], [0.0]])


@pytest.mark.parametrize(
    "loss", [PairwiseLoss(0.1, 2.0, True, name="ranks"), OutputLoss(name="rows")]
)
def test_config(loss: Any) -> None:
    serialized = keras.losses.serialize(loss)
    again = keras.losses.deserialize(serialized)
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config()


def test_bad_arguments_are_named() -> None:
    for value in (tf.Variable(1.0), keras.Variable(1.0)):
        with pytest.raises(ValueError, match="`margin` must be a number"):
            PairwiseLoss(margin=value)
    with pytest.raises(ValueError, match="`temperature` must be a finite number"):
        PairwiseLoss(temperature=np.inf)
    with pytest.raises(ValueError, match="`sessions` must be True or False"):
        PairwiseLoss(sessions="no")
    with pytest.raises(ValueError, match=r"`y_true` must have shape \[batch_size, 2\]"):
        PairwiseLoss(sessions=True)(LABELS, LOGITS)
    with pytest.raises(ValueError, match="`sample_weight` must be None for an output that is one"):
        OutputLoss()(None, tf.ones([1]), WEIGHTS)
    with pytest.raises(ValueError, match="`sample_weight` must be None for an output that is one"):
        OutputLoss()(None, tf.ones([]), WEIGHTS)
    with pytest.raises(ValueError, match="`sample_weight` must have shape"):
        OutputLoss()(None, tf.ones([12]), WEIGHTS[:5])
    with pytest.raises(ValueError, match="`y_pred` must be float16"):
        OutputLoss()(None, tf.ones([12], tf.int32))
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchLoss'"):
        _ = fastneg.losses.NoSuchLoss
