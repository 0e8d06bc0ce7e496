"""The backends and what they have to offer.

A backend is a module with `load`, which makes it usable or raises with the reason, and one function
per loss, named by the loss's stem. Arguments arrive as tensors of the right dtype, and all that
static shapes can tell is checked; what only values or run-time shapes can tell (see
`RolledSoftmax`) is the backend's to check, with `tf.errors.InvalidArgumentError`.
"""

import importlib
import threading
from typing import Any, Protocol, cast

import tensorflow as tf

# In the order in which "auto" tries them.
NAMES = ("native", "numba", "reference")


class BackendUnavailableError(RuntimeError):
    """A backend was asked for by name and cannot be used."""


class RolledSoftmax(Protocol):
    """`softmax_loss_with_negative_mining` as a backend computes it.

    The compute dtype is float64 for float64 embeddings and float32 for all others.

    Args:
        user_emb: [B, D], float16, bfloat16, float32 or float64.
        item_emb: [B, D], the same dtype.
        labels: [B] or [B, 1], any real dtype or bool. Rows with labels > 0 count.
        shifts: [K], int64, taken modulo B.
        embed_normed: The rows are used as they are instead of being L2-normalised.
        weights: [B] or [B, 1] in the compute dtype, or None for 1 everywhere.
        gamma: A finite Python float, or a scalar tensor in the compute dtype, which is
            differentiated.
        margin: As `gamma`.
        t: As `gamma`.
        candidate_sampling_probability: [B] in the compute dtype, a constant for differentiation.
        candidate_ids: [B], int64.

    Returns:
        The scalar loss in the compute dtype.

    Raises:
        tf.errors.InvalidArgumentError: Run-time shapes disagree, K is not in 1 .. B-1, or a shift
            is 0 modulo B. An empty batch has loss 0 and raises nothing.
    """

    def __call__(  # noqa: D102 - described by the class.
        self,
        user_emb: tf.Tensor,
        item_emb: tf.Tensor,
        labels: tf.Tensor,
        shifts: tf.Tensor,
        *,
        embed_normed: bool,
        weights: tf.Tensor | None,
        gamma: float | tf.Tensor,
        margin: float | tf.Tensor,
        t: float | tf.Tensor,
        candidate_sampling_probability: tf.Tensor | None,
        candidate_ids: tf.Tensor | None,
    ) -> tf.Tensor: ...


class ShuffledCosine(Protocol):
    """`negative_cosine_loss`, normalised over candidates, as a backend computes it.

    Args:
        query: [B, D], float16, bfloat16, float32 or float64.
        doc: [B, D], the same dtype.
        permutations: [K, B], int32 or int64, each row a permutation of 0 .. B-1.
        gamma: Scale of the cosines, over the temperature. A finite Python float, or a scalar tensor
            in the compute dtype, which is differentiated.
        candidate_sampling_probability: [B] in the compute dtype, a constant for differentiation.
        candidate_ids: [B], int64.

    Returns:
        The scalar loss in the compute dtype.

    Raises:
        tf.errors.InvalidArgumentError: Run-time shapes disagree, K is 0, or a row of `permutations`
            is not a permutation. An empty batch has loss 0.
    """

    def __call__(  # noqa: D102 - described by the class.
        self,
        query: tf.Tensor,
        doc: tf.Tensor,
        permutations: tf.Tensor,
        *,
        gamma: float | tf.Tensor,
        candidate_sampling_probability: tf.Tensor | None,
        candidate_ids: tf.Tensor | None,
    ) -> tf.Tensor: ...


class SvSoftmax(Protocol):
    """`support_vector_guided_softmax_loss` as a backend computes it.

    Args:
        pos_score: [P] or [P, 1], float16, bfloat16, float32 or float64.
        neg_scores: [P, K], the same dtype.
        smooth: A finite Python float, or a scalar tensor in the compute dtype, which is
            differentiated.
        margin: As `smooth`.
        t: As `smooth`.
        threshold: As `smooth`, but a constant for differentiation.
        weights: [P] or [P, 1] in the compute dtype, or None for 1 everywhere.

    Returns:
        The scalar loss in the compute dtype.

    Raises:
        tf.errors.InvalidArgumentError: Run-time shapes disagree.
    """

    def __call__(  # noqa: D102 - described by the class.
        self,
        pos_score: tf.Tensor,
        neg_scores: tf.Tensor,
        *,
        smooth: float | tf.Tensor,
        margin: float | tf.Tensor,
        t: float | tf.Tensor,
        threshold: float | tf.Tensor,
        weights: tf.Tensor | None,
    ) -> tf.Tensor: ...


class SampledSoftmax(Protocol):
    """`sampled_softmax_loss` as a backend computes it.

    Args:
        weights: The table [V, D] in shards, each a variable or a tensor; one or more.
        biases: As the table, [V], or None.
        labels: [B, num_true], int64.
        inputs: [B, D], float16, bfloat16, float32 or float64.
        sampled: [S], int64.
        true_expected_count: [B, num_true] in the compute dtype of `inputs`, a constant for
            differentiation.
        sampled_expected_count: [S], likewise.
        num_true: At least 1.
        num_classes: V.
        remove_accidental_hits: Whether samples that are labels of a row are left out of its loss.

    Returns:
        The losses [B] in the compute dtype.

    Raises:
        tf.errors.InvalidArgumentError: Run-time shapes disagree, or a label or a sample is not in
            0 .. V - 1.
    """

    def __call__(  # noqa: D102 - described by the class.
        self,
        weights: list[Any],
        biases: list[Any] | None,
        labels: tf.Tensor,
        inputs: tf.Tensor,
        sampled: tf.Tensor,
        true_expected_count: tf.Tensor,
        sampled_expected_count: tf.Tensor,
        *,
        num_true: int,
        num_classes: int,
        remove_accidental_hits: bool,
    ) -> tf.Tensor: ...


class RandomPermutations(Protocol):
    """Draws independent, uniformly distributed permutations of 0 .. size-1.

    Args:
        count: How many.
        size: A scalar tensor, int64.
        seed: As in `tf.random.uniform`.

    Returns:
        [count, size], int32.
    """

    def __call__(  # noqa: D102 - described by the class.
        self, count: int, size: tf.Tensor, seed: int | None
    ) -> tf.Tensor: ...


class PairwiseLogistic(Protocol):
    """`pairwise_loss` as a backend computes it.

    Args:
        labels: [B] or [B, 1], any real dtype or bool. A row with label NaN is in no pair.
        logits: [B] or [B, 1], float16, bfloat16, float32 or float64.
        session_ids: [B] or [B, 1], int64, or None for one session.
        weights: [B] or [B, 1] in the compute dtype, or None for 1 everywhere.
        margin: A finite Python float, or a scalar tensor in the compute dtype, which is
            differentiated.
        temperature: As `margin`; a float is not 0.

    Returns:
        The scalar loss in the compute dtype.

    Raises:
        tf.errors.InvalidArgumentError: Run-time shapes disagree, or the temperature is 0.
    """

    def __call__(  # noqa: D102 - described by the class.
        self,
        labels: tf.Tensor,
        logits: tf.Tensor,
        *,
        session_ids: tf.Tensor | None,
        weights: tf.Tensor | None,
        margin: float | tf.Tensor,
        temperature: float | tf.Tensor,
    ) -> tf.Tensor: ...


class Backend(Protocol):
    """What a backend module offers."""

    @property
    def rolled_softmax(self) -> RolledSoftmax:
        """`softmax_loss_with_negative_mining`."""
        ...

    @property
    def shuffled_cosine(self) -> ShuffledCosine:
        """`negative_cosine_loss`."""
        ...

    @property
    def sv_softmax(self) -> SvSoftmax:
        """`support_vector_guided_softmax_loss`."""
        ...

    @property
    def sampled_softmax(self) -> SampledSoftmax:
        """`sampled_softmax_loss`."""
        ...

    @property
    def random_permutations(self) -> RandomPermutations:
        """What `negative_cosine_loss` draws."""
        ...

    @property
    def pairwise_logistic(self) -> PairwiseLogistic:
        """`pairwise_loss`."""
        ...

    def load(self) -> None:
        """Makes the backend usable, or raises with the reason why it cannot be."""

    def runs_in_xla(self, loss: str) -> bool:
        """Whether a function that XLA compiles can call the function named `loss`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns facts for `fastneg.build_info`."""
        ...


_lock = threading.RLock()
_outcomes: dict[str, Backend | Exception] = {}


def load(name: str) -> Backend:
    """Returns the backend `name`, or raises BackendUnavailableError with the reason it has none."""
    outcome = _outcome(name)
    if isinstance(outcome, Exception):
        raise BackendUnavailableError(
            f'The "{name}" backend must load before it can be used. Received: {_reason(outcome)}'
        ) from outcome
    return outcome


def load_first() -> tuple[str, Backend]:
    """Returns the first backend that loads, with its name."""
    for name in NAMES:
        outcome = _outcome(name)
        if not isinstance(outcome, Exception):
            return name, outcome
    raise AssertionError("The reference backend always loads.")


def why_unavailable(name: str) -> str | None:
    """Returns None if the backend `name` loads, else the reason why not."""
    outcome = _outcome(name)
    return _reason(outcome) if isinstance(outcome, Exception) else None


def register_operations() -> None:
    """Registers the native operations with TensorFlow if they load; a failure is kept for later."""
    _outcome("native")


def _outcome(name: str) -> Backend | Exception:
    outcome = _outcomes.get(name)
    if outcome is not None:
        return outcome
    with _lock:
        if name not in _outcomes:
            _outcomes[name] = _try(name)
        return _outcomes[name]


def _try(name: str) -> Backend | Exception:
    # Whatever a backend's dependencies raise while they load (numba alone has a dozen ways), the
    # next backend serves; the reason stays on record.
    try:
        backend = cast("Backend", importlib.import_module(f"fastneg.backends.{name}"))
        backend.load()
    except Exception as error:
        return error
    return backend


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
