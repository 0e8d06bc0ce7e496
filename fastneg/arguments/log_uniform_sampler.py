"""The log-uniform candidate sampler in operations that XLA compiles, and that may be stateless."""

import tensorflow as tf

from fastneg.arguments.seeds import Seed


def log_uniform_sample(
    true_classes: tf.Tensor, num_sampled: int, num_classes: int, seed: Seed
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`tf.random.log_uniform_candidate_sampler` with unique samples, for XLA or a stateless seed.

    Class c is drawn with probability log((c + 2) / (c + 1)) / log(V + 1). Draws are repeated until
    S different classes have come; with n > S draws a class is expected 1 - (1 - p)^n times. That is
    TensorFlow's sampler, whose operation XLA does not have; the numbers drawn are others. (XLA has
    random numbers of its own, for which a seed need not have the effect that it has elsewhere.)

    Draws come in blocks of a fixed size. For every class the place of its first draw is kept, so a
    draw is new where it is the first of its class.

    Args:
        true_classes: [B, num_true], int64, in 0 .. V - 1.
        num_sampled: S <= V.
        num_classes: V.
        seed: See `Seed`.

    Returns:
        Sampled classes [S], int64, and the expected counts of `true_classes` and of the samples.
    """
    block = max(2 * num_sampled, 64)
    never = tf.int32.max
    log_range = tf.math.log(tf.constant(num_classes + 1, tf.float64))

    def draw_block(
        num_found: tf.Tensor,
        num_drawn: tf.Tensor,
        num_tries: tf.Tensor,
        first_draw: tf.Tensor,
        samples: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        if isinstance(seed, tf.Tensor):
            block_seed = tf.random.fold_in(seed, num_drawn)
            uniform = tf.random.stateless_uniform([block], block_seed, dtype=tf.float64)
        else:
            uniform = tf.random.uniform([block], seed=seed, dtype=tf.float64)
        drawn = tf.cast(tf.exp(uniform * log_range), tf.int32) - 1
        drawn = tf.clip_by_value(drawn, 0, num_classes - 1)
        places = num_drawn + tf.range(block)
        first_draw = tf.tensor_scatter_nd_min(first_draw, drawn[:, tf.newaxis], places)
        new = tf.equal(tf.gather(first_draw, drawn), places)
        rank = num_found + tf.cumsum(tf.cast(new, tf.int32)) - 1
        # Draws that are not new, or come too late, go to a place behind the last sample.
        slots = tf.where(new & (rank < num_sampled), rank, num_sampled)
        samples = tf.tensor_scatter_nd_update(samples, slots[:, tf.newaxis], drawn)
        last = new & (rank == num_sampled - 1)
        num_tries += tf.reduce_sum(tf.where(last, places + 1, 0))
        return rank[-1] + 1, num_drawn + block, num_tries, first_draw, samples

    _, _, num_tries, _, samples = tf.while_loop(
        lambda num_found, *_: num_found < num_sampled,
        draw_block,
        (
            tf.constant(0),
            tf.constant(0),
            tf.constant(0),
            tf.fill([num_classes], never),
            tf.zeros([num_sampled + 1], tf.int32),
        ),
    )

    def expected_count(classes: tf.Tensor) -> tf.Tensor:
        classes = tf.cast(classes, tf.float64)
        probability = tf.math.log1p(1 / (classes + 1)) / log_range
        tries = tf.cast(num_tries, tf.float64)
        count = -tf.math.expm1(tries * tf.math.log1p(-probability))
        # TensorFlow's own exception, for draws of which none had to be repeated.
        count = tf.where(tf.equal(num_tries, num_sampled), tries * probability, count)
        return tf.cast(count, tf.float32)

    sampled = tf.cast(samples[:num_sampled], tf.int64)
    return sampled, expected_count(true_classes), expected_count(sampled)
