"""Turns the arguments of `pairwise_loss` into what a backend takes."""

from typing import Any, NamedTuple

import tensorflow as tf

from fastneg import validation


class PairwiseLogisticInputs(NamedTuple):
    """The arguments of `fastneg.backends.PairwiseLogistic`; a number as weight is `loss_factor`."""

    labels: tf.Tensor
    logits: tf.Tensor
    session_ids: tf.Tensor | None
    weights: tf.Tensor | None
    loss_factor: float
    margin: float | tf.Tensor
    temperature: float | tf.Tensor


def prepare(
    labels: Any, logits: Any, session_ids: Any, margin: Any, temperature: Any, weights: Any
) -> PairwiseLogisticInputs:
    """Converts, and checks what static shapes and constants tell."""
    logits = validation.floating("logits", logits)
    labels = validation.labels("labels", labels)
    dtype = validation.compute_dtype(logits.dtype)
    batch_size = validation.static_batch_size(logits, labels)
    validation.per_row("logits", logits, batch_size, allow_column=True)
    validation.per_row("labels", labels, batch_size, allow_column=True)
    if session_ids is not None:
        session_ids = validation.integer_ids("session_ids", session_ids)
        validation.per_row("session_ids", session_ids, batch_size, allow_column=True)
    margin = validation.number_or_scalar("margin", margin, dtype)
    temperature = validation.number_or_scalar("temperature", temperature, dtype)
    # A number that is 0 in the compute dtype divides by 0 just as well.
    if not isinstance(temperature, tf.Tensor) and dtype.as_numpy_dtype(temperature) == 0:
        raise ValueError(f"`temperature` must not be 0. Received: {temperature!r}.")
    weights, loss_factor = validation.weights("weights", weights, labels, batch_size, dtype)
    return PairwiseLogisticInputs(
        labels, logits, session_ids, weights, loss_factor, margin, temperature
    )
