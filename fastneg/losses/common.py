"""What the public losses share: the scope in the graph, and the backend that computes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from fastneg import backends, config
from fastneg._tensorflow import in_xla


def scope(name: str | None, default: str) -> AbstractContextManager[Any]:
    """Returns the name scope of a loss, which eager calls go without."""
    if tf.executing_eagerly():
        return nullcontext()
    return tf.name_scope(name or default)  # type: ignore[no-any-return]


def backend(function: str) -> backends.Backend:
    """Returns the backend in force, or the reference inside XLA if XLA cannot call `function`."""
    chosen = config.active_backend()
    if not hasattr(chosen, function):
        chosen = config.backend_with(function)
    if in_xla() and not chosen.runs_in_xla(function):
        return backends.load("reference")
    return chosen
