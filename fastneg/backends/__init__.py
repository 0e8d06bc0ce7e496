"""The backends and what they have to offer.

A backend is a module with `load`, which makes it usable or raises with the reason, and one function
per loss, named by the loss's stem, that takes the loss's arguments whole (`fastneg.arguments`). All
that static shapes can tell is checked by then; what only values or run-time shapes can tell is the
backend's to check, with `tf.errors.InvalidArgumentError`.
"""

import importlib
import threading
from typing import Any, Protocol, TypeVar, cast

import tensorflow as tf

from fastneg.arguments.in_batch_softmax import InBatchSoftmaxArguments, PositiveRanksArguments
from fastneg.arguments.pairwise_logistic import PairwiseLogisticArguments
from fastneg.arguments.rolled_softmax import RolledSoftmaxArguments
from fastneg.arguments.sampled_softmax import SampledSoftmaxArguments
from fastneg.arguments.shuffled_cosine import RandomPermutations, ShuffledCosineArguments
from fastneg.arguments.sv_softmax import SvSoftmaxArguments

_Arguments = TypeVar("_Arguments", contravariant=True)

# In the order in which "auto" tries them.
NAMES = ("native", "numba", "reference")


class BackendUnavailableError(RuntimeError):
    """A backend was asked for by name and cannot be used."""


class Loss(Protocol[_Arguments]):
    """A loss as a backend computes it, from its arguments (`fastneg.arguments`) to what it returns.

    Returns:
        The loss in the compute dtype, differentiable with respect to what the arguments say.

    Raises:
        tf.errors.InvalidArgumentError: Run-time shapes or values are not as the arguments say.
    """

    def __call__(self, arguments: _Arguments, /) -> tf.Tensor:  # noqa: D102 - see the class.
        ...


class Backend(Protocol):
    """What a backend module offers.

    A backend may lack a loss, as numba lacks `in_batch_softmax` and `positive_ranks`: "auto" then
    takes the next one.
    """

    @property
    def rolled_softmax(self) -> Loss[RolledSoftmaxArguments]:
        """`softmax_loss_with_negative_mining`."""
        ...

    @property
    def shuffled_cosine(self) -> Loss[ShuffledCosineArguments]:
        """`negative_cosine_loss`, normalised over candidates."""
        ...

    @property
    def sv_softmax(self) -> Loss[SvSoftmaxArguments]:
        """`support_vector_guided_softmax_loss`."""
        ...

    @property
    def sampled_softmax(self) -> Loss[SampledSoftmaxArguments]:
        """`sampled_softmax_loss`."""
        ...

    @property
    def pairwise_logistic(self) -> Loss[PairwiseLogisticArguments]:
        """`pairwise_loss`."""
        ...

    @property
    def in_batch_softmax(self) -> Loss[InBatchSoftmaxArguments]:
        """`in_batch_softmax_loss`."""
        ...

    @property
    def positive_ranks(self) -> Loss[PositiveRanksArguments]:
        """`positive_ranks`, which no gradient goes through."""
        ...

    @property
    def random_permutations(self) -> RandomPermutations:
        """What `negative_cosine_loss` draws."""
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


def load_first(function: str | None = None) -> tuple[str, Backend]:
    """Returns the first backend that loads, and has a function if that is named, with its name."""
    for name in NAMES:
        outcome = _outcome(name)
        if isinstance(outcome, Exception):
            continue
        if function is None or hasattr(outcome, function):
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
