"""The losses that fit the form of `keras.losses.Loss`, for `model.compile(loss=...)`.

Their public place is `fastneg.losses`, as those of Keras are in `keras.losses`.

Such a loss sees labels, outputs of the model and the `sample_weight` of `fit`, and nothing else.
The other losses are layers, `fastneg.layers`, or functions to call in `compute_loss`.
"""

from typing import Any

import keras
import tensorflow as tf

from fastneg import validation
from fastneg.layers.common import saved_number, weighted_mean
from fastneg.losses.pairwise_logistic import pairwise_loss

_IN_COMPUTE_LOSS = (
    "To train or change it, call `fastneg.pairwise_loss` in the `compute_loss` of a model that "
    "owns the variable."
)


class _ScalarLoss(keras.losses.Loss):  # type: ignore[misc]
    """A loss that weighs its rows by itself, and takes labels and weights as they are."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        """Returns the scalar loss, of which replicas of a model that is trained add up theirs."""
        with tf.name_scope(self.name):
            loss = self.loss(y_true, y_pred, sample_weight)
        return loss / tf.distribute.get_strategy().num_replicas_in_sync

    def loss(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="fastneg")
class PairwiseLoss(_ScalarLoss):
    """`fastneg.pairwise_loss` as a loss of Keras.

    For a function, `compile(loss=fastneg.pairwise_loss)`, Keras multiplies the mean over pairs by
    the mean of `sample_weight`. This class gives the weights to the pairs: a row's weight is that
    of the pairs in which it has the larger label, and the mean is over pairs with weights other
    than 0.

    On several devices each one pairs the rows of its part of the batch, and the loss is the mean of
    their losses.

    Args:
        margin: By how much logits of a pair should differ, in units of the temperature; a number.
        temperature: Divides differences of logits, a number other than 0.
        sessions: Whether `y_true` has a second column, the session of the row. Only rows of one
            session are paired. As float32 the ids of sessions must be below 2^24.
        name: The name of the loss.

    Call arguments:
        y_true: [B] or [B, 1], the labels; with `sessions` [B, 2], labels and sessions.
        y_pred: [B] or [B, 1], the logits. Rows that a mask of Keras excludes are in no pair.
        sample_weight: [B] or [B, 1], optional.

    Returns:
        The loss, a scalar.

    Example:
        >>> loss = fastneg.losses.PairwiseLoss(sessions=True)
        >>> y_true = tf.constant([[1, 5], [0, 5], [1, 3], [0, 3]])
        >>> logits = tf.constant([0.7, 0.7, 0.7, 0.7])  # Every pair costs log 2.
        >>> print(f"{loss(y_true, logits, sample_weight=[1, 0, 3, 0]):.4f}")
        1.3863
    """

    def __init__(
        self,
        margin: float = 0.0,
        temperature: float = 1.0,
        sessions: bool = False,
        name: str = "pairwise_loss",
    ) -> None:
        """Stores the options, which must be what Keras can save."""
        super().__init__(name=name)
        self.margin = saved_number("margin", margin, _IN_COMPUTE_LOSS)
        self.temperature = saved_number("temperature", temperature, _IN_COMPUTE_LOSS)
        self.sessions = validation.flag("sessions", sessions)

    def loss(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
        """Returns the mean loss of the pairs."""
        labels, session_ids = validation.to_tensor("y_true", y_true), None
        if self.sessions:
            if labels.shape.rank != 2 or labels.shape[1] != 2:
                raise ValueError(
                    "`y_true` must have shape [batch_size, 2], labels and sessions. "
                    f"Received: {validation.shape_text(labels.shape)}."
                )
            labels, session_ids = labels[:, 0], labels[:, 1]
        mask = getattr(y_pred, "_keras_mask", None)
        if mask is not None:
            # A row whose label is NaN is in no pair.
            mask = tf.reshape(mask, tf.shape(labels))
            labels = tf.cast(labels, tf.float64)
            labels = tf.where(mask, labels, tf.constant(float("nan"), tf.float64))
        return pairwise_loss(
            labels,
            y_pred,
            session_ids,
            self.margin,
            self.temperature,
            weights=1.0 if sample_weight is None else sample_weight,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {
            "margin": self.margin,
            "temperature": self.temperature,
            "sessions": self.sessions,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(package="fastneg")
class OutputLoss(_ScalarLoss):
    """Takes the output of a model as its loss, for models that end in a layer of `fastneg.layers`.

    The losses of rows, such as those of `SampledSoftmaxLayer`, become

        loss = sum_i w_i loss_i / #{i : w_i != 0}

    where w_i is the `sample_weight` of `fit`. A single loss, [1] of `NegativeCosineLayer`, is a
    mean already, which no weights of rows can reach.

    Labels are not looked at: `model.fit(x)` needs none. With `sample_weight` Keras wants some, for
    instance `model.fit(x, y=weights, sample_weight=weights)`.

    Args:
        name: The name of the loss.

    Call arguments:
        y_true: Anything, or None.
        y_pred: [B] or [B, 1], losses of rows; [1] or a scalar, one loss.
        sample_weight: [B] or [B, 1], optional.

    Returns:
        The loss, a scalar.

    Example:
        >>> loss = fastneg.losses.OutputLoss()
        >>> float(loss(None, tf.constant([[1.0], [2.0], [9.0]]), sample_weight=[1, 0.5, 0]))
        1.0
    """

    def __init__(self, name: str = "output_loss") -> None:
        """Takes a name, and nothing else."""
        super().__init__(name=name)

    def loss(self, y_true: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor:
        """Returns the mean of the output."""
        losses = validation.floating("y_pred", y_pred)
        if sample_weight is not None:
            sample_weight = validation.to_tensor("sample_weight", sample_weight)
            if losses.shape in ([], [1]) and sample_weight.shape not in ([1], [1, 1]):
                raise ValueError(
                    "`sample_weight` must be None for an output that is one loss and has no rows "
                    f"to weigh. Received: {validation.shape_text(sample_weight.shape)}."
                )
        return weighted_mean(losses, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {"name": self.name}
