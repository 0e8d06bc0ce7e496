"""Turns the arguments of `negative_cosine_loss` into what a backend takes."""

from typing import Any, NamedTuple

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.backends import RandomPermutations

NORMALIZATIONS = ("candidates", "batch")


class ShuffledCosineInputs(NamedTuple):
    """The arguments of `fastneg.backends.ShuffledCosine`."""

    query: tf.Tensor
    doc: tf.Tensor
    permutations: tf.Tensor
    gamma: float | tf.Tensor
    candidate_sampling_probability: tf.Tensor | None
    candidate_ids: tf.Tensor | None


class BatchNormalizedInputs(NamedTuple):
    """What normalize="batch" depends on."""

    query: tf.Tensor
    doc: tf.Tensor
    scale: float | tf.Tensor


def prepare(
    query: Any,
    doc: Any,
    num_negatives: int,
    t: Any,
    scale: Any,
    normalize: str,
    seed: int | None,
    permutations: Any,
    candidate_sampling_probability: Any,
    candidate_ids: Any,
    draw: RandomPermutations,
) -> ShuffledCosineInputs | BatchNormalizedInputs:
    """Converts, checks what static shapes tell, and has permutations drawn where none are given."""
    if not isinstance(normalize, str) or normalize not in NORMALIZATIONS:
        expected = " or ".join(f'"{choice}"' for choice in NORMALIZATIONS)
        raise ValueError(f"`normalize` must be {expected}. Received: {normalize!r}.")
    query, doc = validation.embedding_pair("query", query, "doc", doc)
    batch_size = validation.static_batch_size(query, doc)
    dtype = validation.compute_dtype(query.dtype)
    scale = validation.number_or_scalar("scale", scale, dtype)
    gamma = _over_temperature(scale, validation.number_or_scalar("t", t, dtype))
    if permutations is None:
        num_negatives = validation.num_negatives("num_negatives", num_negatives)
        seed = validation.seed("seed", seed)
    else:
        permutations = validation.permutations("permutations", permutations, batch_size)
        if permutations.shape.rank and permutations.shape[0] is not None:
            validation.num_negatives("num_negatives", int(permutations.shape[0]))

    if normalize == "batch":
        for name, value in (
            ("candidate_sampling_probability", candidate_sampling_probability),
            ("candidate_ids", candidate_ids),
        ):
            if value is not None:
                raise ValueError(
                    f'`{name}` must be None with normalize="batch", where the negatives drop out. '
                    f"Received: {value!r}."
                )
        return BatchNormalizedInputs(query, doc, scale)

    if candidate_sampling_probability is not None:
        candidate_sampling_probability = validation.real_tensor(
            "candidate_sampling_probability", candidate_sampling_probability, dtype
        )
        validation.per_row(
            "candidate_sampling_probability", candidate_sampling_probability, batch_size
        )
    if candidate_ids is not None:
        candidate_ids = validation.integer_ids("candidate_ids", candidate_ids)
        validation.per_row("candidate_ids", candidate_ids, batch_size)
    if permutations is None:
        if batch_size is None:
            size = tf.shape(query, out_type=tf.int64)[0]
        else:
            size = tf.constant(batch_size, tf.int64)
        permutations = draw(num_negatives, size, seed)
    return ShuffledCosineInputs(
        query, doc, permutations, gamma, candidate_sampling_probability, candidate_ids
    )


def _over_temperature(scale: float | tf.Tensor, t: float | tf.Tensor) -> float | tf.Tensor:
    if not isinstance(t, tf.Tensor):
        if t == 0.0:
            raise ValueError(f"`t` must not be 0. Received: {t!r}.")
        return scale / t
    if not in_xla():
        check = tf.debugging.assert_none_equal(
            t, tf.zeros([], t.dtype), message="`t` must not be 0. Received: 0."
        )
        with tf.control_dependencies([] if check is None else [check]):
            t = tf.identity(t)
    return scale / t
