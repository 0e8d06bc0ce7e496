"""What the arguments of all losses have in common."""

import math
from typing import Any, TypeVar

import tensorflow as tf

from fastneg import validation
from fastneg._tensorflow import in_xla
from fastneg.whole_numbers import NO_ID

_Arguments = TypeVar("_Arguments", bound="Arguments")


class Arguments:
    """Base of the frozen dataclasses that hold a loss's arguments.

    They are constructed from what a user gave. Their `__post_init__` converts it, checks all that
    types, static shapes and constants tell, draws what was not given, and hands the results to
    `_settle`: whoever gets such an object need not look at these things again. What only values or
    run-time shapes tell is for the backends to check.

    Attributes:
        loss_factor: What the backend's loss is to be multiplied by: a weight that is a number, and
            NaN where that is the only way to say that an argument was wrong.
    """

    loss_factor: float | tf.Tensor = 1.0

    def _settle(self, **values: Any) -> None:
        """Sets fields while the object is constructed, when it is not yet frozen for anyone."""
        vars(self).update(values)

    def replaced(self: _Arguments, **changes: Any) -> _Arguments:
        """Returns a copy with other values, which are not checked."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self), **changes)
        return copy

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """Returns the loss that a user gets, from what a backend computed."""
        if isinstance(self.loss_factor, float) and self.loss_factor == 1.0:
            return loss
        return loss * self.loss_factor


def ids_factor(given: Any, ids: tf.Tensor | None, dtype: tf.DType) -> float | tf.Tensor:
    """A factor of the loss: NaN inside XLA where not all floats that were given were ids, else 1.

    For ids of which any number is one: others are for the backends to refuse.
    """
    if in_xla() and isinstance(given, tf.Tensor) and given.dtype.is_floating:
        wrong = tf.reduce_any(tf.equal(ids, NO_ID))
        return tf.where(wrong, tf.constant(math.nan, dtype), tf.ones([], dtype))
    return 1.0


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Checks a name that is to be one of some."""
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"`{name}` must be one of {expected}. Received: {value!r}.")


def per_candidate(
    sampling_probability: Any, ids: Any, num_candidates: int | None, dtype: tf.DType
) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """Returns `candidate_sampling_probability` in `dtype` and `candidate_ids` as int64."""
    if sampling_probability is not None:
        name = "candidate_sampling_probability"
        sampling_probability = validation.real_tensor(name, sampling_probability, dtype)
        validation.per_row(name, sampling_probability, num_candidates)
    if ids is not None:
        ids = validation.integer_ids("candidate_ids", ids)
        validation.per_row("candidate_ids", ids, num_candidates)
    return sampling_probability, ids
