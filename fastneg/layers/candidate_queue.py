"""CandidateQueue: candidates of earlier batches as additional negatives."""

from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from fastneg import validation
from fastneg.layers.common import LossLayer

_OPTIONAL = ("candidate_ids", "candidate_sampling_probability")


@keras.saving.register_keras_serializable(package="fastneg")
class CandidateQueue(LossLayer):
    """Puts the candidates of earlier batches behind those of the batch, first in, first out.

        candidates = [batch_1 .. batch_B, queue_1 .. queue_capacity]

    The queue holds the last `capacity` candidates of earlier batches, the newest first, as they
    were when their batch was trained: no gradient reaches what computed them. With it a small batch
    has the negatives of a large one, for the price of the loss alone.

    What the layer returns are arguments of `fastneg.in_batch_softmax_loss` and
    `fastneg.layers.Retrieval`. Places that are not filled yet are out of the `candidate_mask`.
    Where ids are given, candidates of the queue with the id of a row's positive are no negatives of
    the row; `Retrieval` looks at ids with `remove_accidental_hits=True`.

    Only training changes the queue. Its state is not trained; it is saved with the model and
    restored with it.

    Under `tf.distribute` all replicas have one queue, that of the first one. Give it what
    `fastneg.distribute.gather_candidates` returns, which is the same everywhere.

    Args:
        capacity: How many candidates the queue holds, at least 1.
        **kwargs: As for every Keras layer. The embeddings must have the layer's compute dtype.

    Call arguments:
        candidate_embeddings: [B, D], in the compute dtype of the layer.
        candidate_ids: [B] integers; in every call or in none.
        candidate_sampling_probability: [B]; in every call or in none. Kept as float32.
        positives: The rows' own candidates, passed on as they are: those of the batch keep their
            places, in front.
        training: Whether the batch enters the queue. In `fit` it does, in `evaluate` and `predict`
            it does not; elsewhere it has to be said.

    Returns:
        A dictionary: `candidate_embeddings` [B + capacity, D], `candidate_mask` [B + capacity],
        and, where they were given, `candidate_ids`, int64, and `candidate_sampling_probability`,
        float32, both [B + capacity], and `positives`.

    Raises:
        ValueError: An argument or a static shape is wrong, or other arguments are given than in the
            first call.
        tf.errors.InvalidArgumentError: A run-time shape is wrong.

    Example:
        >>> queue = fastneg.layers.CandidateQueue(capacity=3)
        >>> first = queue(tf.constant([[1.0], [2.0]]), training=True)
        >>> then = queue(tf.constant([[3.0], [4.0]]), training=True)
        >>> then["candidate_embeddings"][:, 0].numpy()
        array([3., 4., 1., 2., 0.], dtype=float32)
        >>> then["candidate_mask"].numpy()
        array([ True,  True,  True,  True, False])
        >>> loss = fastneg.in_batch_softmax_loss(tf.ones([2, 1]), **then)

    Source:
        The memory of He et al., "Momentum contrast for unsupervised visual representation
        learning" (arXiv 1911.05722), and of Wang et al., "Cross-batch negative sampling for
        training two-tower recommenders" (arXiv 2110.15154).
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("capacity",)

    def __init__(self, capacity: int, **kwargs: Any) -> None:
        """Stores the capacity."""
        super().__init__(**kwargs)
        self.capacity = validation.positive_integer("capacity", capacity, 2**31 - 1)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer; lists become arrays, whose shapes Keras tells `build`."""
        for name in _OPTIONAL:
            if isinstance(kwargs.get(name), (list, tuple)):
                kwargs[name] = np.asarray(kwargs[name])
        return super().__call__(*args, **kwargs)

    def build(
        self,
        candidate_embeddings_shape: Any,
        candidate_ids_shape: Any = None,
        candidate_sampling_probability_shape: Any = None,
        positives_shape: Any = None,
    ) -> None:
        """Makes room for the candidates."""
        if len(candidate_embeddings_shape) != 2 or candidate_embeddings_shape[1] is None:
            raise ValueError(
                "`candidate_embeddings` must have shape [batch_size, embedding_dim] with a known "
                f"width. Received: {list(candidate_embeddings_shape)}."
            )
        width = candidate_embeddings_shape[1]
        self.embeddings = self._room("embeddings", (self.capacity, width), self.compute_dtype)
        self.ids = self.probability = None
        if candidate_ids_shape is not None:
            self.ids = self._room("ids", (self.capacity,), "int64")
        if candidate_sampling_probability_shape is not None:
            self.probability = self._room("probability", (self.capacity,), "float32")
        self.filled = self._room("filled", (), "int64")

    def _queue(self) -> dict[str, keras.Variable]:
        """The state, by the arguments that it is kept for.

        No attribute: checkpoints of TensorFlow do not see the variables in a dictionary.
        """
        queue = {
            "candidate_embeddings": self.embeddings,
            "candidate_ids": self.ids,
            "candidate_sampling_probability": self.probability,
        }
        return {name: kept for name, kept in queue.items() if kept is not None}

    def _room(self, name: str, shape: tuple[int, ...], dtype: str) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            # A probability of 0 would be refused nowhere, but its logarithm is large.
            initializer="ones" if name == "probability" else "zeros",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )

    def call(
        self,
        candidate_embeddings: Any,
        candidate_ids: Any = None,
        candidate_sampling_probability: Any = None,
        training: bool | None = None,
        positives: Any = None,
    ) -> dict[str, tf.Tensor]:
        """Returns the candidates of the batch and of the queue, and moves the queue on."""
        batch = self._batch(candidate_embeddings, candidate_ids, candidate_sampling_probability)
        queue, size = self._queue(), tf.shape(batch["candidate_embeddings"])[0]
        filled = tf.cast(tf.convert_to_tensor(self.filled), tf.int32)
        candidates = {
            name: tf.concat([values, tf.stop_gradient(tf.convert_to_tensor(queue[name]))], 0)
            for name, values in batch.items()
        }
        mask = tf.range(size + self.capacity) < size + filled
        if training:
            for name, values in candidates.items():
                queue[name].assign(tf.stop_gradient(values[: self.capacity]))
            self.filled.assign(tf.cast(tf.minimum(filled + size, self.capacity), tf.int64))
        if positives is not None:
            candidates["positives"] = validation.integer_ids("positives", positives)
        return {**candidates, "candidate_mask": mask}

    def _batch(self, embeddings: Any, ids: Any, probability: Any) -> dict[str, tf.Tensor]:
        """Checks what was given, and returns it by name."""
        embeddings = validation.embeddings("candidate_embeddings", embeddings)
        width = self.embeddings.shape[1]
        if not embeddings.shape.is_compatible_with([None, width]):
            raise ValueError(
                f"`candidate_embeddings` must have shape [batch_size, {width}], as in the first "
                f"call. Received: {validation.shape_text(embeddings.shape)}."
            )
        if embeddings.dtype != self.compute_dtype:
            raise ValueError(
                "`candidate_embeddings` must have the compute dtype of the layer, "
                f"{self.compute_dtype}; CandidateQueue(..., dtype=...) sets it. "
                f"Received: {embeddings.dtype.name}."
            )
        kept = self._queue()
        for name, value in zip(_OPTIONAL, (ids, probability), strict=True):
            if (value is not None) != (name in kept):
                asked = "given" if name in kept else "None"
                received = "None" if value is None else repr(value)
                raise ValueError(
                    f"`{name}` must be {asked}, as in the first call. Received: {received}."
                )
        size = validation.static_batch_size(embeddings)
        batch = {"candidate_embeddings": embeddings}
        if ids is not None:
            ids = batch["candidate_ids"] = validation.integer_ids("candidate_ids", ids)
            validation.per_row("candidate_ids", ids, size)
        if probability is not None:
            name = "candidate_sampling_probability"
            batch[name] = validation.real_tensor(name, probability, tf.float32)
            validation.per_row(name, batch[name], size)
        rows = tf.shape(embeddings)[0]
        if size is None and len(batch) > 1:
            checks = [
                tf.debugging.assert_equal(
                    tf.shape(value),
                    tf.stack([rows]),
                    f"`{name}` must have a row for each of `candidate_embeddings`.",
                )
                for name, value in batch.items()
                if name != "candidate_embeddings"
            ]
            with tf.control_dependencies([check for check in checks if check is not None]):
                batch = {name: tf.identity(value) for name, value in batch.items()}
        return batch

    def compute_output_spec(
        self,
        candidate_embeddings: Any,
        candidate_ids: Any = None,
        candidate_sampling_probability: Any = None,
        training: bool | None = None,
        positives: Any = None,
    ) -> dict[str, keras.KerasTensor]:
        """Returns the candidates as symbols."""
        rows, width = candidate_embeddings.shape
        rows = None if rows is None else rows + self.capacity
        spec = {"candidate_embeddings": keras.KerasTensor((rows, width), dtype=self.compute_dtype)}
        if candidate_ids is not None:
            spec["candidate_ids"] = keras.KerasTensor((rows,), dtype="int64")
        if candidate_sampling_probability is not None:
            spec["candidate_sampling_probability"] = keras.KerasTensor((rows,), dtype="float32")
        if positives is not None:
            spec["positives"] = keras.KerasTensor(positives.shape, dtype="int64")
        return {**spec, "candidate_mask": keras.KerasTensor((rows,), dtype="bool")}
