"""The arguments of `sampled_softmax_loss`."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.arguments.common import Arguments
from fastneg.arguments.log_uniform_sampler import log_uniform_sample
from fastneg.arguments.seeds import Seed, seed_of_replica
from fastneg.arguments.tables import table


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledSoftmaxArguments(Arguments):
    """What `sampled_softmax_loss` was given, as every backend takes it.

    The compute dtype is float64 for float64 inputs and float32 for all others. A backend raises
    tf.errors.InvalidArgumentError where run-time shapes disagree, or a label or a sample is not in
    0 .. V - 1.

    Args:
        num_sampled: How many samples there are, or are to be drawn.
        sampled_values: Samples and expected counts, or None for drawing them.
        seed: For drawing them.

    Attributes:
        weights: The table [V, D] in shards, each a variable or a tensor; one or more.
        biases: As the table, [V], or None.
        labels: [B, num_true], int64.
        inputs: [B, D], float16, bfloat16, float32 or float64.
        num_classes: V.
        num_true: At least 1.
        remove_accidental_hits: Whether samples that are labels of a row are left out of its loss.
        sampled: [S], int64.
        true_expected_count: [B, num_true] in the compute dtype, a constant for differentiation.
        sampled_expected_count: [S], likewise.
    """

    weights: list[Any]
    biases: list[Any] | None
    labels: tf.Tensor
    inputs: tf.Tensor
    num_sampled: InitVar[int]
    num_classes: int
    num_true: int
    sampled_values: InitVar[Sequence[Any] | None]
    remove_accidental_hits: bool
    seed: InitVar[Seed]
    sampled: tf.Tensor = field(init=False)
    true_expected_count: tf.Tensor = field(init=False)
    sampled_expected_count: tf.Tensor = field(init=False)

    def __post_init__(
        self, num_sampled: int, sampled_values: Sequence[Any] | None, seed: Seed
    ) -> None:
        """Converts, checks what static shapes tell, and draws the samples where none are given."""
        num_classes = validation.positive_integer("num_classes", self.num_classes)
        num_true = validation.positive_integer("num_true", self.num_true)
        num_sampled = validation.num_negatives("num_sampled", num_sampled)
        if sampled_values is None and num_sampled > num_classes:
            raise ValueError(
                f"`num_sampled` must be at most `num_classes`, {num_classes}: samples are unique. "
                f"Received: {num_sampled}."
            )
        inputs = validation.embeddings("inputs", self.inputs)
        width = inputs.shape[1] if inputs.shape.rank == 2 else None
        weights = table("weights", self.weights, num_classes, [width])
        biases = self.biases
        if biases is not None:
            biases = table("biases", biases, num_classes, [])
        labels = _labels(self.labels, num_true)
        batch_size = validation.static_batch_size(inputs, labels)
        for name, value in (("inputs", inputs), ("labels", labels)):
            if value.shape.rank and value.shape[0] not in (batch_size, None):
                raise ValueError(
                    f"`{name}` must have one row for each of the batch, {batch_size}. "
                    f"Received: {value.shape.as_list()}."
                )
        if sampled_values is None:
            seed = seed_of_replica(seed)
            sampled_values = _draw(labels, num_true, num_sampled, num_classes, seed)
        sampled, true_expected_count, sampled_expected_count = _samples(
            sampled_values, labels, num_true, num_sampled, validation.compute_dtype(inputs.dtype)
        )
        self._settle(
            weights=weights,
            biases=biases,
            labels=labels,
            inputs=inputs,
            num_classes=num_classes,
            num_true=num_true,
            remove_accidental_hits=validation.flag(
                "remove_accidental_hits", self.remove_accidental_hits
            ),
            sampled=sampled,
            true_expected_count=true_expected_count,
            sampled_expected_count=sampled_expected_count,
        )


def _labels(labels: Any, num_true: int) -> tf.Tensor:
    """Integers [B, num_true]; of unknown rank only where the argument is."""
    labels = validation.integer_ids("labels", labels)
    rank = labels.shape.rank
    if rank == 1 and num_true == 1:
        return labels[:, tf.newaxis]
    if rank is not None and (rank != 2 or labels.shape[1] not in (num_true, None)):
        column = " or [batch_size]" if num_true == 1 else ""
        raise ValueError(
            f"`labels` must have shape [batch_size, {num_true}]{column}. "
            f"Received: {labels.shape.as_list()}."
        )
    return labels


def _draw(
    labels: tf.Tensor, num_true: int, num_sampled: int, num_classes: int, seed: Seed
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    if labels.shape.rank != 2 or labels.shape[1] != num_true:
        labels = tf.reshape(labels, [-1, num_true])
    # Labels that are no classes are for the backend to report. (The public function takes several
    # times as long when called eagerly.)
    classes = tf.raw_ops.ClipByValue(t=labels, clip_value_min=0, clip_value_max=num_classes - 1)
    if in_xla() or isinstance(seed, tf.Tensor):
        return log_uniform_sample(classes, num_sampled, num_classes, seed)
    return tf.random.log_uniform_candidate_sampler(  # type: ignore[no-any-return]
        true_classes=classes,
        num_true=num_true,
        num_sampled=num_sampled,
        unique=True,
        range_max=num_classes,
        seed=seed,
    )


def _samples(
    sampled_values: Sequence[Any],
    labels: tf.Tensor,
    num_true: int,
    num_sampled: int,
    dtype: tf.DType,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Sampled classes [S], and expected counts [B, num_true] and [S] in the compute dtype."""
    if not isinstance(sampled_values, (tuple, list)) or len(sampled_values) != 3:
        raise ValueError(
            "`sampled_values` must be a tuple (sampled classes, expected counts of the labels, "
            f"expected counts of the samples). Received: {sampled_values!r}."
        )
    sampled = validation.integer_ids("sampled_values[0]", sampled_values[0])
    if not _has_size(sampled, num_sampled):
        raise ValueError(
            f"`sampled_values[0]` must have shape [num_sampled], [{num_sampled}]. "
            f"Received: {sampled.shape.as_list()}."
        )
    sampled = tf.ensure_shape(sampled, [num_sampled]) if in_xla() else sampled
    true_count = validation.real_tensor("sampled_values[1]", sampled_values[1], dtype)
    sampled_count = validation.real_tensor("sampled_values[2]", sampled_values[2], dtype)

    rank = true_count.shape.rank
    if rank == 0:
        true_count = tf.fill(tf.shape(labels), true_count)
    elif rank == 1 and num_true == 1:
        true_count = true_count[:, tf.newaxis]
    elif rank == 2 and true_count.shape[1] == 1:
        true_count = true_count if num_true == 1 else tf.tile(true_count, [1, num_true])
    if not true_count.shape.is_compatible_with(
        labels.shape if labels.shape.rank else [None, num_true]
    ):
        raise ValueError(
            f"`sampled_values[1]` must have shape [batch_size, {num_true}], [batch_size, 1] or "
            f"[], with the batch size of `labels`. Received: {list(sampled_values[1].shape)}."
        )
    if sampled_count.shape.rank == 0:
        sampled_count = tf.fill([num_sampled], sampled_count)
    if not _has_size(sampled_count, num_sampled):
        raise ValueError(
            f"`sampled_values[2]` must have shape [num_sampled], [{num_sampled}], or []. "
            f"Received: {sampled_count.shape.as_list()}."
        )
    return sampled, true_count, sampled_count


def _has_size(vector: tf.Tensor, size: int) -> bool:
    """Whether the static shape may be [size]; in a third of the time of `is_compatible_with`."""
    shape = vector.shape
    return shape.rank is None or (shape.rank == 1 and shape[0] in (size, None))
