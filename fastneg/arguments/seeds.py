"""Seeds of what a loss draws, and the draws of integers."""

from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from fastneg import validation

# None or a number: each draw differs from the one before, as in `tf.random.uniform`. A tensor [2],
# int64: a draw depends on nothing else, as in `tf.random.stateless_uniform`.
Seed: TypeAlias = int | tf.Tensor | None

# Odd, so that no two replicas share a seed; large, so that neighbouring seeds stay apart.
_STEP = 0x9E3779B1


def seed_of_replica(value: Any) -> Seed:
    """Checks the argument `seed`; returns one that differs between the replicas of a strategy.

    Replicas run the same program. With the same seed, the function's or that of
    `tf.random.set_seed`, all of them would draw the same negatives. The first replica's draws are
    those of a program without a strategy.
    """
    seed = _checked(value)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    replica = tf.get_static_value(context.replica_id_in_sync_group)
    if not replica:  # The first one, or on a TPU one that is known later.
        return seed
    if isinstance(seed, tf.Tensor):
        return tf.random.fold_in(seed, tf.constant(int(replica), tf.int64))
    _, op_seed = tf.compat.v1.get_seed(seed)
    return None if op_seed is None else (op_seed + int(replica) * _STEP) % 2**31


def _checked(value: Any) -> Seed:
    if value is None:
        return None
    if validation.is_integer(value):
        return int(value)
    if isinstance(value, (tf.Tensor, tf.Variable, list, tuple)) or getattr(value, "ndim", 0) == 1:
        pair = validation.to_tensor("seed", value, dtype_hint=tf.int64)
        if pair.dtype in (tf.int32, tf.int64) and pair.shape.is_compatible_with([2]):
            return tf.ensure_shape(tf.cast(pair, tf.int64), [2])
    raise ValueError(
        f"`seed` must be a Python integer or None, or two integers, [2]. Received: {value!r}."
    )


def uniform_integers(count: int, low: int, high: Any, seed: Seed) -> tf.Tensor:
    """Draws [count], int64, in low .. high - 1, by one operation, so that a seed equates no two."""
    # Called eagerly, the operation takes arrays in a third less time than numbers made tensors.
    shape, lowest = np.array([count], np.int32), np.array(low, np.int64)
    limit = high if isinstance(high, tf.Tensor) else np.array(high, np.int64)
    if isinstance(seed, tf.Tensor):
        return tf.random.stateless_uniform(shape, seed, lowest, limit, tf.int64)
    graph_seed, op_seed = tf.compat.v1.get_seed(seed)
    return tf.raw_ops.RandomUniformInt(
        shape=shape, minval=lowest, maxval=limit, seed=graph_seed or 0, seed2=op_seed or 0
    )
