"""NegativeCosineLayer: a query against its own document and shuffled ones."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from fastneg.layers.common import LossLayer, loss_spec
from fastneg.losses.shuffled_cosine import negative_cosine_loss


@keras.saving.register_keras_serializable(package="fastneg")
class NegativeCosineLayer(LossLayer):
    """`fastneg.negative_cosine_loss` as a layer, [query, doc] -> [1].

    Args:
        NEG: Number of negatives per query, at least 1.
        t: Temperature, a number other than 0.
        scale: Factor of the cosines, a number; the first value of a learnable one.
        normalize: "candidates", or "batch" for the arithmetic of the published layer; the function
            explains both.
        seed: Makes the sequence of drawn permutations repeatable. A function or model that
            `tf.recompute_grad` or `keras.remat` wraps draws anew where it is recomputed, as it does
            for `keras.layers.Dropout`; a layer made in a `keras.RematScope` does not.
        learnable_scale: Whether the scale is trained, as exp of the layer's weight `log_scale`.
        positive_in_softmax: As in the function; likewise the next two.
        negative_weight: A number.
        correction: "standard" or "refined".
        **kwargs: As for every Keras layer.

    Call arguments:
        inputs: `[query, doc]`, both [batch_size, embedding_dim] and of one dtype.
        candidate_sampling_probability: [batch_size], optional; as in the function.
        candidate_ids: [batch_size], optional; as in the function.

    Returns:
        The loss, [1].

    A model whose output this is takes `fastneg.losses.OutputLoss()` as its loss. The loss is a mean
    over rows, so that no `sample_weight` of `fit` can reach them.

    Example:
        >>> layer = fastneg.layers.NegativeCosineLayer(NEG=3)
        >>> layer([tf.random.normal([8, 4]), tf.random.normal([8, 4])]).shape
        TensorShape([1])
    """

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "NEG",
        "t",
        "scale",
        "normalize",
        "seed",
        "learnable_scale",
        "positive_in_softmax",
        "negative_weight",
        "correction",
    )
    NUMBERS: ClassVar[dict[str, str]] = {
        "t": "`learnable_scale=True` trains the scale of the cosines over it.",
        "scale": "`learnable_scale=True` trains it; its logarithm is the weight `log_scale`.",
        "negative_weight": "It cannot be trained.",
    }

    def __init__(
        self,
        NEG: int,  # noqa: N803 - the published name.
        t: float = 1.0,
        scale: float = 20.0,
        normalize: str = "candidates",
        seed: int | None = None,
        learnable_scale: bool = False,
        positive_in_softmax: bool = True,
        negative_weight: float = 1.0,
        correction: str = "standard",
        **kwargs: Any,
    ) -> None:
        """Stores the options; all but the numbers are checked when the layer is called."""
        super().__init__(**kwargs)
        self.NEG = NEG
        self.t = t
        self.scale = scale
        self.normalize = normalize
        self.seed = seed
        self.learnable_scale = learnable_scale
        self.positive_in_softmax = positive_in_softmax
        self.negative_weight = negative_weight
        self.correction = correction
        self.log_scale = self.add_learnable_scale("scale", self.scale) if learnable_scale else None

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
            scale=self.scale if self.log_scale is None else tf.exp(self.log_scale),
            normalize=self.normalize,
            seed=self.seed,
            candidate_sampling_probability=candidate_sampling_probability,
            candidate_ids=candidate_ids,
            positive_in_softmax=self.positive_in_softmax,
            negative_weight=self.negative_weight,
            correction=self.correction,
        )
        return loss[None]

    def compute_output_shape(self, input_shape: Any, *_: Any, **__: Any) -> tuple[int]:
        """Returns the shape of the loss, (1,)."""
        return (1,)

    def compute_output_spec(self, inputs: Sequence[Any], *_: Any, **__: Any) -> keras.KerasTensor:
        """Returns the loss as a symbol."""
        return loss_spec((1,), inputs[0])
