"""SampledSoftmaxEmbedding: an embedding table that is also what a sampled softmax scores."""

from typing import Any, ClassVar

import keras
import tensorflow as tf

from fastneg.layers.common import FixedOptions, loss_spec, weighted_mean
from fastneg.losses.sampled_softmax import sampled_softmax_loss


@keras.saving.register_keras_serializable(package="fastneg")
class SampledSoftmaxEmbedding(FixedOptions, keras.layers.Embedding):  # type: ignore[misc]
    """`keras.layers.Embedding` whose table is also that of `fastneg.sampled_softmax_loss`.

    Called with ids it looks up their rows. Called with vectors and `labels` it adds the mean loss
    to the model and returns the losses of the rows. Both calls share one table, and go on sharing
    it when a functional model is saved, loaded or cloned. Who wants a table for the loss alone
    never makes the first call.

    A model with this layer is compiled without a loss: `model.compile(optimizer)`. Keras hands the
    `sample_weight` of `fit` to losses of `compile` only: here weights are an input of the model,
    which gives it to the layer as `sample_weight`.

    Args:
        input_dim: Number of classes V, numbered from the most to the least frequent.
        output_dim: Width of the table, D.
        num_sampled: Sampled classes per batch, at least 1 and at most V.
        remove_accidental_hits: Whether to leave out samples that are the label of the row.
        seed: Makes the sequence of samples repeatable. A function or model that
            `tf.recompute_grad` or `keras.remat` wraps draws anew where it is recomputed, as it does
            for `keras.layers.Dropout`; a layer made in a `keras.RematScope` does not.
        **kwargs: As for `keras.layers.Embedding`.

    Call arguments:
        inputs: Ids to look up, of any shape; or, with `labels`, what is scored against the table,
            [B, D].
        labels: [B] or [B, 1] integers in 0 .. V - 1.
        sample_weight: [B] or [B, 1], optional. The mean is sum_i w_i loss_i / #{i : w_i != 0}.

    Returns:
        The rows of the ids, [..., D], in the layer's dtype; with `labels` the losses, [B, 1], not
        weighted.

    Example:
        >>> items = fastneg.layers.SampledSoftmaxEmbedding(1000, 8, num_sampled=20)
        >>> history = keras.Input([5], dtype="int32")
        >>> clicked = keras.Input([], dtype="int32")
        >>> user = keras.layers.GlobalAveragePooling1D()(items(history))
        >>> model = keras.Model([history, clicked], items(user, labels=clicked))
        >>> model.compile("adam")
        >>> tower = keras.Model(history, user)  # What is served: no loss, no operation of fastneg.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("num_sampled", "remove_accidental_hits", "seed")

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        num_sampled: int = 5,
        remove_accidental_hits: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Stores the options of the loss, which are checked when it is called."""
        super().__init__(input_dim, output_dim, **kwargs)
        self.num_sampled = num_sampled
        self.remove_accidental_hits = remove_accidental_hits
        self.seed = seed

    def call(self, inputs: Any, labels: Any = None, sample_weight: Any = None) -> tf.Tensor:
        """Returns the rows of the ids `inputs`, or the losses of the vectors `inputs`."""
        if labels is None:
            outputs = super().call(inputs)
            if self.mask_zero:
                outputs._keras_mask = super().compute_mask(inputs)
            return outputs
        losses = sampled_softmax_loss(
            self.embeddings,
            None,
            labels,
            inputs,
            num_sampled=self.num_sampled,
            num_classes=self.input_dim,
            remove_accidental_hits=self.remove_accidental_hits,
            seed=self.seed,
        )
        self.add_loss(weighted_mean(losses, sample_weight))
        return losses[:, None]

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Returns None: `call` sets the mask, which only ids have."""

    def compute_output_shape(
        self, inputs_shape: Any, labels_shape: Any = None, sample_weight_shape: Any = None
    ) -> tuple[int | None, ...]:
        """Returns the shape of the rows, or of the losses, (B, 1)."""
        if labels_shape is None:
            return (*inputs_shape, self.output_dim)
        return (inputs_shape[0], 1)

    def compute_output_spec(
        self, inputs: Any, labels: Any = None, sample_weight: Any = None
    ) -> keras.KerasTensor:
        """Returns the rows or the losses as a symbol."""
        if labels is None:
            return super().compute_output_spec(inputs)
        return loss_spec((inputs.shape[0], 1), inputs)
