"""The arguments of `pairwise_loss`."""

from dataclasses import dataclass

import tensorflow as tf

from fastneg import validation
from fastneg.arguments.common import Arguments, ids_factor


@dataclass(frozen=True, kw_only=True, eq=False)
class PairwiseLogisticArguments(Arguments):
    """What `pairwise_loss` was given, as every backend takes it.

    The compute dtype is float64 for float64 logits and float32 for all others. A backend raises
    tf.errors.InvalidArgumentError where run-time shapes disagree, or the temperature is 0.

    Attributes:
        labels: [B] or [B, 1], any real dtype or bool. A row with label NaN is in no pair.
        logits: [B] or [B, 1], float16, bfloat16, float32 or float64.
        session_ids: [B] or [B, 1], int64, or None for one session.
        margin: A finite Python float, or a scalar tensor in the compute dtype, which is
            differentiated.
        temperature: As `margin`; a float is not 0.
        weights: [B] or [B, 1] in the compute dtype, or None for 1 everywhere.
    """

    labels: tf.Tensor
    logits: tf.Tensor
    session_ids: tf.Tensor | None
    margin: float | tf.Tensor
    temperature: float | tf.Tensor
    weights: tf.Tensor | None

    def __post_init__(self) -> None:
        """Converts, and checks what static shapes and constants tell."""
        logits = validation.floating("logits", self.logits)
        labels = validation.labels("labels", self.labels)
        dtype = validation.compute_dtype(logits.dtype)
        batch_size = validation.static_batch_size(logits, labels)
        validation.per_row("logits", logits, batch_size, allow_column=True)
        validation.per_row("labels", labels, batch_size, allow_column=True)
        weights, loss_factor = validation.weights(
            "weights", self.weights, labels, batch_size, dtype
        )
        session_ids = self.session_ids
        if session_ids is not None:
            session_ids = validation.integer_ids("session_ids", session_ids)
            validation.per_row("session_ids", session_ids, batch_size, allow_column=True)
            loss_factor *= ids_factor(self.session_ids, session_ids, dtype)
        margin = validation.number_or_scalar("margin", self.margin, dtype)
        temperature = validation.number_or_scalar("temperature", self.temperature, dtype)
        # A number that is 0 in the compute dtype divides by 0 just as well.
        if not isinstance(temperature, tf.Tensor) and dtype.as_numpy_dtype(temperature) == 0:
            raise ValueError(f"`temperature` must not be 0. Received: {temperature!r}.")
        self._settle(
            labels=labels,
            logits=logits,
            session_ids=session_ids,
            margin=margin,
            temperature=temperature,
            weights=weights,
            loss_factor=loss_factor,
        )
