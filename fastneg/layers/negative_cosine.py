"""NegativeCosineLayer: a query against its own document and shuffled ones."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from fastneg.layers.common import LossLayer
from fastneg.losses.shuffled_cosine import negative_cosine_loss


@keras.saving.register_keras_serializable(package="fastneg")
class NegativeCosineLayer(LossLayer):
    """`fastneg.negative_cosine_loss` as a layer, [query, doc] -> [1].

    Args:
        NEG: Number of negatives per query, at least 1.
        t: Temperature, a number other than 0.
        scale: Factor of the cosines, a number.
        normalize: "candidates", or "batch" for the arithmetic of the published layer; the function
            explains both.
        seed: Makes the sequence of drawn permutations repeatable.
        **kwargs: As for every Keras layer.

    Call arguments:
        inputs: `[query, doc]`, both [batch_size, embedding_dim] and of one dtype.
        candidate_sampling_probability: [batch_size], optional; as in the function.
        candidate_ids: [batch_size], optional; as in the function.

    Returns:
        The loss, [1].

    Example:
        >>> layer = fastneg.layers.NegativeCosineLayer(NEG=3)
        >>> layer([tf.random.normal([8, 4]), tf.random.normal([8, 4])]).shape
        TensorShape([1])
    """

    def __init__(
        self,
        NEG: int,  # noqa: N803 - the published name.
        t: float = 1.0,
        scale: float = 20.0,
        normalize: str = "candidates",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Stores the parameters, which are checked when the layer is called."""
        super().__init__(**kwargs)
        self.NEG = NEG
        self.t = t
        self.scale = scale
        self.normalize = normalize
        self.seed = seed

    def call(
        self,
        inputs: Sequence[Any],
        candidate_sampling_probability: Any = None,
        candidate_ids: Any = None,
    ) -> tf.Tensor:
        """Returns the loss, [1]."""
        query, doc = inputs
        loss = negative_cosine_loss(
            query,
            doc,
            self.NEG,
            t=self.t,
            scale=self.scale,
            normalize=self.normalize,
            seed=self.seed,
            candidate_sampling_probability=candidate_sampling_probability,
            candidate_ids=candidate_ids,
        )
        return loss[None]

    def compute_output_shape(self, input_shape: Any, *_: Any, **__: Any) -> tuple[int]:
        """Returns the shape of the loss, (1,)."""
        return (1,)

    def compute_output_spec(self, inputs: Sequence[Any], *_: Any, **__: Any) -> keras.KerasTensor:
        """Returns the loss as a symbol."""
        return self.loss_spec((1,), inputs[0])

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {
            **super().get_config(),
            "NEG": self.NEG,
            "t": self.t,
            "scale": self.scale,
            "normalize": self.normalize,
            "seed": self.seed,
        }
