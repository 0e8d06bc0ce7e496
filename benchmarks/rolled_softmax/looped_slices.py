"""The fastest TensorFlow formulation we know: windows of the doubled matrices, gradient by hand.

It takes what automatic differentiation and a first writing leave on the table: scores are laid out
[K, B], so that the softmax needs no transposition; the known bound of a cosine replaces the running
maximum; the gradient reads windows as the forward pass does, where differentiation would pad and
add; and shifts are worked on in blocks of 16, so that XLA fuses 16 windows into one pass over the
batch but compiles one block only, whatever K is.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rolled_softmax.workloads import GAMMA, MARGIN, T

BLOCK = 16


def looped_slices(
    user_emb: tf.Tensor, item_emb: tf.Tensor, labels: tf.Tensor, shifts: tf.Tensor
) -> tf.Tensor:
    """Loss whose unit gradients are computed beside it."""
    user = tf.nn.l2_normalize(user_emb, axis=-1)
    item = tf.nn.l2_normalize(item_emb, axis=-1)

    @tf.custom_gradient
    def loss_with_gradient(user: tf.Tensor, item: tf.Tensor):
        counted = tf.cast(labels > 0, user.dtype)
        row_weight = tf.math.divide_no_nan(counted, tf.reduce_sum(counted))
        doubled_user = tf.concat([user, user], axis=0)
        doubled_item = tf.concat([item, item], axis=0)
        positive = tf.reduce_sum(user * item, axis=1)
        negatives = _scores(user, doubled_item, shifts)
        row_losses, by_positive, by_negative = _row_losses(positive, negatives, row_weight)
        grad_user, grad_item = _embedding_gradients(doubled_user, doubled_item, by_negative, shifts)
        grad_user += by_positive[:, None] * item
        grad_item += by_positive[:, None] * user
        loss = tf.reduce_sum(row_losses * row_weight)
        return loss, lambda upstream: (upstream * grad_user, upstream * grad_item)

    return loss_with_gradient(user, item)


def _scores(user: tf.Tensor, doubled_item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Scores of the negatives, [K, B]."""
    shape = user.shape

    def block(first: tf.Tensor | int, size: int) -> tf.Tensor:
        offsets = tf.unstack(shape[0] - tf.slice(shifts, [first], [size]))
        return tf.stack(
            [
                tf.reduce_sum(user * tf.slice(doubled_item, [offset, 0], shape), axis=1)
                for offset in offsets
            ]
        )

    num_blocks, rest = divmod(shifts.shape[0], BLOCK)
    parts = []
    if num_blocks:
        scores = tf.TensorArray(user.dtype, num_blocks, element_shape=[BLOCK, shape[0]])
        (scores,) = _repeat(
            num_blocks, lambda i, scores: (scores.write(i, block(i * BLOCK, BLOCK)),), (scores,)
        )
        parts.append(scores.concat())
    if rest:
        parts.append(block(num_blocks * BLOCK, rest))
    return tf.concat(parts, axis=0)


def _row_losses(
    positive: tf.Tensor, negatives: tf.Tensor, row_weight: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Row losses [B] and d loss / d cosine of the positive [B] and of the negatives [K, B]."""
    bound = GAMMA * max(1 - MARGIN, 2 * T - 1)
    positive = positive - MARGIN
    hard = positive < negatives
    logits = GAMMA * tf.where(hard, T * negatives + (T - 1), negatives)
    exponentials = tf.exp(logits - bound)
    positive_exponential = tf.exp(GAMMA * positive - bound)
    total = positive_exponential + tf.reduce_sum(exponentials, axis=0)
    scale = GAMMA * row_weight / total
    return (
        tf.math.log(total) + bound - GAMMA * positive,
        scale * positive_exponential - GAMMA * row_weight,
        exponentials * scale * tf.where(hard, T, 1.0),
    )


def _embedding_gradients(
    doubled_user: tf.Tensor, doubled_item: tf.Tensor, by_negative: tf.Tensor, shifts: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Both gradients through the negatives; item j gathers user rows j + shift."""
    batch_size = doubled_user.shape[0] // 2
    shape = [batch_size, doubled_user.shape[1]]
    doubled_weights = tf.concat([by_negative, by_negative], axis=1)

    def window(doubled: tf.Tensor, k: tf.Tensor, weight_start: tf.Tensor | int, start: tf.Tensor):
        weights = tf.slice(doubled_weights, [k, weight_start], [1, batch_size])
        return tf.transpose(weights) * tf.slice(doubled, [start, 0], shape)

    def block(first: tf.Tensor | int, size: int) -> tuple[tf.Tensor, tf.Tensor]:
        block_shifts = list(enumerate(tf.unstack(tf.slice(shifts, [first], [size]))))
        return (
            tf.add_n([window(doubled_item, first + k, 0, batch_size - s) for k, s in block_shifts]),
            tf.add_n([window(doubled_user, first + k, s, s) for k, s in block_shifts]),
        )

    def add_block(i: tf.Tensor, grad_user: tf.Tensor, grad_item: tf.Tensor):
        more_user, more_item = block(i * BLOCK, BLOCK)
        return grad_user + more_user, grad_item + more_item

    num_blocks, rest = divmod(shifts.shape[0], BLOCK)
    grads = (tf.zeros(shape, doubled_user.dtype), tf.zeros(shape, doubled_user.dtype))
    if num_blocks:
        grads = _repeat(num_blocks, add_block, grads)
    if rest:
        grad_user, grad_item = block(num_blocks * BLOCK, rest)
        grads = (grads[0] + grad_user, grads[1] + grad_item)
    return grads


def _repeat(times: int, body: Callable[..., tuple], state: tuple) -> tuple:
    result = tf.while_loop(
        lambda i, *_: i < times,
        lambda i, *state: (i + 1, *body(i, *state)),
        (0, *state),
        maximum_iterations=times,
        parallel_iterations=1,
    )
    return tuple(result[1:])
