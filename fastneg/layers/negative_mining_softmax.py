"""NegativeMiningSoftmaxLoss: the rolled SV-softmax loss inside a model."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from fastneg.layers.common import LossLayer
from fastneg.losses.rolled_softmax import softmax_loss_with_negative_mining


@keras.saving.register_keras_serializable(package="fastneg")
class NegativeMiningSoftmaxLoss(LossLayer):
    """`fastneg.softmax_loss_with_negative_mining` as a layer that adds the loss to its model.

    A model with this layer is compiled without a loss: `model.compile(optimizer)`.

    Args:
        num_negative_samples: Negatives per row, at least 1 and less than the batch size.
        embed_normed: Whether the embeddings are L2-normalised already.
        gamma: Scale of the logits, a number.
        margin: Subtracted from the positive's cosine, a number.
        t: Emphasis of hard negatives, a number; 1 for none.
        seed: Makes the sequence of drawn shifts repeatable.
        **kwargs: As for every Keras layer.

    Call arguments:
        inputs: `(user_emb, item_emb)`, both [batch_size, embedding_dim] and of one dtype.
        labels: [batch_size] or [batch_size, 1]; rows with labels > 0 count.
        sample_weight: [batch_size] or [batch_size, 1], or a number; optional.
        candidate_sampling_probability: [batch_size], optional; as in the function.
        candidate_ids: [batch_size], optional; as in the function.

    Returns:
        The loss, a scalar.

    Example:
        >>> layer = fastneg.layers.NegativeMiningSoftmaxLoss(num_negative_samples=3, gamma=20.0)
        >>> users, items = tf.random.normal([8, 4]), tf.random.normal([8, 4])
        >>> layer((users, items), tf.ones([8])).shape
        TensorShape([])
    """

    def __init__(
        self,
        num_negative_samples: int = 4,
        embed_normed: bool = False,
        gamma: float = 1.0,
        margin: float = 0.0,
        t: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Stores the parameters, which are checked when the layer is called."""
        super().__init__(**kwargs)
        self.num_negative_samples = num_negative_samples
        self.embed_normed = embed_normed
        self.gamma = gamma
        self.margin = margin
        self.t = t
        self.seed = seed

    def call(
        self,
        inputs: Sequence[Any],
        labels: Any,
        sample_weight: Any = None,
        candidate_sampling_probability: Any = None,
        candidate_ids: Any = None,
    ) -> tf.Tensor:
        """Adds the loss to the model and returns it."""
        user_emb, item_emb = inputs
        loss = softmax_loss_with_negative_mining(
            user_emb,
            item_emb,
            labels,
            self.num_negative_samples,
            embed_normed=self.embed_normed,
            weights=1.0 if sample_weight is None else sample_weight,
            gamma=self.gamma,
            margin=self.margin,
            t=self.t,
            seed=self.seed,
            candidate_sampling_probability=candidate_sampling_probability,
            candidate_ids=candidate_ids,
        )
        self.add_loss(loss)
        return loss

    def compute_output_shape(self, *_: Any, **__: Any) -> tuple[()]:
        """Returns the shape of a scalar."""
        return ()

    def compute_output_spec(self, inputs: Sequence[Any], *_: Any, **__: Any) -> keras.KerasTensor:
        """Returns the loss as a symbol."""
        return self.loss_spec((), inputs[0])

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {
            **super().get_config(),
            "num_negative_samples": self.num_negative_samples,
            "embed_normed": self.embed_normed,
            "gamma": self.gamma,
            "margin": self.margin,
            "t": self.t,
            "seed": self.seed,
        }
