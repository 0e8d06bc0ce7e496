"""Functions as graphs and inside XLA, traced once for all cases that differ in their tensors alone.

Tracing and compiling take a hundred times as long as running what comes out.
"""

import collections
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from fastneg import config

_KEPT = 60  # Each holds a graph, and those of XLA a program.

_functions: collections.OrderedDict[Any, Callable[..., Any]] = collections.OrderedDict()


def wrap(
    compute: Callable[..., Any],
    mode: str,
    arguments: Mapping[str, tf.Tensor],
    specs: Mapping[str, tf.TensorSpec] | None = None,
) -> Callable[..., Any]:
    """`compute` as it runs in a mode: "eager", "graph", "xla", or with `specs` of its arguments.

    A function of an earlier call serves where it has the same code, which closes over the same, and
    was traced with the same backend in force.
    """
    if mode == "eager":
        return compute
    try:
        key: Any = (
            mode,
            id(config.active_backend()),
            _identity(compute),
            tuple((name, value.dtype, value.shape.rank) for name, value in arguments.items()),
            None if specs is None else tuple(specs.items()),
        )
    except _MayChangeError:
        return _made(compute, mode, specs)
    if key not in _functions:
        _functions[key] = _made(compute, mode, specs)
        if len(_functions) > _KEPT:
            _functions.popitem(last=False)
    _functions.move_to_end(key)
    return _functions[key]


def _made(
    compute: Callable[..., Any], mode: str, specs: Mapping[str, tf.TensorSpec] | None
) -> Callable[..., Any]:
    function = tf.function(compute, autograph=False, jit_compile=mode == "xla")
    return function if specs is None else function.get_concrete_function(**specs)


class _MayChangeError(TypeError):
    """Nobody can tell whether two such values are the same, or stay so."""


def _identity(value: Any) -> Any:
    """What is equal for values that a trace cannot tell apart."""
    if value is None or isinstance(value, bool | int | float | str | tf.DType | np.dtype):
        return type(value), repr(value)
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype, np.shape(value), value.tobytes()
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_identity, value))
    if isinstance(value, Mapping):
        return type(value), tuple((name, _identity(value[name])) for name in value)
    if isinstance(value, types.FunctionType):
        closed_over = tuple(_identity(cell.cell_contents) for cell in value.__closure__ or ())
        defaults = _identity((value.__defaults__, value.__kwdefaults__))
        return value.__module__, value.__code__, defaults, closed_over
    raise _MayChangeError(type(value))
