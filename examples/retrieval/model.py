"""A two-tower model: user embedding, item embedding, loss over the items of the batch."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from .batch_losses import BatchLoss
from .breakdown import Stage
from .lazy_adam import sum_duplicate_rows


class EmbeddingTable(keras.layers.Layer):
    """Rows of a trainable table by id.

    keras.layers.Embedding reads the whole table before it gathers; next to in-place sparse updates
    TensorFlow must then copy the table at each lookup. This layer gathers from the variable.
    """

    def __init__(self, num_rows: int, width: int, seed: int, **kwargs) -> None:
        """Creates the table [num_rows, width]."""
        super().__init__(**kwargs)
        initializer = keras.initializers.RandomUniform(-0.05, 0.05, seed=seed)
        self.table = self.add_weight(shape=(num_rows, width), initializer=initializer, name="table")

    def call(self, ids):
        """Looks up `ids` [B], giving [B, width]."""
        return tf.gather(self.table.value, ids)


class TwoTower(keras.Model):
    """Matrix factorisation as two towers, trained by a loss over the items of its batch.

    Args:
        loss: what a batch costs.
        item_share: float [num_items], how likely each item is to be drawn into a batch, up to a
            constant factor, for the logQ correction; None for no correction.
        seed: of the initial tables.
    """

    def __init__(
        self,
        loss: BatchLoss,
        *,
        num_users: int,
        num_items: int,
        width: int,
        item_share: np.ndarray | None,
        seed: int,
    ) -> None:
        """Creates both towers."""
        super().__init__()
        self.loss_of_batch = loss
        self.num_negatives = loss.num_negatives
        self.negatives_symbol = loss.negatives_symbol
        self.item_share = None if item_share is None else tf.constant(item_share)
        self.mean_loss = keras.metrics.Mean(name="loss")
        self.user_tower = EmbeddingTable(num_users, width, seed, name="users")
        self.item_tower = EmbeddingTable(num_items, width, seed + 1, name="items")

    def call(self, inputs):
        """Embeds (user ids [B], item ids [B]) as ([B, width], [B, width])."""
        users, items = inputs
        return self.user_tower(users), self.item_tower(items)

    def batch_loss(self, user_emb, item_emb, items, labels):
        """The loss of one batch whose rows have been embedded."""
        share = None if self.item_share is None else tf.gather(self.item_share, items)
        step = self.optimizer.iterations
        return self.loss_of_batch(user_emb, item_emb, items, labels, share, step)

    def optimise(self, users, items, labels):
        """One training step on [B] ids and labels; returns the loss before it."""
        with tf.GradientTape() as tape:
            user_emb, item_emb = self((users, items))
            loss = self.batch_loss(user_emb, item_emb, items, labels)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def ranking_tables(self):
        """The vectors of all users and of all items."""
        return self.user_tower.table.numpy(), self.item_tower.table.numpy()

    def stages(self) -> list[Stage]:
        """The parts of a training step.

        "lookup": embedding the batch. "loss": the loss and its gradients by the embedded rows.
        "gradient rows": summing the gradients of rows that a batch shows more than once.
        "optimiser": lazy Adam on those sums. The last two are timed with stand-in gradients,
        because the small difference of two steps with a slow loss is lost in the noise.
        """

        def look_up(users, items, labels):
            user_emb, item_emb = self((users, items))
            return user_emb[0, 0] + item_emb[0, 0]

        def loss(users, items, labels):
            user_emb, item_emb = self((users, items))
            with tf.GradientTape() as tape:
                tape.watch((user_emb, item_emb))
                loss = self.batch_loss(user_emb, item_emb, items, labels)
            grad_user, grad_item = tape.gradient(loss, (user_emb, item_emb))
            return loss + grad_user[0, 0] + grad_item[0, 0]

        def stand_in_gradients(users, items):
            user_emb, item_emb = self((users, items))
            return [tf.IndexedSlices(item_emb, users), tf.IndexedSlices(user_emb, items)]

        def sum_rows(users, items, labels):
            grad_user, grad_item = stand_in_gradients(users, items)
            return sum_duplicate_rows(grad_user)[1][0, 0] + sum_duplicate_rows(grad_item)[1][0, 0]

        def optimise(users, items, labels):
            self.optimizer.apply(stand_in_gradients(users, items), self.trainable_variables)
            return 0.0

        return [
            Stage("lookup", look_up),
            Stage("loss", loss, after="lookup"),
            Stage("gradient rows", sum_rows, after="lookup"),
            Stage("optimiser", optimise, after="gradient rows"),
        ]

    def train_step(self, data):
        """What Keras `fit` calls with (users, items, labels)."""
        self.mean_loss.update_state(self.optimise(*data))
        return {"loss": self.mean_loss.result()}

    @property
    def metrics(self):
        """What Keras `fit` resets at each epoch."""
        return [self.mean_loss]
