"""Turns the arguments of `softmax_loss_with_negative_mining` into what a backend takes."""

from typing import Any, NamedTuple

import tensorflow as tf

from fastneg import validation


class RolledSoftmaxInputs(NamedTuple):
    """The arguments of `fastneg.backends.RolledSoftmax`; a number as weight is `loss_factor`."""

    user_emb: tf.Tensor
    item_emb: tf.Tensor
    labels: tf.Tensor
    shifts: tf.Tensor
    weights: tf.Tensor | None
    loss_factor: float
    gamma: float | tf.Tensor
    margin: float | tf.Tensor
    t: float | tf.Tensor
    candidate_sampling_probability: tf.Tensor | None
    candidate_ids: tf.Tensor | None


def prepare(
    user_emb: Any,
    item_emb: Any,
    labels: Any,
    num_negative_samples: int,
    weights: Any,
    gamma: Any,
    margin: Any,
    t: Any,
    seed: int | None,
    shifts: Any,
    candidate_sampling_probability: Any,
    candidate_ids: Any,
) -> RolledSoftmaxInputs:
    """Converts, checks what static shapes tell, and draws the shifts where none are given."""
    user_emb, item_emb = validation.embedding_pair("user_emb", user_emb, "item_emb", item_emb)
    dtype = validation.compute_dtype(user_emb.dtype)
    labels = validation.labels("labels", labels)
    batch_size = validation.static_batch_size(user_emb, item_emb, labels)
    validation.per_row("labels", labels, batch_size, allow_column=True)

    weights, loss_factor = validation.weights("weights", weights, labels, batch_size, dtype)
    gamma = validation.number_or_scalar("gamma", gamma, dtype)
    margin = validation.number_or_scalar("margin", margin, dtype)
    t = validation.number_or_scalar("t", t, dtype)

    if candidate_sampling_probability is not None:
        candidate_sampling_probability = validation.real_tensor(
            "candidate_sampling_probability", candidate_sampling_probability, dtype
        )
        validation.per_row(
            "candidate_sampling_probability", candidate_sampling_probability, batch_size
        )
    if candidate_ids is not None:
        candidate_ids = validation.integer_ids("candidate_ids", candidate_ids)
        validation.per_row("candidate_ids", candidate_ids, batch_size)

    if shifts is None:
        num_negatives = validation.num_rolled_negatives(
            "num_negative_samples", num_negative_samples, batch_size
        )
        shifts = draw_shifts(user_emb, batch_size, num_negatives, validation.seed("seed", seed))
    else:
        shifts = validation.shifts("shifts", shifts)
        if shifts.shape.rank and shifts.shape[0] is not None:
            validation.num_rolled_negatives("num_negative_samples", shifts.shape[0], batch_size)
    return RolledSoftmaxInputs(
        user_emb,
        item_emb,
        labels,
        shifts,
        weights,
        loss_factor,
        gamma,
        margin,
        t,
        candidate_sampling_probability,
        candidate_ids,
    )


def draw_shifts(
    user_emb: tf.Tensor, batch_size: int | None, num_negatives: int, seed: int | None
) -> tf.Tensor:
    """Draws K shifts, each uniform on 1 .. B-1, by one operation, so that a seed equates no two."""
    # The limit of a batch of less than two rows is no valid interval for the random operation; what
    # such a batch means is for the backend to say.
    if batch_size is None:
        limit = tf.maximum(tf.shape(user_emb, out_type=tf.int64)[0], 2)
    else:
        limit = tf.constant(max(batch_size, 2), tf.int64)
    graph_seed, op_seed = tf.compat.v1.get_seed(seed)
    # Called eagerly, the operation takes tensors five times faster than numbers.
    return tf.raw_ops.RandomUniformInt(
        shape=tf.constant([num_negatives], tf.int32),
        minval=tf.constant(1, tf.int64),
        maxval=limit,
        seed=graph_seed or 0,
        seed2=op_seed or 0,
    )
