"""The arguments of `in_batch_softmax_loss`, and those that `positive_ranks` shares with it."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg.arguments.common import Arguments, ids_factor, one_of, per_candidate
from fastneg.arguments.row_options import row_options

REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True, kw_only=True, eq=False)
class PositiveRanksArguments(Arguments):
    """What `positive_ranks` was given, as every backend takes it.

    A backend raises tf.errors.InvalidArgumentError where run-time shapes disagree, C is less than B
    without `positives`, or one of these is not in 0 .. C-1. An empty batch raises nothing.

    Attributes:
        query_embeddings: [B, D], float16, bfloat16, float32 or float64.
        candidate_embeddings: [C, D], the same dtype.
        positives: [B], int64, or None for 0 .. B-1.
        normalize: Whether rows are L2-normalised.
        candidate_ids: [C], int64, or None.
        candidate_mask: [C], bool, or None.
        score_mask: [B, C], bool, or None.
    """

    query_embeddings: tf.Tensor
    candidate_embeddings: tf.Tensor
    positives: tf.Tensor | None
    normalize: bool
    candidate_ids: tf.Tensor | None
    candidate_mask: tf.Tensor | None
    score_mask: tf.Tensor | None

    def __post_init__(self) -> None:
        """Converts, and checks what static shapes and constants tell."""
        query, candidate = _two_towers(self.query_embeddings, self.candidate_embeddings)
        batch_size = validation.static_batch_size(query)
        num_candidates = validation.static_batch_size(candidate)
        positives, score_mask, mask = self.positives, self.score_mask, self.candidate_mask
        if positives is not None:
            positives = validation.integer_ids("positives", positives)
            batch_size = validation.static_batch_size(query, positives)
            validation.per_row("positives", positives, batch_size)
        elif batch_size is not None and num_candidates is not None and num_candidates < batch_size:
            raise ValueError(
                "`candidate_embeddings` must have at least as many rows as `query_embeddings`, "
                f"{batch_size}, unless `positives` are given. Received: {num_candidates}."
            )
        if num_candidates == 0 and batch_size:
            raise ValueError(
                "`candidate_embeddings` must have at least one row where `query_embeddings` has "
                f"{batch_size}. Received: 0."
            )
        dtype = validation.compute_dtype(query.dtype)
        _, ids = per_candidate(None, self.candidate_ids, num_candidates, dtype)
        if mask is not None:
            mask = _booleans("candidate_mask", mask)
            validation.per_row("candidate_mask", mask, num_candidates)
        if score_mask is not None:
            score_mask = _booleans("score_mask", score_mask)
            if not score_mask.shape.is_compatible_with([batch_size, num_candidates]):
                expected = [batch_size or "batch_size", num_candidates or "num_candidates"]
                raise ValueError(
                    f"`score_mask` must have shape [{expected[0]}, {expected[1]}]. "
                    f"Received: {score_mask.shape}."
                )
        self._settle(
            query_embeddings=query,
            candidate_embeddings=candidate,
            positives=positives,
            normalize=validation.flag("normalize", self.normalize),
            candidate_ids=ids,
            candidate_mask=mask,
            score_mask=score_mask,
            loss_factor=ids_factor(self.candidate_ids, ids, dtype),
        )

    def marked(self, ranks: tf.Tensor) -> tf.Tensor:
        """Returns the ranks that a user gets: -1 where a loss would be NaN."""
        if isinstance(self.loss_factor, float):
            return ranks
        return tf.where(tf.math.is_nan(self.loss_factor), -1, ranks)


@dataclass(frozen=True, kw_only=True, eq=False)
class InBatchSoftmaxArguments(PositiveRanksArguments):
    """What `in_batch_softmax_loss` was given, as every backend takes it.

    The compute dtype is float64 for float64 embeddings and float32 for all others. A backend raises
    as for `PositiveRanksArguments`, and where a temperature is not positive and finite.

    Attributes:
        sample_weight: [B] or [B, 1] in the compute dtype, or None for 1 everywhere.
        temperature: A positive Python float, or a scalar tensor in the compute dtype, which is
            differentiated.
        margin: As `temperature`, of any sign.
        t: As `margin`.
        candidate_sampling_probability: [C] in the compute dtype, a constant for differentiation; or
            None.
        num_hard_negatives: How many negatives of a row stay, or None for all.
        label_smoothing: 0 <= label_smoothing < 1; 0 where the positive is not in the softmax.
        correction: "standard" or "refined"; refined has probabilities, and the positive is not in
            the softmax.
        positive_in_softmax: Whether the positive's logit is among those that are summed.
        negative_weight: 1 where the positive is in the softmax.
        bidirectional: Whether candidates are classified too; without `positives`,
            `num_hard_negatives` and the refined correction.
        reduction: "mean", "sum" or "none".
    """

    sample_weight: tf.Tensor | None
    temperature: float | tf.Tensor
    margin: float | tf.Tensor
    t: float | tf.Tensor
    candidate_sampling_probability: tf.Tensor | None
    num_hard_negatives: int | None
    label_smoothing: float
    correction: str
    positive_in_softmax: bool
    negative_weight: float
    bidirectional: bool
    reduction: str

    def __post_init__(self) -> None:
        """Converts, and checks what static shapes and constants tell."""
        super().__post_init__()
        query, candidate = self.query_embeddings, self.candidate_embeddings
        dtype = validation.compute_dtype(query.dtype)
        batch_size = validation.static_batch_size(query, self.positives)
        probability, _ = per_candidate(
            self.candidate_sampling_probability,
            None,
            validation.static_batch_size(candidate),
            dtype,
        )
        rows = query if batch_size is not None else query[:, 0]  # What a scalar is spread over.
        weight, loss_factor = validation.weights(
            "sample_weight", self.sample_weight, rows, batch_size, dtype
        )
        if self.num_hard_negatives is not None:
            validation.positive_integer("num_hard_negatives", self.num_hard_negatives)
        label_smoothing = validation.number("label_smoothing", self.label_smoothing)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"`label_smoothing` must be in [0, 1). Received: {self.label_smoothing!r}."
            )
        one_of("reduction", self.reduction, REDUCTIONS)
        self._settle(
            sample_weight=weight,
            temperature=_temperature(self.temperature, dtype),
            margin=validation.number_or_scalar("margin", self.margin, dtype),
            t=validation.number_or_scalar("t", self.t, dtype),
            candidate_sampling_probability=probability,
            label_smoothing=label_smoothing,
            bidirectional=validation.flag("bidirectional", self.bidirectional),
            loss_factor=loss_factor * self.loss_factor,
            **row_options(
                self.positive_in_softmax, self.negative_weight, self.correction, probability
            ),
        )
        self._check_combinations()

    def _check_combinations(self) -> None:
        if not self.positive_in_softmax and self.label_smoothing != 0:
            raise ValueError(
                "`label_smoothing` must be 0 where the positive is not in the softmax. "
                f"Received: {self.label_smoothing!r}."
            )
        if not self.bidirectional:
            return
        for name, value in (
            ("positives", self.positives),
            ("num_hard_negatives", self.num_hard_negatives),
        ):
            if value is not None:
                raise ValueError(
                    f"`{name}` must be None where `bidirectional` is true. Received: {value!r}."
                )
        if self.correction == "refined":
            raise ValueError(
                '`correction` must be "standard" where `bidirectional` is true. '
                f"Received: {self.correction!r}."
            )


def _two_towers(query: Any, candidate: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Checks two matrices of one dtype and width."""
    query = validation.embeddings("query_embeddings", query)
    candidate = validation.to_tensor("candidate_embeddings", candidate, dtype_hint=query.dtype)
    candidate = validation.embeddings("candidate_embeddings", candidate)
    if candidate.dtype != query.dtype:
        raise ValueError(
            "`candidate_embeddings` must have the dtype of `query_embeddings`, "
            f"{query.dtype.name}. Received: {candidate.dtype.name}."
        )
    if query.shape.rank and not candidate.shape.is_compatible_with([None, query.shape[1]]):
        raise ValueError(
            "`candidate_embeddings` must have the width of `query_embeddings`, "
            f"{query.shape[1]}. Received: {validation.shape_text(candidate.shape)}."
        )
    return query, candidate


def _temperature(value: Any, dtype: tf.DType) -> float | tf.Tensor:
    value = validation.number_or_scalar("temperature", value, dtype)
    if not isinstance(value, tf.Tensor) and not dtype.as_numpy_dtype(value) > 0:
        raise ValueError(f"`temperature` must be positive. Received: {value!r}.")
    return value


def _booleans(name: str, value: Any) -> tf.Tensor:
    value = validation.to_tensor(name, value, dtype_hint=tf.bool)
    if value.dtype != tf.bool:
        raise ValueError(f"`{name}` must be bool. Received: {value.dtype.name}.")
    return value
