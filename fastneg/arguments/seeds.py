"""Seeds of what a loss draws."""

import tensorflow as tf

from fastneg import validation

# Odd, so that no two replicas share a seed; large, so that neighbouring seeds stay apart.
_STEP = 0x9E3779B1


def seed_of_replica(value: int | None) -> int | None:
    """Checks the argument `seed`; returns one that differs between the replicas of a strategy.

    Replicas run the same program. With the same seed, the function's or that of
    `tf.random.set_seed`, all of them would draw the same negatives. The first replica's draws are
    those of a program without a strategy.
    """
    seed = validation.seed("seed", value)
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return seed
    replica = tf.get_static_value(context.replica_id_in_sync_group)
    if not replica:  # The first one, or on a TPU one that is known later.
        return seed
    _, op_seed = tf.compat.v1.get_seed(seed)
    return None if op_seed is None else (op_seed + int(replica) * _STEP) % 2**31
