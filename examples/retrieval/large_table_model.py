"""A user embedding scored against a large item table, trained by a sampled softmax."""

from __future__ import annotations

import keras
import tensorflow as tf

from .breakdown import Stage
from .model import EmbeddingTable


class PlainSampledSoftmaxLayer(keras.layers.Layer):
    """`fastneg.layers.SampledSoftmaxLayer` as published: TensorFlow's loss and a bias of zeros."""

    def __init__(self, num_sampled: int, num_classes: int, seed: int, **kwargs) -> None:
        """Creates the bias, a number for each class, which is never trained."""
        super().__init__(autocast=False, **kwargs)
        self.num_sampled = num_sampled
        self.num_classes = num_classes
        self.seed = seed
        self.zero_bias = self.add_weight(
            shape=(num_classes,), initializer="zeros", trainable=False, name="zero_bias"
        )

    def call(self, inputs):
        """Returns the losses [B, 1] of [table, scored vectors, labels [B]]."""
        table, scored, labels = inputs
        losses = tf.nn.sampled_softmax_loss(
            table,
            self.zero_bias.value,
            labels[:, None],
            scored,
            num_sampled=self.num_sampled,
            num_classes=self.num_classes,
            seed=self.seed,
        )
        return losses[:, None]


class LargeTable(keras.Model):
    """Matrix factorisation over a table of many items, of which the data may show only the first.

    Args:
        loss_layer: a layer that turns [table, user vectors, item ids] into losses [B, 1] and draws
            its own samples. Two layers with the same seed of their sampling operation draw the same
            sequence.
        num_users: rows of the user table.
        num_items: items that may be recommended, the first rows of the item table.
        table_rows: rows of the item table.
        width: of a user's and of an item's vector.
        num_sampled: classes that `loss_layer` samples for a batch.
        seed: of the initial tables.
    """

    negatives_symbol = "S"

    def __init__(
        self,
        loss_layer: keras.layers.Layer,
        *,
        num_users: int,
        num_items: int,
        table_rows: int,
        width: int,
        num_sampled: int,
        seed: int,
    ) -> None:
        """Creates both tables."""
        super().__init__()
        self.loss_layer = loss_layer
        self.num_negatives = num_sampled
        self.num_items = num_items
        self.user_table = EmbeddingTable(num_users, width, seed, name="users")
        self.item_table = EmbeddingTable(table_rows, width, seed + 1, name="items")

    def batch_loss(self, user_emb, items):
        """The mean loss of a batch whose users have been looked up."""
        # The variable itself: a tensor of it would be a copy of all its rows.
        return tf.reduce_mean(self.loss_layer([self.item_table.table.value, user_emb, items]))

    def optimise(self, users, items, labels):
        """One training step on ids [B] of users and the items they clicked; all labels are 1."""
        with tf.GradientTape() as tape:
            loss = self.batch_loss(self.user_table(users), items)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def ranking_tables(self):
        """The vectors of all users and of the items that may be recommended."""
        items = self.item_table(tf.range(self.num_items))
        return self.user_table.table.numpy(), items.numpy()

    def stages(self) -> list[Stage]:
        """The parts of a training step.

        "lookup": the users' rows. "loss": sampling, the lookup of the items' rows, the loss and its
        gradients by both. "optimiser": lazy Adam, which first sums the gradients of rows that come
        more than once.
        """

        def look_up(users, items, labels):
            return self.user_table(users)[0, 0]

        def loss(users, items, labels):
            user_emb = self.user_table(users)
            with tf.GradientTape() as tape:
                tape.watch(user_emb)
                loss = self.batch_loss(user_emb, items)
            grad_user, grad_table = tape.gradient(loss, (user_emb, self.item_table.table.value))
            return loss + grad_user[0, 0] + grad_table.values[0, 0]

        return [
            Stage("lookup", look_up),
            Stage("loss", loss, after="lookup"),
            Stage("optimiser", self.optimise, after="loss"),
        ]
