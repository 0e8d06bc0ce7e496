"""The arguments of `negative_cosine_loss`."""

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import has_gpus, in_xla
from fastneg.arguments.common import Arguments, ids_factor, per_candidate
from fastneg.arguments.row_options import RowOptions, row_options
from fastneg.arguments.seeds import Seed, seed_of_replica

NORMALIZATIONS = ("candidates", "batch")

# Draws independent, uniformly distributed permutations of 0 .. size-1 as [count, size], int32, from
# their count, the size (a scalar tensor, int64), and a seed.
RandomPermutations = Callable[[int, tf.Tensor, Seed], tf.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class ShuffledCosineArguments(Arguments):
    """What `negative_cosine_loss` was given, as every backend takes it.

    The compute dtype is float64 for float64 embeddings and float32 for all others. A backend raises
    tf.errors.InvalidArgumentError where run-time shapes disagree, K is 0, or a row of
    `permutations` is not a permutation. An empty batch has loss 0. Backends normalise over
    candidates; over the batch is for the reference alone.

    Args:
        num_negatives: How many permutations to draw where none are given.
        t: Temperature.
        scale: Factor of the cosines.
        seed: For drawing permutations.
        draw: How to draw them.

    Attributes:
        query: [B, D], float16, bfloat16, float32 or float64.
        doc: [B, D], the same dtype.
        normalize: One of `NORMALIZATIONS`.
        permutations: [K, B], int32 or int64, each row a permutation of 0 .. B-1. None, as it
            is of no use, with normalize="batch".
        candidate_sampling_probability: [B] in the compute dtype, a constant for differentiation; or
            None.
        candidate_ids: [B], int64, or None.
        positive_in_softmax: Whether the positive's logit is among those that are summed.
        negative_weight: 1 where the positive is in the softmax.
        correction: "standard" or "refined"; refined has probabilities, and the positive is not in
            the softmax.
        gamma: Scale of the cosines, over the temperature where the latter matters. A finite Python
            float, or a scalar tensor in the compute dtype, which is differentiated.
    """

    query: tf.Tensor
    doc: tf.Tensor
    num_negatives: InitVar[int]
    t: InitVar[float | tf.Tensor]
    scale: InitVar[float | tf.Tensor]
    normalize: str
    seed: InitVar[Seed]
    permutations: tf.Tensor
    candidate_sampling_probability: tf.Tensor | None
    candidate_ids: tf.Tensor | None
    positive_in_softmax: bool
    negative_weight: float
    correction: str
    draw: InitVar[RandomPermutations]
    gamma: float | tf.Tensor = field(init=False)

    def __post_init__(
        self, num_negatives: int, t: Any, scale: Any, seed: Seed, draw: RandomPermutations
    ) -> None:
        """Converts, checks what static shapes tell, and draws permutations where none are given."""
        if not isinstance(self.normalize, str) or self.normalize not in NORMALIZATIONS:
            expected = " or ".join(f'"{choice}"' for choice in NORMALIZATIONS)
            raise ValueError(f"`normalize` must be {expected}. Received: {self.normalize!r}.")
        query, doc = validation.embedding_pair("query", self.query, "doc", self.doc)
        batch_size = validation.static_batch_size(query, doc)
        dtype = validation.compute_dtype(query.dtype)
        scale = validation.number_or_scalar("scale", scale, dtype)
        gamma = _over_temperature(scale, validation.number_or_scalar("t", t, dtype))
        permutations = self.permutations
        if permutations is None:
            num_negatives = validation.num_negatives("num_negatives", num_negatives)
            seed = seed_of_replica(seed)
        else:
            permutations = validation.permutations("permutations", permutations, batch_size)
            if permutations.shape.rank and permutations.shape[0] is not None:
                validation.num_negatives("num_negatives", int(permutations.shape[0]))
        options = row_options(
            self.positive_in_softmax,
            self.negative_weight,
            self.correction,
            self.candidate_sampling_probability,
        )
        if self.normalize == "batch":
            self._refuse_candidates(options)
            self._settle(query=query, doc=doc, permutations=None, gamma=scale)
            return
        probability, ids = per_candidate(
            self.candidate_sampling_probability, self.candidate_ids, batch_size, dtype
        )
        if permutations is None:
            if batch_size is None:
                size = tf.shape(query, out_type=tf.int64)[0]
            else:
                size = tf.constant(batch_size, tf.int64)
            permutations = draw(num_negatives, size, seed)
        self._settle(
            query=query,
            doc=doc,
            permutations=permutations,
            candidate_sampling_probability=probability,
            candidate_ids=ids,
            gamma=gamma,
            loss_factor=ids_factor(self.candidate_ids, ids, dtype),
            **options,
        )

    def _refuse_candidates(self, options: RowOptions) -> None:
        if not options["positive_in_softmax"]:
            raise ValueError(
                '`positive_in_softmax` must be True with normalize="batch", where the negatives '
                "drop out. Received: False."
            )
        for name in ("candidate_sampling_probability", "candidate_ids"):
            value = getattr(self, name)
            if value is not None:
                raise ValueError(
                    f'`{name}` must be None with normalize="batch", where the negatives drop out. '
                    f"Received: {value!r}."
                )


def _over_temperature(scale: float | tf.Tensor, t: float | tf.Tensor) -> float | tf.Tensor:
    if not isinstance(t, tf.Tensor):
        if t == 0.0:
            raise ValueError(f"`t` must not be 0. Received: {t!r}.")
        return scale / t
    # Looking at a value makes the host wait for a GPU; a temperature of 0 gives NaN there.
    if not in_xla() and not has_gpus():
        check = tf.debugging.assert_none_equal(
            t, tf.zeros([], t.dtype), message="`t` must not be 0. Received: 0."
        )
        with tf.control_dependencies([] if check is None else [check]):
            t = tf.identity(t)
    return scale / t
