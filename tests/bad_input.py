"""How losses are given bad arguments: while they are traced, and when a traced function runs."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

# A name, then what it changes in good arguments and what the message must match.
Cases = Mapping[str, tuple[Mapping[str, Any], str]]


def assert_refused(
    loss: Callable[..., Any], arguments: Mapping[str, Any], message: str, mode: str
) -> None:
    """Arguments that are wrong as they stand: a ValueError, eagerly and while tracing."""
    call = loss if mode == "eager" else tf.function(lambda: loss(**arguments), autograph=False)
    with pytest.raises(ValueError, match=message):
        call() if mode == "graph" else call(**arguments)


def specs_of(values: Mapping[str, Any], rank: str) -> dict[str, tf.TensorSpec]:
    """Specifications that know the rank of each value ("known"), or not even that ("unknown")."""
    return {
        name: tf.TensorSpec(
            None if rank == "unknown" else [None] * np.ndim(value), np.asarray(value).dtype
        )
        for name, value in values.items()
    }


def assert_refused_when_run(
    compute: Callable[..., Any],
    specs: Mapping[str, tf.TensorSpec],
    good: Mapping[str, Any],
    cases: Cases,
) -> Any:
    """One traced function, to which bad arguments come only when it runs.

    Returns what it makes of the good ones afterwards: errors must leave it as good as before.
    """
    function = tf.function(compute, autograph=False).get_concrete_function(**specs)
    for case, (changes, message) in cases.items():
        arguments = {
            name: tf.constant(value, specs[name].dtype)
            for name, value in {**good, **changes}.items()
        }
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            pytest.fail(f"{case}: {function(**arguments)}")
    return function(**{name: tf.constant(value) for name, value in good.items()})
