"""The in-batch softmax loss in plain TensorFlow, with all its scores in one matrix."""

import copy
import math
from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.arguments.in_batch_softmax import InBatchSoftmaxArguments, PositiveRanksArguments
from fastneg.reference.in_batch_softmax_checks import (
    checked,
    compilable_arguments,
    is_temperature,
)
from fastneg.reference.masked_rows import without_masked_rows
from fastneg.reference.missing import without_missing
from fastneg.reference.row_losses import decoupled_losses, log_of_others
from fastneg.reference.unused_rows import l2_normalize, largest, products

_SMALLEST_PROBABILITY = 1e-9


def in_batch_softmax_loss(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    positives: Any = None,
    sample_weight: Any = 1.0,
    temperature: Any = 1.0,
    normalize: bool = False,
    margin: Any = 0.0,
    t: Any = 1.0,
    candidate_sampling_probability: Any = None,
    candidate_ids: Any = None,
    candidate_mask: Any = None,
    score_mask: Any = None,
    num_hard_negatives: int | None = None,
    label_smoothing: float = 0.0,
    correction: str = "standard",
    positive_in_softmax: bool = True,
    negative_weight: float = 1.0,
    bidirectional: bool = False,
    reduction: str = "mean",
    name: str | None = None,
) -> tf.Tensor:
    """`fastneg.in_batch_softmax_loss` as a composition of TensorFlow operations.

    Args:
        query_embeddings: See the fused function.
        candidate_embeddings: See the fused function.
        positives: See the fused function.
        sample_weight: See the fused function.
        temperature: See the fused function.
        normalize: See the fused function.
        margin: See the fused function.
        t: See the fused function.
        candidate_sampling_probability: See the fused function.
        candidate_ids: See the fused function.
        candidate_mask: See the fused function.
        score_mask: See the fused function.
        num_hard_negatives: See the fused function.
        label_smoothing: See the fused function.
        correction: See the fused function.
        positive_in_softmax: See the fused function.
        negative_weight: See the fused function.
        bidirectional: See the fused function.
        reduction: See the fused function.
        name: See the fused function.

    Returns:
        The loss, a scalar, or [B] with the reduction "none".
    """
    with tf.name_scope(name or "in_batch_softmax_loss"):
        arguments = InBatchSoftmaxArguments(
            query_embeddings=query_embeddings,
            candidate_embeddings=candidate_embeddings,
            positives=positives,
            sample_weight=sample_weight,
            temperature=temperature,
            normalize=normalize,
            margin=margin,
            t=t,
            candidate_sampling_probability=candidate_sampling_probability,
            candidate_ids=candidate_ids,
            candidate_mask=candidate_mask,
            score_mask=score_mask,
            num_hard_negatives=num_hard_negatives,
            label_smoothing=label_smoothing,
            correction=correction,
            positive_in_softmax=positive_in_softmax,
            negative_weight=negative_weight,
            bidirectional=bidirectional,
            reduction=reduction,
        )
        return arguments.scaled(in_batch_softmax(arguments))


def in_batch_softmax(arguments: InBatchSoftmaxArguments) -> tf.Tensor:
    """The composition itself.

    It takes several embeddings of each query too, [B, H, D]: a candidate's score is then the
    largest of theirs (max-sim).
    """
    # XLA cannot raise: there invalid positives or temperatures make the loss NaN.
    valid = None
    if in_xla():
        arguments = compilable_arguments(arguments)
        valid = _values_are_valid(arguments)
    else:
        arguments = checked(arguments)
    if arguments.reduction == "none":
        loss = without_masked_rows(arguments, _loss)
    else:
        loss = _loss(arguments)
    return loss if valid is None else tf.where(valid, loss, tf.constant(math.nan, loss.dtype))


def _loss(arguments: InBatchSoftmaxArguments, masked: tf.Tensor | None = None) -> tf.Tensor:
    """The loss of checked arguments; rows that are `masked`, [B], get any."""
    weights = arguments.sample_weight
    if weights is not None:
        weights = tf.reshape(weights, [-1])
    if masked is not None and arguments.bidirectional:
        masked &= tf.reduce_all(masked)  # Every query is a negative of the others' candidates.
    rows = Rows(arguments, _unused_queries(arguments, weights), masked)
    losses = rows.losses()
    if weights is None:
        num_rows = tf.cast(tf.size(losses), losses.dtype)
        weighted = losses
    else:
        num_rows = tf.math.count_nonzero(weights, dtype=losses.dtype)
        weighted = tf.math.multiply_no_nan(losses, weights)
    loss = weighted
    if arguments.reduction != "none":
        loss = tf.reduce_sum(weighted)
    if arguments.reduction == "mean":
        loss = tf.math.divide_no_nan(loss, num_rows)
    return loss


class Rows:
    """Scores of all queries with all candidates, and which of them count.

    Args:
        arguments: Checked ones.
        unused: Rows of the batch, [B], on whose scores no gradient may depend; or None.
        masked: Rows whose losses may be any, [B]; or None.
    """

    def __init__(  # noqa: D107
        self,
        arguments: PositiveRanksArguments,
        unused: tf.Tensor | None = None,
        masked: tf.Tensor | None = None,
    ) -> None:
        self._arguments: Any = arguments
        query, candidate = arguments.query_embeddings, arguments.candidate_embeddings
        dtype = validation.compute_dtype(query.dtype)
        self.batch_size, self.num_candidates = tf.shape(query)[0], tf.shape(candidate)[0]
        if arguments.positives is None:
            self.positives = tf.range(self.batch_size)
        else:
            # Inside XLA they may be anything.
            last = tf.maximum(tf.cast(self.num_candidates, tf.int64) - 1, 0)
            self.positives = tf.cast(tf.clip_by_value(arguments.positives, 0, last), tf.int32)
        query, candidate = tf.cast(query, dtype), tf.cast(candidate, dtype)
        if arguments.normalize:
            query, candidate = l2_normalize(query), l2_normalize(candidate)
        if query.shape.rank == 3:
            shape = tf.shape(query)
            heads = products(tf.reshape(query, [-1, shape[2]]), candidate)
            heads = tf.reshape(heads, [shape[0], shape[1], self.num_candidates])
            self.scores = largest(heads)
        else:
            self.scores = products(query, candidate)
        if arguments.positives is None:
            square = tf.slice(self.scores, [0, 0], [self.batch_size, self.batch_size])
            self.own_scores = tf.linalg.diag_part(square)
        else:
            self.own_scores = tf.gather(self.scores, self.positives, batch_dims=1)
        self.columns = tf.range(self.num_candidates)
        self.is_positive = tf.equal(self.columns, self.positives[:, None])
        self._unused = unused
        if masked is not None:
            self._clear(masked)

    def negatives(self) -> tf.Tensor:
        """Which candidates are negatives of which rows, [B, C]."""
        arguments = self._arguments
        kept = ~self.is_positive
        if arguments.candidate_ids is not None:
            ids = arguments.candidate_ids
            kept &= tf.not_equal(ids, tf.gather(ids, self.positives)[:, None])
        if arguments.candidate_mask is not None:
            kept &= arguments.candidate_mask
        if arguments.score_mask is not None:
            kept &= arguments.score_mask
        return kept

    def losses(self) -> tf.Tensor:
        """The losses of all rows, [B]."""
        if self._unused is None:
            return self._losses()
        # What overflows, or is NaN, would come back as 0 * NaN in gradients.
        wild = self._unused & self._may_overflow()
        tame = copy.copy(self)
        tame._clear(wild)

        def as_they_are() -> tf.Tensor:
            rows = copy.copy(self)
            rows.scores = tf.stop_gradient(self.scores)
            rows.own_scores = tf.stop_gradient(self.own_scores)
            return rows._losses()

        losses = tame._losses()
        wild_losses = tf.cond(tf.reduce_any(wild), as_they_are, lambda: tf.zeros_like(losses))
        return tf.where(wild, tf.stop_gradient(wild_losses), losses)

    def _clear(self, rows: tf.Tensor) -> None:
        """Sets the scores of rows, [B], to 0."""
        zero = tf.zeros([], self.scores.dtype)
        self.scores = tf.where(rows[:, None], zero, self.scores)
        self.own_scores = tf.where(rows, zero, self.own_scores)

    def _may_overflow(self) -> tf.Tensor:
        """Rows that have NaN among their scores, or numbers near the end of their range, [B]."""
        dtype = self.scores.dtype
        t, temperature = (
            tf.cast(value, dtype) for value in (self._arguments.t, self._arguments.temperature)
        )
        bound = dtype.max / 16 * tf.minimum(temperature, 1) / tf.maximum(tf.abs(t), 1)
        small = tf.abs(self.scores) < bound
        return tf.reduce_any((self.is_positive | self.negatives()) & ~small, axis=1)

    def _losses(self) -> tf.Tensor:
        arguments, kept = self._arguments, self.negatives()
        logits = self._plain_logits(kept)
        row_logits = self._corrected(logits)
        if arguments.num_hard_negatives is None:
            losses = self._softmax_losses(row_logits, kept, self.positives)
        else:
            losses = self._hard_losses(row_logits, kept)
        if arguments.bidirectional:
            size = self.batch_size
            columns = self._softmax_losses(
                tf.transpose(logits[:, :size]), tf.transpose(kept[:, :size]), self.positives
            )
            losses = (losses + columns) / 2
        return losses

    def logits(self) -> tf.Tensor:
        """The logits, [B, C]; those of candidates that are left out may be anything."""
        return self._corrected(self._plain_logits(self.negatives()))

    def _plain_logits(self, kept: tf.Tensor) -> tf.Tensor:
        """Logits before any correction: scores after margin and re-weighting, by temperature."""
        margin, t = self._arguments.margin, self._arguments.t
        temperature = self._arguments.temperature
        hard = None
        if isinstance(t, tf.Tensor) or t != 1:
            hard = self.own_scores[:, None] - margin - self.scores < 0
            hard &= ~self.is_positive

        def logits(scores: tf.Tensor) -> tf.Tensor:
            if hard is not None:
                scores = tf.where(hard, t * scores + t - 1, scores)
            if isinstance(margin, tf.Tensor) or margin != 0:
                scores = tf.where(self.is_positive, self.own_scores[:, None] - margin, scores)
            return scores / temperature

        excluded = ~(kept | self.is_positive)
        return without_missing(logits, self.scores, [t, temperature], excluded)

    def _corrected(self, logits: tf.Tensor) -> tf.Tensor:
        probability = self._arguments.candidate_sampling_probability
        if probability is None:
            return logits
        probability = tf.stop_gradient(tf.clip_by_value(probability, _SMALLEST_PROBABILITY, 1.0))
        corrected = logits - tf.math.log(probability)
        if self._arguments.correction == "standard":
            return corrected
        others = log_of_others(tf.gather(probability, self.positives))
        return tf.where(self.is_positive, logits, corrected + others[:, None])

    def _hard_losses(self, logits: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Row losses over the largest negatives' logits."""
        candidates = tf.where(kept, logits, tf.constant(-math.inf, logits.dtype))
        # NaN counts as large: it must not disappear.
        infinity = tf.constant(math.inf, logits.dtype)
        order = tf.where(tf.math.is_nan(candidates), infinity, candidates)
        count = tf.minimum(min(self._arguments.num_hard_negatives, 2**31 - 1), self.num_candidates)
        places = tf.math.top_k(tf.stop_gradient(order), count).indices
        places = tf.concat([self.positives[:, None], places], axis=1)
        chosen = tf.gather(logits, places, batch_dims=1)
        kept = tf.gather(kept, places, batch_dims=1)
        return self._softmax_losses(chosen, kept, tf.zeros_like(self.positives))

    def _softmax_losses(
        self, logits: tf.Tensor, kept: tf.Tensor, positives: tf.Tensor
    ) -> tf.Tensor:
        """Losses of rows whose negatives are `kept`; `positives` are theirs among the columns."""
        arguments = self._arguments
        own = tf.gather(logits, positives, batch_dims=1)
        if arguments.positive_in_softmax:
            members = kept | tf.equal(tf.range(tf.shape(logits)[1]), positives[:, None])
            used = tf.where(members, logits, tf.constant(-math.inf, logits.dtype))
            # An empty batch may have no candidate, and TensorFlow wants one.
            used = tf.reshape(used, [tf.shape(used)[0], tf.maximum(tf.shape(used)[1], 1)])
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(positives, used)
            if arguments.label_smoothing != 0:
                gaps = tf.where(members, own[:, None] - logits, tf.zeros([], logits.dtype))
                count = tf.math.count_nonzero(members, axis=1, dtype=logits.dtype)
                losses += arguments.label_smoothing * tf.reduce_sum(gaps, axis=1) / count
            return losses
        return decoupled_losses(own, logits, kept, arguments)


def _unused_queries(
    arguments: InBatchSoftmaxArguments, weights: tf.Tensor | None
) -> tf.Tensor | None:
    """Rows that no loss is computed from, [B]; None where all are."""
    if weights is None:
        return None
    unused = tf.equal(weights, 0)
    # In the other direction every query is a negative of the candidates that count.
    return unused & tf.reduce_all(unused) if arguments.bidirectional else unused


def positives_are_valid(arguments: PositiveRanksArguments) -> tf.Tensor:
    """Whether all positives are candidates."""
    if arguments.positives is None:
        return tf.constant(True)
    size = tf.shape(arguments.candidate_embeddings, out_type=tf.int64)[0]
    return tf.reduce_all((arguments.positives >= 0) & (arguments.positives < size))


def _values_are_valid(arguments: InBatchSoftmaxArguments) -> tf.Tensor:
    valid = positives_are_valid(arguments)
    if isinstance(arguments.temperature, tf.Tensor):
        valid &= is_temperature(arguments.temperature)
    return valid
