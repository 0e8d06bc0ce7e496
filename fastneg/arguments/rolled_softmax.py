"""The arguments of `softmax_loss_with_negative_mining`."""

from dataclasses import InitVar, dataclass

import tensorflow as tf

from fastneg import validation
from fastneg.arguments.common import Arguments, ids_factor, per_candidate
from fastneg.arguments.row_options import row_options
from fastneg.arguments.seeds import Seed, seed_of_replica, uniform_integers


@dataclass(frozen=True, kw_only=True, eq=False)
class RolledSoftmaxArguments(Arguments):
    """What `softmax_loss_with_negative_mining` was given, as every backend takes it.

    The compute dtype is float64 for float64 embeddings and float32 for all others. A backend raises
    tf.errors.InvalidArgumentError where run-time shapes disagree, K is not in 1 .. B-1, or a shift
    is 0 modulo B. An empty batch has loss 0 and raises nothing.

    Args:
        num_negative_samples: How many shifts to draw where none are given.
        seed: For drawing them.

    Attributes:
        user_emb: [B, D], float16, bfloat16, float32 or float64.
        item_emb: [B, D], the same dtype.
        labels: [B] or [B, 1], any real dtype or bool. Rows with labels > 0 count.
        embed_normed: The rows are used as they are instead of being L2-normalised.
        weights: [B] or [B, 1] in the compute dtype, or None for 1 everywhere.
        gamma: A finite Python float, or a scalar tensor in the compute dtype, which is
            differentiated.
        margin: As `gamma`.
        t: As `gamma`.
        shifts: [K], int64, taken modulo B.
        candidate_sampling_probability: [B] in the compute dtype, a constant for differentiation; or
            None.
        candidate_ids: [B], int64, or None.
        positive_in_softmax: Whether the positive's logit is among those that are summed.
        negative_weight: 1 where the positive is in the softmax.
        correction: "standard" or "refined"; refined has probabilities, and the positive is not in
            the softmax.
    """

    user_emb: tf.Tensor
    item_emb: tf.Tensor
    labels: tf.Tensor
    num_negative_samples: InitVar[int]
    embed_normed: bool
    weights: tf.Tensor | None
    gamma: float | tf.Tensor
    margin: float | tf.Tensor
    t: float | tf.Tensor
    seed: InitVar[Seed]
    shifts: tf.Tensor
    candidate_sampling_probability: tf.Tensor | None
    candidate_ids: tf.Tensor | None
    positive_in_softmax: bool
    negative_weight: float
    correction: str

    def __post_init__(self, num_negative_samples: int, seed: Seed) -> None:
        """Converts, checks what static shapes tell, and draws the shifts where none are given."""
        user_emb, item_emb = validation.embedding_pair(
            "user_emb", self.user_emb, "item_emb", self.item_emb
        )
        dtype = validation.compute_dtype(user_emb.dtype)
        labels = validation.labels("labels", self.labels)
        batch_size = validation.static_batch_size(user_emb, item_emb, labels)
        validation.per_row("labels", labels, batch_size, allow_column=True)
        weights, loss_factor = validation.weights(
            "weights", self.weights, labels, batch_size, dtype
        )
        gamma = validation.number_or_scalar("gamma", self.gamma, dtype)
        margin = validation.number_or_scalar("margin", self.margin, dtype)
        t = validation.number_or_scalar("t", self.t, dtype)
        probability, ids = per_candidate(
            self.candidate_sampling_probability, self.candidate_ids, batch_size, dtype
        )
        if self.shifts is None:
            num_negatives = validation.num_rolled_negatives(
                "num_negative_samples", num_negative_samples, batch_size
            )
            shifts = draw_shifts(user_emb, batch_size, num_negatives, seed_of_replica(seed))
        else:
            shifts = validation.shifts("shifts", self.shifts)
            if shifts.shape.rank and shifts.shape[0] is not None:
                validation.num_rolled_negatives("num_negative_samples", shifts.shape[0], batch_size)
        self._settle(
            user_emb=user_emb,
            item_emb=item_emb,
            labels=labels,
            embed_normed=validation.flag("embed_normed", self.embed_normed),
            weights=weights,
            gamma=gamma,
            margin=margin,
            t=t,
            shifts=shifts,
            candidate_sampling_probability=probability,
            candidate_ids=ids,
            loss_factor=loss_factor * ids_factor(self.candidate_ids, ids, dtype),
            **row_options(
                self.positive_in_softmax, self.negative_weight, self.correction, probability
            ),
        )


def draw_shifts(
    user_emb: tf.Tensor, batch_size: int | None, num_negatives: int, seed: Seed
) -> tf.Tensor:
    """Draws K shifts, each uniform on 1 .. B-1."""
    # The limit of a batch of less than two rows is no valid interval for the random operation; what
    # such a batch means is for the backend to say.
    if batch_size is None:
        limit = tf.maximum(tf.shape(user_emb, out_type=tf.int64)[0], 2)
    else:
        limit = tf.constant(max(batch_size, 2), tf.int64)
    return uniform_integers(num_negatives, 1, limit, seed)
