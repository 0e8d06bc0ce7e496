"""The sampled softmax loss in plain TensorFlow."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.arguments.sampled_softmax import SampledSoftmaxArguments
from fastneg.reference.checks import compilable, compilable_vector, dimension
from fastneg.reference.sampled_softmax_checks import checked, is_valid
from fastneg.reference.table import distinct, gather, gather_dense

# Not -inf: the cross entropy multiplies logits by targets of 0. There is room for what is added.
_LOWEST_LOGIT = tf.float32.min / 2


def sampled_softmax_loss(
    weights: Any,
    biases: Any,
    labels: Any,
    inputs: Any,
    num_sampled: int,
    num_classes: int,
    num_true: int = 1,
    sampled_values: Sequence[Any] | None = None,
    remove_accidental_hits: bool = True,
    seed: Any = None,
    name: str | None = None,
) -> tf.Tensor:
    """`fastneg.sampled_softmax_loss` in plain TensorFlow.

    The fused function describes the arguments. Unlike it, this one has derivatives of every order.

    Args:
        weights: See the fused function.
        biases: See the fused function.
        labels: See the fused function.
        inputs: See the fused function.
        num_sampled: See the fused function.
        num_classes: See the fused function.
        num_true: See the fused function.
        sampled_values: See the fused function.
        remove_accidental_hits: See the fused function.
        seed: See the fused function.
        name: See the fused function.

    Returns:
        The losses, [B].
    """
    with tf.name_scope(name or "sampled_softmax_loss"):
        arguments = SampledSoftmaxArguments(
            weights=weights,
            biases=biases,
            labels=labels,
            inputs=inputs,
            num_sampled=num_sampled,
            num_classes=num_classes,
            num_true=num_true,
            sampled_values=sampled_values,
            remove_accidental_hits=remove_accidental_hits,
            seed=seed,
        )
        return sampled_softmax(arguments)


def sampled_softmax(arguments: SampledSoftmaxArguments) -> tf.Tensor:
    """The composition itself."""
    given = arguments
    num_true, num_classes = arguments.num_true, arguments.num_classes
    if in_xla():
        # XLA cannot raise: there invalid ids make the losses NaN.
        labels = tf.ensure_shape(arguments.labels, [None, num_true])
        arguments = arguments.replaced(
            labels=tf.clip_by_value(labels, 0, num_classes - 1),
            sampled=tf.clip_by_value(arguments.sampled, 0, num_classes - 1),
        )
    else:
        arguments = checked(arguments)
    labels, inputs, sampled = arguments.labels, arguments.inputs, arguments.sampled
    true_expected_count = arguments.true_expected_count
    sampled_expected_count = arguments.sampled_expected_count
    dtype = validation.compute_dtype(inputs.dtype)
    inputs = tf.cast(tf.ensure_shape(inputs, [None, None]), dtype)
    num_labels = tf.size(labels)
    # Each row is gathered once, so that its gradient comes once: optimizers need no less.
    ids, places = distinct(tf.concat([tf.reshape(labels, [-1]), sampled], axis=0))
    rows = tf.cast(gather(arguments.weights, ids), dtype)
    if in_xla():
        num_rows, num_sampled = dimension(labels, 0), dimension(sampled, 0)
        inputs = compilable(inputs, num_rows, dimension(rows, 1))
        true_expected_count = compilable(
            tf.reshape(true_expected_count, [-1, num_true]), num_rows, num_true
        )
        sampled_expected_count = compilable_vector(sampled_expected_count, num_sampled)
    rows = gather_dense(rows, places)
    true_rows, sampled_rows = rows[:num_labels], rows[num_labels:]
    true_rows = tf.reshape(true_rows, [-1, num_true, tf.shape(inputs)[1]])
    true_offsets = -tf.math.log(tf.stop_gradient(true_expected_count))
    sampled_offsets = -tf.math.log(tf.stop_gradient(sampled_expected_count))
    if arguments.biases is not None:
        bias_rows = gather_dense(tf.cast(gather(arguments.biases, ids), dtype), places)
        true_offsets += tf.reshape(bias_rows[:num_labels], [-1, num_true])
        sampled_offsets += bias_rows[num_labels:]

    def remove_hits(logits: tf.Tensor) -> tf.Tensor:
        if not arguments.remove_accidental_hits:
            return logits
        remove = _remove_hits_in_xla if in_xla() else _remove_hits
        return remove(logits, labels, sampled, num_true)

    losses = _row_losses(
        inputs, true_rows, sampled_rows, true_offsets, sampled_offsets, remove_hits=remove_hits
    )
    if in_xla():
        valid = is_valid(given.labels, given.sampled, num_classes)
        losses = tf.where(valid, losses, tf.constant(math.nan, dtype))
    return losses


def _row_losses(
    inputs: tf.Tensor,
    true_rows: tf.Tensor,
    sampled_rows: tf.Tensor,
    true_offsets: tf.Tensor,
    sampled_offsets: tf.Tensor,
    *,
    remove_hits: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """The rows' cross entropies.

    Their derivative is TensorFlow's but for rows with an upstream gradient of 0: such a row adds
    nothing, even if it holds NaN, which times 0 is NaN.

    Args:
        inputs: [B, D].
        true_rows: [B, num_true, D], the table's rows of the labels.
        sampled_rows: [S, D].
        true_offsets: [B, num_true], what is added to the products.
        sampled_offsets: [S]. With -inf a candidate stands for none.
        remove_hits: Lowers accidental hits among the sampled logits, [B, S].
    """

    def losses_of(
        inputs: tf.Tensor,
        true_rows: tf.Tensor,
        sampled_rows: tf.Tensor,
        true_offsets: tf.Tensor,
        sampled_offsets: tf.Tensor,
    ) -> Any:
        true_logits = tf.einsum("bd,btd->bt", inputs, true_rows) + true_offsets
        lowest = tf.constant(_LOWEST_LOGIT, inputs.dtype)
        offsets = tf.where(sampled_offsets < lowest, lowest, sampled_offsets)
        sampled_logits = remove_hits(tf.matmul(inputs, sampled_rows, transpose_b=True) + offsets)
        num_true = tf.shape(true_logits)[1]
        targets = tf.concat(
            [
                tf.ones_like(true_logits) / tf.cast(num_true, inputs.dtype),
                tf.zeros_like(sampled_logits),
            ],
            axis=1,
        )
        logits = tf.concat([true_logits, sampled_logits], axis=1)
        losses, slopes = tf.raw_ops.SoftmaxCrossEntropyWithLogits(features=logits, labels=targets)

        def backward(upstream: tf.Tensor) -> list[tf.Tensor]:
            used = tf.not_equal(upstream, 0)[:, tf.newaxis]
            zero = tf.zeros([], inputs.dtype)
            grad_logits = tf.where(used, upstream[:, tf.newaxis] * slopes, zero)
            grad_true, grad_sampled = grad_logits[:, :num_true], grad_logits[:, num_true:]
            grad_inputs = tf.einsum("bt,btd->bd", grad_true, true_rows)
            grad_inputs += tf.matmul(grad_sampled, sampled_rows)
            used_inputs = tf.where(used, inputs, zero)
            return [
                tf.where(used, grad_inputs, zero),
                grad_true[:, :, tf.newaxis] * used_inputs[:, tf.newaxis, :],
                tf.matmul(grad_sampled, used_inputs, transpose_a=True),
                grad_true,
                tf.reduce_sum(grad_sampled, axis=0),
            ]

        return losses, backward

    return tf.custom_gradient(losses_of)(
        inputs, true_rows, sampled_rows, true_offsets, sampled_offsets
    )


def _remove_hits(
    logits: tf.Tensor, labels: tf.Tensor, sampled: tf.Tensor, num_true: int
) -> tf.Tensor:
    """Makes logits of samples that are labels of the row so low that nothing is left of them."""
    rows, positions, _ = tf.nn.compute_accidental_hits(labels, sampled, num_true=num_true)
    indices = tf.stack([tf.cast(rows, tf.int64), positions], axis=1)
    lowest = tf.fill(tf.shape(rows), tf.constant(_LOWEST_LOGIT, logits.dtype))
    return tf.tensor_scatter_nd_update(logits, indices, lowest)


def _remove_hits_in_xla(
    logits: tf.Tensor, labels: tf.Tensor, sampled: tf.Tensor, num_true: int
) -> tf.Tensor:
    """`_remove_hits` in operations that XLA compiles."""
    # Of equal samples TensorFlow removes the last one.
    order = tf.argsort(sampled, stable=True)
    ordered = tf.gather(sampled, order)
    last_in_order = tf.concat([tf.not_equal(ordered[1:], ordered[:-1]), [True]], axis=0)
    last = tf.scatter_nd(order[:, tf.newaxis], tf.cast(last_in_order, tf.int32), tf.shape(sampled))
    hits = tf.zeros_like(logits, tf.bool)
    for t in range(num_true):
        hits |= tf.equal(labels[:, t : t + 1], sampled)
    return tf.where(hits & (last > 0), tf.constant(_LOWEST_LOGIT, logits.dtype), logits)
