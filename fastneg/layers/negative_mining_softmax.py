"""NegativeMiningSoftmaxLoss: the rolled SV-softmax loss inside a model."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from fastneg.layers.common import LossLayer, loss_spec
from fastneg.layers.small_batches import limit_negatives
from fastneg.losses.rolled_softmax import softmax_loss_with_negative_mining

_IN_A_LAYER_OF_YOUR_OWN = (
    "To train or change it, call `fastneg.softmax_loss_with_negative_mining` in a layer or model "
    "that owns the variable."
)


@keras.saving.register_keras_serializable(package="fastneg")
class NegativeMiningSoftmaxLoss(LossLayer):
    """`fastneg.softmax_loss_with_negative_mining` as a layer that adds the loss to its model.

    A model with this layer is compiled without a loss: `model.compile(optimizer)`. Keras hands the
    `sample_weight` of `fit` to losses of `compile` only: here weights are an input of the model,
    which gives it to the layer as `sample_weight`.

    The last batch of an epoch may be a small one. Each row of a batch of B rows gets at most B - 1
    negatives; a batch of a single row, which has none, has loss 0.

    Args:
        num_negative_samples: Negatives per row, at least 1. In a small batch they are fewer.
        embed_normed: Whether the embeddings are L2-normalised already.
        gamma: Scale of the logits, a number; the first value of a learnable one.
        margin: Subtracted from the positive's cosine, a number.
        t: Emphasis of hard negatives, a number; 1 for none.
        seed: Makes the sequence of drawn shifts repeatable. A function or model that
            `tf.recompute_grad` or `keras.remat` wraps draws anew where it is recomputed, as it does
            for `keras.layers.Dropout`; a layer made in a `keras.RematScope` does not.
        learnable_gamma: Whether gamma is trained, as exp of the layer's weight `log_gamma`.
        positive_in_softmax: As in the function; likewise the next two.
        negative_weight: A number.
        correction: "standard" or "refined".
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

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "num_negative_samples",
        "embed_normed",
        "gamma",
        "margin",
        "t",
        "seed",
        "learnable_gamma",
        "positive_in_softmax",
        "negative_weight",
        "correction",
    )
    NUMBERS: ClassVar[dict[str, str]] = {
        "gamma": "`learnable_gamma=True` trains it; its logarithm is the weight `log_gamma`.",
        "margin": _IN_A_LAYER_OF_YOUR_OWN,
        "t": _IN_A_LAYER_OF_YOUR_OWN,
        "negative_weight": "It cannot be trained.",
    }

    def __init__(
        self,
        num_negative_samples: int = 4,
        embed_normed: bool = False,
        gamma: float = 1.0,
        margin: float = 0.0,
        t: float = 1.0,
        seed: int | None = None,
        learnable_gamma: bool = False,
        positive_in_softmax: bool = True,
        negative_weight: float = 1.0,
        correction: str = "standard",
        **kwargs: Any,
    ) -> None:
        """Stores the options; all but the numbers are checked when the layer is called."""
        super().__init__(**kwargs)
        self.num_negative_samples = num_negative_samples
        self.embed_normed = embed_normed
        self.gamma = gamma
        self.margin = margin
        self.t = t
        self.seed = seed
        self.learnable_gamma = learnable_gamma
        self.positive_in_softmax = positive_in_softmax
        self.negative_weight = negative_weight
        self.correction = correction
        self.log_gamma = self.add_learnable_scale("gamma", self.gamma) if learnable_gamma else None

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
        arguments = {
            "user_emb": user_emb,
            "item_emb": item_emb,
            "labels": labels,
            "weights": 1.0 if sample_weight is None else sample_weight,
            "candidate_sampling_probability": candidate_sampling_probability,
            "candidate_ids": candidate_ids,
        }
        loss = softmax_loss_with_negative_mining(
            **limit_negatives(self.num_negative_samples, self.seed, arguments),
            embed_normed=self.embed_normed,
            gamma=self.gamma if self.log_gamma is None else tf.exp(self.log_gamma),
            margin=self.margin,
            t=self.t,
            seed=self.seed,
            positive_in_softmax=self.positive_in_softmax,
            negative_weight=self.negative_weight,
            correction=self.correction,
        )
        self.add_loss(loss)
        return loss

    def compute_output_shape(self, *_: Any, **__: Any) -> tuple[()]:
        """Returns the shape of a scalar."""
        return ()

    def compute_output_spec(self, inputs: Sequence[Any], *_: Any, **__: Any) -> keras.KerasTensor:
        """Returns the loss as a symbol."""
        return loss_spec((), inputs[0])
