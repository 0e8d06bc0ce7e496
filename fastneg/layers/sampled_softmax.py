"""SampledSoftmaxLayer: a softmax over many classes, estimated on a few sampled ones."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from fastneg import validation
from fastneg.arguments.tables import unwrapped
from fastneg.layers.common import LossLayer, loss_spec
from fastneg.losses.sampled_softmax import sampled_softmax_loss


@keras.saving.register_keras_serializable(package="fastneg")
class SampledSoftmaxLayer(LossLayer):
    """`fastneg.sampled_softmax_loss` as a layer, [embeddings, inputs, label_idx] -> [B, 1].

    The published layer carries a bias of zeros, a number for each class; this one needs none.

    In the `call` of a layer or model of yours the table may be a variable, also that of another
    layer. In a functional model it has to be the output of a layer: Keras would write any other
    table into the configuration of the model, and a loaded model would train that copy. There
    `fastneg.layers.SampledSoftmaxEmbedding` takes the place of this layer and of the
    `keras.layers.Embedding` that has the table.

    Args:
        num_sampled: Sampled classes per batch, at least 1 and at most the number of classes.
        remove_accidental_hits: Whether to leave out samples that are the label of the row.
        seed: Makes the sequence of samples repeatable. A function or model that
            `tf.recompute_grad` or `keras.remat` wraps draws anew where it is recomputed, as it does
            for `keras.layers.Dropout`; a layer made in a `keras.RematScope` does not.
        **kwargs: As for every Keras layer.

    Call arguments:
        inputs: `[embeddings, inputs, label_idx]`: the table of all classes, [V, D], numbered from
            the most to the least frequent, with V static; what is scored against it, [B, D]; and
            the labels, [B, 1] or [B], integers in 0 .. V - 1. The table may be a variable: its
            gradient then is a `tf.IndexedSlices` over the rows that were touched. It may come in
            shards, as in the function.

    Returns:
        The losses, [B, 1]. A model whose output they are takes `fastneg.losses.OutputLoss()` as its
        loss.

    Example:
        >>> layer = fastneg.layers.SampledSoftmaxLayer(num_sampled=10)
        >>> table = tf.Variable(tf.random.normal([100, 8]))
        >>> layer([table, tf.random.normal([4, 8]), tf.constant([[3], [0], [99], [3]])]).shape
        TensorShape([4, 1])
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("num_sampled", "remove_accidental_hits", "seed")

    def __init__(
        self,
        num_sampled: int = 5,
        remove_accidental_hits: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Stores the options, which are checked when the layer is called."""
        super().__init__(**kwargs)
        self.num_sampled = num_sampled
        self.remove_accidental_hits = remove_accidental_hits
        self.seed = seed

    def __call__(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Calls the layer with a table that a saved model can have."""
        embeddings, *others = inputs
        shards = list(embeddings) if isinstance(embeddings, (list, tuple)) else [embeddings]
        if any(_is_symbol(other) for other in others) and not all(map(_is_symbol, shards)):
            raise ValueError(
                "`embeddings` must be the output of a layer in a functional model, where Keras "
                "would save any other table as a constant of the model. "
                "`fastneg.layers.SampledSoftmaxEmbedding(num_classes, embedding_dim, num_sampled)` "
                "owns a table, looks rows up and computes this loss. "
                f"Received: {', '.join(_description(shard) for shard in shards)}."
            )
        # Keras would make a tensor of its variables, which means reading all of them.
        shards = [unwrapped(shard) for shard in shards]
        return super().__call__([shards if len(shards) > 1 else shards[0], *others], **kwargs)

    def call(self, inputs: Sequence[Any]) -> tf.Tensor:
        """Returns the losses, [B, 1]."""
        embeddings, scored, label_idx = inputs
        shards = embeddings if isinstance(embeddings, list) else [embeddings]
        losses = sampled_softmax_loss(
            embeddings,
            None,
            label_idx,
            scored,
            num_sampled=self.num_sampled,
            num_classes=sum(_num_rows(shard) for shard in shards),
            remove_accidental_hits=self.remove_accidental_hits,
            seed=self.seed,
        )
        return losses[:, None]

    def compute_output_shape(self, input_shape: Sequence[Any]) -> tuple[int | None, int]:
        """Returns the shape of the losses, (B, 1)."""
        return (input_shape[1][0], 1)

    def compute_output_spec(self, inputs: Sequence[Any]) -> keras.KerasTensor:
        """Returns the losses as a symbol."""
        return loss_spec((inputs[1].shape[0], 1), inputs[1])


def _is_symbol(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def _num_rows(table: Any) -> int:
    shape = tf.TensorShape(table.shape)
    if not shape.rank or shape[0] is None:
        raise ValueError(
            "`embeddings` must have a static number of rows, [num_classes, embedding_dim]. "
            f"Received: {validation.shape_text(shape)}."
        )
    return int(shape[0])


def _description(value: Any) -> str:
    return f"{type(value).__name__} of shape {getattr(value, 'shape', 'unknown')}"
