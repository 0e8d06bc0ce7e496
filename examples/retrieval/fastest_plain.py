"""The two losses in the fastest plain TensorFlow that we know: loss and gradients, one XLA program.

They compute what `fastneg.reference` does, for the options that the two-tower example has.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

_MAX_WINDOWS = 16  # So many XLA makes one pass over the batch of; more take it long to compile.
_SMALLEST_PROBABILITY = 1e-9


def as_one_program(loss: Callable[..., tf.Tensor], batch_size: int) -> Callable[..., tf.Tensor]:
    """Compiles a loss of batches of one size together with its gradients by both embeddings.

    Left to itself TensorFlow would compile a program for the loss and one for the gradients, and
    all that the second needs of the first would be written to memory in between.
    """

    @tf.function(jit_compile=True)
    def loss_and_gradients(user_emb, item_emb, *constants, **options):
        with tf.GradientTape() as tape:
            tape.watch((user_emb, item_emb))
            value = loss(user_emb, item_emb, *constants, **options)
        return value, tape.gradient(value, (user_emb, item_emb))

    def compiled(user_emb, item_emb, *constants, **options):
        @tf.custom_gradient
        def with_gradients(user_emb, item_emb):
            embeddings = map(tf.stop_gradient, (user_emb, item_emb))  # Nothing else is recorded.
            value, gradients = loss_and_gradients(*embeddings, *constants, **options)
            return value, lambda upstream: [upstream * gradient for gradient in gradients]

        shape = [batch_size, None]  # Slices of a static size are what XLA has.
        return with_gradients(tf.ensure_shape(user_emb, shape), tf.ensure_shape(item_emb, shape))

    return compiled


def rolled_softmax_loss(
    user_emb, item_emb, labels, *, gamma, shifts, candidate_sampling_probability
):
    """`softmax_loss_with_negative_mining`; scores are [K, B], so that nothing is transposed."""
    shifts = tf.cast(shifts, tf.int32)
    user, item = tf.nn.l2_normalize(user_emb, axis=1), tf.nn.l2_normalize(item_emb, axis=1)
    positive = gamma * tf.reduce_sum(user * item, axis=1)
    negatives = gamma * _rolled_scores(user, item, shifts)
    if candidate_sampling_probability is not None:
        log_q = tf.math.log(tf.maximum(candidate_sampling_probability, _SMALLEST_PROBABILITY))
        rows = tf.range(user.shape[0]) - shifts[:, None]
        positive -= log_q
        negatives -= tf.gather(log_q, rows % user.shape[0])
    losses = tf.math.softplus(tf.reduce_logsumexp(negatives, axis=0) - positive)
    counted = tf.cast(labels > 0, losses.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(losses * counted), tf.reduce_sum(counted))


@tf.custom_gradient
def _rolled_scores(user, item, shifts):
    """Products [K, B] of user i and item i - shift, and their gradients.

    A roll is a window of the doubled matrix. The gradients read windows too, where differentiation
    would pad each one and add it up.
    """
    size, width = user.shape
    users, items = tf.concat([user, user], axis=0), tf.concat([item, item], axis=0)

    def window(doubled, start):
        return tf.slice(doubled, [start, 0], [size, width])

    def score(i, block, scores):
        windows = [window(items, size - shift) for shift in block]
        products = tf.stack([tf.reduce_sum(user * rows, axis=1) for rows in windows])
        return (scores.write(i, products),)

    def gradients(upstream):
        weights = tf.reshape(upstream, [-1, num_windows, size])

        def add(i, block, *sums):
            by_user, by_item = [sums[0]], [sums[1]]
            for shift, weight in zip(block, tf.unstack(weights[i]), strict=True):
                by_user.append(weight[:, None] * window(items, size - shift))
                # Item j was a negative of user j + shift.
                by_item.append(tf.roll(weight, -shift, axis=0)[:, None] * window(users, shift))
            return tf.add_n(by_user), tf.add_n(by_item)

        zeros = (tf.zeros_like(user), tf.zeros_like(item))
        return *_for_each_block(shifts, num_windows, add, zeros), None

    num_windows = math.gcd(shifts.shape[0], _MAX_WINDOWS)
    array = tf.TensorArray(
        user.dtype, shifts.shape[0] // num_windows, element_shape=[num_windows, size]
    )
    (scores,) = _for_each_block(shifts, num_windows, score, (array,))
    return scores.concat(), gradients


def _for_each_block(shifts, block_size, body, state):
    """Makes `state` of `body(i, shifts of block i, *state)`, block after block.

    The shifts are rotated as part of the state. Where a slice begins, XLA wants a constant if the
    loop does not change it, and would compile the program anew for each batch.
    """
    num_blocks = shifts.shape[0] // block_size

    def step(i, rotated, *state):
        block = tf.unstack(rotated[:block_size])
        return i + 1, tf.roll(rotated, -block_size, axis=0), *body(i, block, *state)

    start = (0, shifts, *state)
    _, _, *state = tf.while_loop(
        lambda i, *_: i < num_blocks, step, start, maximum_iterations=num_blocks
    )
    return state


def in_batch_softmax_loss(
    user_emb,
    item_emb,
    *,
    sample_weight,
    temperature,
    normalize,
    candidate_sampling_probability,
    candidate_ids,
    positive_in_softmax,
    negative_weight,
    correction,
):
    """`in_batch_softmax_loss`; the positive's score is a product of its own, off the diagonal."""
    refined = correction == "refined"
    if normalize:
        user_emb, item_emb = (tf.nn.l2_normalize(rows, axis=1) for rows in (user_emb, item_emb))
    own = tf.reduce_sum(user_emb * item_emb, axis=1) / temperature
    logits = tf.matmul(user_emb, item_emb, transpose_b=True) / temperature
    if candidate_sampling_probability is not None:
        probability = tf.clip_by_value(candidate_sampling_probability, _SMALLEST_PROBABILITY, 1)
        log_q = tf.math.log(probability)
        logits -= log_q
        if refined:
            others = tf.math.log(tf.maximum(1 - probability, _SMALLEST_PROBABILITY))
            logits += others[:, None]
        else:
            own -= log_q
    negative = tf.not_equal(candidate_ids[:, None], candidate_ids)
    logits = tf.where(negative, logits, -math.inf)
    log_sum = tf.reduce_logsumexp(logits, axis=1)
    if positive_in_softmax and not refined:
        losses = tf.math.softplus(log_sum - own)
    else:
        losses = negative_weight * log_sum - own
    if refined:
        count = tf.math.count_nonzero(negative, axis=1, dtype=losses.dtype)
        losses *= tf.stop_gradient(tf.sigmoid(log_sum - tf.math.log(count) - own))
    num_rows = tf.math.count_nonzero(sample_weight, dtype=losses.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(sample_weight * losses), num_rows)
