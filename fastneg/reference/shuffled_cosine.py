"""The shuffled cosine loss in plain TensorFlow."""

import math
from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.arguments.seeds import Seed
from fastneg.arguments.shuffled_cosine import ShuffledCosineArguments
from fastneg.reference.checks import compilable, dimension, rank, require, same_shape
from fastneg.reference.row_losses import correction, row_losses

_SMALLEST_SQUARED_NORM = 1e-12
_SMALLEST_PROBABILITY = 1e-9


def negative_cosine_loss(
    query: Any,
    doc: Any,
    num_negatives: int = 4,
    t: Any = 1.0,
    scale: Any = 20.0,
    normalize: str = "candidates",
    seed: Any = None,
    *,
    permutations: Any = None,
    candidate_sampling_probability: Any = None,
    candidate_ids: Any = None,
    positive_in_softmax: bool = True,
    negative_weight: float = 1.0,
    correction: str = "standard",
    name: str | None = None,
) -> tf.Tensor:
    """`fastneg.negative_cosine_loss` in plain TensorFlow.

    The fused function describes the arguments. Unlike it, this one has derivatives of every order.

    Args:
        query: See the fused function.
        doc: See the fused function.
        num_negatives: See the fused function.
        t: See the fused function.
        scale: See the fused function.
        normalize: See the fused function.
        seed: See the fused function.
        permutations: See the fused function.
        candidate_sampling_probability: See the fused function.
        candidate_ids: See the fused function.
        positive_in_softmax: See the fused function.
        negative_weight: See the fused function.
        correction: See the fused function.
        name: See the fused function.

    Returns:
        The scalar loss.
    """
    with tf.name_scope(name or "negative_cosine_loss"):
        arguments = ShuffledCosineArguments(
            query=query,
            doc=doc,
            num_negatives=num_negatives,
            t=t,
            scale=scale,
            normalize=normalize,
            seed=seed,
            permutations=permutations,
            candidate_sampling_probability=candidate_sampling_probability,
            candidate_ids=candidate_ids,
            positive_in_softmax=positive_in_softmax,
            negative_weight=negative_weight,
            correction=correction,
            draw=random_permutations,
        )
        if arguments.normalize == "batch":
            return batch_normalized(arguments)
        return arguments.scaled(shuffled_cosine(arguments))


def shuffled_cosine(arguments: ShuffledCosineArguments) -> tf.Tensor:
    """The composition itself."""
    # XLA cannot raise: there invalid permutations make the loss NaN.
    if not in_xla():
        arguments = _checked(arguments)
    query, doc, permutations = arguments.query, arguments.doc, arguments.permutations
    candidate_sampling_probability = arguments.candidate_sampling_probability
    candidate_ids = arguments.candidate_ids
    if in_xla():
        query, doc = _compilable_pair(query, doc)
        num_rows = dimension(query, 0)
        permutations = tf.ensure_shape(permutations, [None, None])
        permutations = compilable(permutations, dimension(permutations, 0), num_rows)
        if candidate_sampling_probability is not None:
            candidate_sampling_probability = compilable(candidate_sampling_probability, num_rows)
        if candidate_ids is not None:
            candidate_ids = compilable(candidate_ids, num_rows)
    dtype = validation.compute_dtype(query.dtype)
    queries, docs = _unit_rows(query, dtype), _unit_rows(doc, dtype)
    batch_size = tf.shape(queries)[0]
    own = tf.range(batch_size)[:, None]
    # Out-of-range entries are dealt with above or below, and must not be looked up.
    last = tf.cast(tf.maximum(batch_size - 1, 0), permutations.dtype)
    shuffled = tf.cast(tf.clip_by_value(permutations, 0, last), tf.int32)
    candidates = tf.concat([own, tf.transpose(shuffled)], axis=1)
    hit = None
    if candidate_ids is not None:
        ids = tf.gather(candidate_ids, candidates)
        hit = tf.pad(tf.equal(ids[:, 1:], ids[:, :1]), [[0, 0], [1, 0]])
        # The row's own document stands in for it: nothing is computed with what it holds.
        candidates = tf.where(hit, own, candidates)
    logits = arguments.gamma * tf.einsum("bd,bkd->bk", queries, tf.gather(docs, candidates))
    if candidate_sampling_probability is not None:
        probability = tf.maximum(candidate_sampling_probability, _SMALLEST_PROBABILITY)
        log_q = tf.gather(tf.math.log(probability), candidates)
        logits -= correction(log_q, probability, arguments)
    if hit is not None:
        logits = tf.where(hit, tf.constant(-math.inf, dtype), logits)
    losses = row_losses(logits, None if hit is None else hit[:, 1:], arguments)
    loss = tf.math.divide_no_nan(tf.reduce_sum(losses), tf.cast(batch_size, dtype))
    if in_xla():
        valid = are_permutations(permutations, batch_size) & (tf.shape(permutations)[0] > 0)
        loss = tf.where(valid | tf.equal(batch_size, 0), loss, tf.constant(math.nan, dtype))
    return loss


def batch_normalized(arguments: ShuffledCosineArguments) -> tf.Tensor:
    """The published arithmetic: the positives' softmax over the batch; for every backend."""
    if in_xla():
        query, doc = _compilable_pair(arguments.query, arguments.doc)
    else:
        arguments = _with_checked_pair(arguments)
        query, doc = arguments.query, arguments.doc
    dtype = validation.compute_dtype(query.dtype)
    cosines = tf.reduce_sum(_unit_rows(query, dtype) * _unit_rows(doc, dtype), axis=1)
    scores = arguments.gamma * cosines
    # The logarithm of a sum over no rows is -Inf, which must not reach a gradient.
    batch_size = tf.shape(scores)[0]
    padded = tf.concat(
        [scores, tf.zeros([tf.cast(tf.equal(batch_size, 0), tf.int32)], dtype)], axis=0
    )
    row_losses = tf.reduce_logsumexp(padded) - scores
    return tf.math.divide_no_nan(tf.reduce_sum(row_losses), tf.cast(batch_size, dtype))


def random_permutations(count: int, size: tf.Tensor, seed: Seed) -> tf.Tensor:
    """Draws with TensorFlow's own shuffle; see `fastneg.backends.Backend.random_permutations`."""
    if isinstance(seed, tf.Tensor):
        keys = tf.random.stateless_uniform([count, size], seed, None, None, tf.int64)
        return tf.argsort(keys, axis=1)
    rows = tf.range(tf.cast(size, tf.int32))
    if seed is None:
        return tf.stack([tf.random.shuffle(rows) for _ in range(count)])
    # The same seed for all would make them equal. Multiples of an odd number spread what would else
    # meet when a program counts its seeds up.
    return tf.stack(
        [tf.random.shuffle(rows, seed=(seed + k * 0x9E3779B1) % 2**31) for k in range(count)]
    )


def are_permutations(permutations: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Whether each row of [K, size] holds each of 0 .. size-1 once."""
    count = tf.shape(permutations)[0]
    size = tf.cast(size, permutations.dtype)
    inside = tf.reduce_all((permutations >= 0) & (permutations < size))
    rows = tf.range(tf.cast(count, permutations.dtype))[:, None]
    places = tf.reshape(
        tf.clip_by_value(permutations, 0, tf.maximum(size - 1, 0)) + rows * size, [-1]
    )
    found = tf.math.unsorted_segment_sum(tf.ones_like(places), places, tf.size(permutations))
    return inside & tf.reduce_all(tf.equal(found, 1))


def _compilable_pair(query: tf.Tensor, doc: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    query = tf.ensure_shape(query, [None, None])
    return query, compilable(doc, dimension(query, 0), dimension(query, 1))


def _with_checked_pair(arguments: ShuffledCosineArguments) -> ShuffledCosineArguments:
    """The embeddings become such that are computed only if all shapes are right."""
    query, doc = arguments.query, arguments.doc
    checks: list[Any] = []
    if query.shape.rank is None:
        require(
            checks,
            tf.equal(rank(query), 2),
            "`query` must have rank 2, [batch_size, embedding_dim].",
            tf.shape(query),
        )
    if not (query.shape.is_fully_defined() and doc.shape.is_fully_defined()):
        shape = tf.shape(query, out_type=tf.int64)
        require(
            checks,
            same_shape(tf.shape(doc, out_type=tf.int64), shape),
            "`doc` must have the shape of `query`,",
            shape,
            tf.shape(doc),
        )
    scale = arguments.gamma
    if isinstance(scale, tf.Tensor) and scale.shape.rank is None:
        require(checks, tf.equal(rank(scale), 0), "`scale` must be a scalar.", tf.shape(scale))
    with tf.control_dependencies(checks):
        return arguments.replaced(query=tf.identity(query), doc=tf.identity(doc))


def _checked(arguments: ShuffledCosineArguments) -> ShuffledCosineArguments:
    """Embeddings and permutations become such that are computed only if everything is right."""
    arguments = _with_checked_pair(arguments)
    query, doc, permutations = arguments.query, arguments.doc, arguments.permutations
    checks: list[Any] = []
    with tf.control_dependencies([query]):
        batch_size = tf.shape(query, out_type=tf.int64)[0]
    for name in ("candidate_sampling_probability", "candidate_ids"):
        value = getattr(arguments, name)
        if value is not None:
            actual = tf.shape(value, out_type=tf.int64)
            require(
                checks,
                same_shape(actual, batch_size[None]),
                f"`{name}` must have shape [batch_size], where batch_size is",
                batch_size,
                actual,
            )
    shape = tf.shape(permutations, out_type=tf.int64)
    requirement = "`permutations` must have shape [num_negatives, batch_size], where batch_size is"
    require(checks, tf.equal(rank(permutations), 2), requirement, batch_size, shape)
    with tf.control_dependencies(checks):
        shape = tf.identity(shape)
    require(checks, tf.equal(shape[1], batch_size), requirement, batch_size, shape)
    require(checks, shape[0] >= 1, "`num_negatives` must be at least 1.", shape[0])
    with tf.control_dependencies(checks):
        valid = are_permutations(tf.identity(permutations), batch_size)
    require(
        checks,
        valid,
        "`permutations` must hold each number below the batch size once in every row. "
        "The batch size is",
        batch_size,
        permutations,
    )
    with tf.control_dependencies(checks):
        return arguments.replaced(
            query=tf.identity(query),
            doc=tf.identity(doc),
            permutations=tf.identity(permutations),
        )


def _unit_rows(rows: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    rows = tf.cast(tf.ensure_shape(rows, [None, None]), dtype)
    return tf.nn.l2_normalize(rows, axis=-1, epsilon=_SMALLEST_SQUARED_NORM)
