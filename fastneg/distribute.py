"""Candidates of all replicas of a tf.distribute strategy, as negatives for each one's queries."""

from typing import Any

import tensorflow as tf

from fastneg import validation


def gather_candidates(
    candidate_embeddings: Any, candidate_ids: Any = None, candidate_sampling_probability: Any = None
) -> dict[str, tf.Tensor]:
    """Gathers the candidates of all replicas, so that every query is classified among all of them.

    To be called by each replica, in the `strategy.run` of a training step or in a model that Keras
    trains under the strategy in force. With C_r candidates in replica r:

        candidates = [those of replica 0, ..., those of replica R - 1]
        positives  = C_0 + ... + C_{r-1} + [0 .. C_r - 1]   in replica r

    The gradient of a candidate is the sum of what all replicas find, and goes to the replica that
    it came from. With `reduction="sum"`, divided by the rows of all replicas, losses and the
    gradients of variables add up over replicas to those of one process with the global batch.
    Parts of the batch need not be of one size, and may be empty.

    Each replica receives the rows of all others. Gradients of all C_0 + ... + C_{R-1} rows are
    summed over replicas, an all-reduce of which each replica keeps its own rows: in a ring it
    receives twice as many of them as it received rows.

    What it returns are arguments of `fastneg.in_batch_softmax_loss` and
    `fastneg.layers.Retrieval`. Outside a strategy, or with one replica, that is what was given,
    with the positives 0 .. C - 1.

    Args:
        candidate_embeddings: [C, D], the replica's own candidates, one for each of its queries.
        candidate_ids: [C] integers, optional.
        candidate_sampling_probability: [C], optional. A constant for the gradient.

    Returns:
        A dictionary: `candidate_embeddings` [sum of C, D], `positives` [C], int64, and, where they
        were given, `candidate_ids`, int64, and `candidate_sampling_probability`, [sum of C].

    Raises:
        ValueError: An argument or a static shape is wrong, or the call is not made by a replica.
        tf.errors.InvalidArgumentError: A run-time shape is wrong.

    Example:
        >>> queries, items = tf.ones([2, 3]), tf.ones([2, 3])
        >>> candidates = fastneg.distribute.gather_candidates(items)  # In one process.
        >>> candidates["positives"].numpy()
        array([0, 1])
        >>> loss = fastneg.in_batch_softmax_loss(queries, **candidates, reduction="sum")
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            "`gather_candidates` must be called by a replica, in `strategy.run`. "
            "Received: a call in cross-replica context."
        )
    embeddings = validation.embeddings("candidate_embeddings", candidate_embeddings)
    batch_size = validation.static_batch_size(embeddings)
    own = {"candidate_embeddings": embeddings}
    if candidate_ids is not None:
        own["candidate_ids"] = validation.integer_ids("candidate_ids", candidate_ids)
    if candidate_sampling_probability is not None:
        own["candidate_sampling_probability"] = tf.stop_gradient(
            validation.real_tensor(
                "candidate_sampling_probability",
                candidate_sampling_probability,
                validation.compute_dtype(embeddings.dtype),
            )
        )
    size = tf.shape(embeddings)[:1]
    checks = []
    for name, values in own.items():
        if name != "candidate_embeddings":
            validation.per_row(name, values, batch_size)
            # Here, where each replica sees its own: afterwards they would only be out of step.
            message = f"`{name}` must have a row for each of `candidate_embeddings`."
            checks.append(tf.debugging.assert_equal(tf.shape(values), size, message))
    with tf.control_dependencies([check for check in checks if check is not None]):
        own = {name: tf.identity(values) for name, values in own.items()}
    positives = tf.range(tf.cast(size[0], tf.int64), dtype=tf.int64)
    if context.num_replicas_in_sync == 1:
        return {**own, "positives": positives}
    sizes = tf.cast(context.all_gather(size, axis=0), tf.int64)
    before = tf.range(context.num_replicas_in_sync) < context.replica_id_in_sync_group
    offset = tf.reduce_sum(tf.where(before, sizes, 0))
    # One after the other, in one order everywhere.
    gathered = {name: context.all_gather(values, axis=0) for name, values in own.items()}
    return {**gathered, "positives": positives + offset}
