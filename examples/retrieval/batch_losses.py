"""The two losses that the two-tower example can train with, as its model calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import tensorflow as tf


class BatchLoss(Protocol):
    """The loss of a batch of pairs."""

    num_negatives: int
    negatives_symbol: str

    def __call__(
        self,
        user_emb: tf.Tensor,
        item_emb: tf.Tensor,
        items: tf.Tensor,
        labels: tf.Tensor,
        share: tf.Tensor | None,
        step: tf.Tensor,
    ) -> tf.Tensor:
        """The loss of embedded rows [B, D] with item ids and labels [B].

        `share`, [B], is how likely each item is to be drawn into a batch, up to a constant factor;
        None for no logQ correction. `step` numbers the training step.
        """


class RolledLoss:
    """A softmax over the row's own item and K items of other rows.

    Args:
        function: `fastneg.softmax_loss_with_negative_mining` or the plain TensorFlow one of
            `fastneg.reference`.
        num_negatives: K.
        gamma: scale of the cosines.
        seed: of the shifts, which are the same for either function.
    """

    negatives_symbol = "K"

    def __init__(
        self, function: Callable[..., tf.Tensor], num_negatives: int, gamma: float, seed: int
    ) -> None:
        """Keeps what a batch's loss needs."""
        self.function = function
        self.num_negatives = num_negatives
        self.gamma = gamma
        self.seed = seed

    def __call__(self, user_emb, item_emb, items, labels, share, step):
        """See `BatchLoss`."""
        return self.function(
            user_emb,
            item_emb,
            labels,
            gamma=self.gamma,
            shifts=self.draw_shifts(tf.shape(user_emb)[0], step),
            candidate_sampling_probability=share,
        )

    def draw_shifts(self, batch_size, step):
        """The shifts of training step `step`: K integers in 1 .. batch_size - 1."""
        seed = tf.stack([tf.cast(self.seed, tf.int64), tf.cast(step, tf.int64)])
        return tf.random.stateless_uniform(
            [self.num_negatives], seed, 1, tf.cast(batch_size, tf.int64), tf.int64
        )


class InBatchLoss:
    """A softmax over all items of the batch; other rows with the row's item are no negatives.

    Args:
        function: `fastneg.in_batch_softmax_loss` or the plain TensorFlow one of
            `fastneg.reference`.
        batch_size: rows of a batch.
        gamma: scale of the cosines, 1 / temperature.
        positive_in_softmax, negative_weight, correction: as the function has them.
    """

    negatives_symbol = "B-1"

    def __init__(
        self,
        function: Callable[..., tf.Tensor],
        batch_size: int,
        gamma: float,
        *,
        positive_in_softmax: bool,
        negative_weight: float,
        correction: str,
    ) -> None:
        """Keeps what a batch's loss needs."""
        self.function = function
        self.num_negatives = batch_size - 1
        self.gamma = gamma
        self.options = {
            "positive_in_softmax": positive_in_softmax,
            "negative_weight": negative_weight,
            "correction": correction,
        }

    def __call__(self, user_emb, item_emb, items, labels, share, step):
        """See `BatchLoss`."""
        return self.function(
            user_emb,
            item_emb,
            sample_weight=labels,
            temperature=1 / self.gamma,
            normalize=True,
            candidate_sampling_probability=share,
            candidate_ids=items,
            **self.options,
        )
