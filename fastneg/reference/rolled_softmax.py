"""The rolled SV-softmax loss in plain TensorFlow."""

import math
from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.arguments.rolled_softmax import RolledSoftmaxArguments
from fastneg.reference.checks import compilable, compilable_vector, dimension
from fastneg.reference.missing import without_missing
from fastneg.reference.rolled_softmax_checks import checked, is_valid
from fastneg.reference.row_losses import correction
from fastneg.reference.row_losses import row_losses as softmax_losses

_SMALLEST_SQUARED_NORM = 1e-12
_SMALLEST_PROBABILITY = 1e-9


def softmax_loss_with_negative_mining(
    user_emb: Any,
    item_emb: Any,
    labels: Any,
    num_negative_samples: int = 4,
    embed_normed: bool = False,
    weights: Any = 1.0,
    gamma: Any = 1.0,
    margin: Any = 0,
    t: Any = 1,
    seed: Any = None,
    *,
    shifts: Any = None,
    candidate_sampling_probability: Any = None,
    candidate_ids: Any = None,
    positive_in_softmax: bool = True,
    negative_weight: float = 1.0,
    correction: str = "standard",
    name: str | None = None,
) -> tf.Tensor:
    """`fastneg.softmax_loss_with_negative_mining` in plain TensorFlow.

    The fused function describes the arguments. Unlike it, this one has derivatives of every order.

    Args:
        user_emb: See the fused function.
        item_emb: See the fused function.
        labels: See the fused function.
        num_negative_samples: See the fused function.
        embed_normed: See the fused function.
        weights: See the fused function.
        gamma: See the fused function.
        margin: See the fused function.
        t: See the fused function.
        seed: See the fused function.
        shifts: See the fused function.
        candidate_sampling_probability: See the fused function.
        candidate_ids: See the fused function.
        positive_in_softmax: See the fused function.
        negative_weight: See the fused function.
        correction: See the fused function.
        name: See the fused function.

    Returns:
        The scalar loss.
    """
    with tf.name_scope(name or "softmax_loss_with_negative_mining"):
        arguments = RolledSoftmaxArguments(
            user_emb=user_emb,
            item_emb=item_emb,
            labels=labels,
            num_negative_samples=num_negative_samples,
            embed_normed=embed_normed,
            weights=weights,
            gamma=gamma,
            margin=margin,
            t=t,
            seed=seed,
            shifts=shifts,
            candidate_sampling_probability=candidate_sampling_probability,
            candidate_ids=candidate_ids,
            positive_in_softmax=positive_in_softmax,
            negative_weight=negative_weight,
            correction=correction,
        )
        return arguments.scaled(rolled_softmax(arguments))


def rolled_softmax(arguments: RolledSoftmaxArguments) -> tf.Tensor:
    """The composition itself."""
    # XLA can neither raise nor handle shapes that depend on values: there invalid input makes the
    # loss NaN, and rows that are not used are masked instead of dropped.
    masked = in_xla()
    if not masked:
        arguments = checked(arguments)
    user_emb, item_emb, labels = arguments.user_emb, arguments.item_emb, arguments.labels
    weights, shifts = arguments.weights, arguments.shifts
    gamma, margin, t = arguments.gamma, arguments.margin, arguments.t
    candidate_sampling_probability = arguments.candidate_sampling_probability
    candidate_ids = arguments.candidate_ids
    select = _mask_rows if masked else _drop_rows

    dtype = validation.compute_dtype(user_emb.dtype)
    user_emb = tf.ensure_shape(user_emb, [None, None])
    item_emb = tf.ensure_shape(item_emb, [None, None])
    if masked:
        num_rows = dimension(user_emb, 0)
        item_emb = compilable(item_emb, num_rows, dimension(user_emb, 1))
        labels = compilable_vector(labels, num_rows)
        if weights is not None:
            weights = compilable_vector(weights, num_rows)
        if candidate_sampling_probability is not None:
            candidate_sampling_probability = compilable(candidate_sampling_probability, num_rows)
        if candidate_ids is not None:
            candidate_ids = compilable(candidate_ids, num_rows)
    batch_size = tf.shape(user_emb)[0]
    modulus = tf.cast(tf.maximum(batch_size, 1), tf.int64)
    steps = tf.cast(shifts % modulus, tf.int32)
    counted = tf.reshape(labels if labels.dtype == tf.bool else labels > 0, [-1])

    def row_losses(used: tf.Tensor) -> tf.Tensor:
        """Losses of the rows where `used`, and what `select` puts in the place of the others."""
        rows = select(used)
        candidates = tf.concat([rows[:, None], (rows[:, None] - steps) % batch_size], axis=1)
        if masked:
            candidates = tf.where(rows[:, None] < batch_size, candidates, batch_size)
        hit = None
        if candidate_ids is not None:
            ids = _take(candidate_ids, candidates)
            hit = tf.equal(ids[:, 1:], ids[:, :1])
            # The row's own item stands in for it, so that nothing is computed with what it holds.
            candidates = tf.where(_with_positive(hit), rows[:, None], candidates)
        # What no used row needs is 0 before anything is computed with it: else NaN in it would come
        # back as 0 * NaN in a gradient.
        users = tf.cast(_zero_unless(used, user_emb), dtype)
        items = tf.cast(_zero_unless(_occurs(candidates, batch_size), item_emb), dtype)
        if not arguments.embed_normed:
            users, items = _l2_normalize(users), _l2_normalize(items)
        cosines = tf.einsum("pd,pcd->pc", _take(users, rows), _take(items, candidates))

        positive = cosines[:, :1] - margin
        negatives = cosines[:, 1:]
        hard = positive - negatives < 0

        def negative_logits(scores: tf.Tensor) -> tf.Tensor:
            logits = gamma * tf.where(hard, t * scores + t - 1, scores)
            if hit is None:
                return logits
            return tf.where(hit, tf.constant(-math.inf, dtype), logits)

        logits = tf.concat(
            [gamma * positive, without_missing(negative_logits, negatives, [gamma, t])], axis=1
        )
        if candidate_sampling_probability is not None:
            probability = tf.maximum(candidate_sampling_probability, _SMALLEST_PROBABILITY)
            log_q = _take(tf.math.log(probability), candidates)
            logits -= correction(log_q, _take(probability, rows), arguments)
        losses = softmax_losses(logits, hit, arguments)
        return _zero_unless(rows < batch_size, losses) if masked else losses

    if weights is None:
        num_rows = tf.math.count_nonzero(counted, dtype=dtype)
        total = tf.reduce_sum(row_losses(counted))
    else:
        weights = tf.reshape(weights, [-1])
        weighted = counted & tf.not_equal(weights, 0)
        num_rows = tf.math.count_nonzero(weighted, dtype=dtype)
        total = tf.reduce_sum(
            _take(_zero_unless(weighted, weights), select(weighted)) * row_losses(weighted)
        )
        # Rows of weight 0 add nothing but the gradient of their weight, which is their loss.
        unweighted = counted & tf.equal(weights, 0)
        total += tf.reduce_sum(
            tf.math.multiply_no_nan(
                tf.stop_gradient(row_losses(unweighted)),
                _take(_zero_unless(unweighted, weights), select(unweighted)),
            )
        )
    loss = tf.math.divide_no_nan(total, num_rows)
    if masked:
        loss = tf.where(is_valid(user_emb, shifts), loss, tf.constant(math.nan, dtype))
    return loss


def _drop_rows(used: tf.Tensor) -> tf.Tensor:
    """Indices of the used rows."""
    return tf.cast(tf.where(used)[:, 0], tf.int32)


def _mask_rows(used: tf.Tensor) -> tf.Tensor:
    """Indices of the used rows, with B, which names no row, in the place of the others."""
    batch_size = tf.size(used)
    return tf.where(used, tf.range(batch_size), batch_size)


def _take(values: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Rows of `values`; the index B, which only `_mask_rows` gives, takes a row of zeros."""
    if in_xla():
        values = tf.concat([values, tf.zeros_like(values[:1])], axis=0)
    return tf.gather(values, indices)


def _zero_unless(used: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`values` with zeros in the rows that are not used."""
    mask = used[:, None] if values.shape.rank == 2 else used
    return tf.where(mask, values, tf.zeros([], values.dtype))


def _with_positive(hit: tf.Tensor) -> tf.Tensor:
    """Accidental hits among all candidates, given those among the negatives."""
    return tf.pad(hit, [[0, 0], [1, 0]])


def _occurs(indices: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Which of 0 .. size - 1 occur in `indices`, whose values are 0 .. size."""
    counts = tf.scatter_nd(indices[..., None], tf.ones_like(indices), [size + 1])
    return counts[:size] > 0


def _l2_normalize(rows: tf.Tensor) -> tf.Tensor:
    return tf.nn.l2_normalize(rows, axis=-1, epsilon=_SMALLEST_SQUARED_NORM)
