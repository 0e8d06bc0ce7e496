"""Rows of a table, in functions that XLA compiles for CPUs.

XLA's own gather takes the rows number by number there, on one thread, and several times as long.
"""

import tensorflow as tf

from fastneg.backends.native.custom_call import (
    Description,
    Result,
    custom_call,
    ranked,
    register_gradient,
)
from fastneg.backends.native.sizes import size

_OP = "Fastneg>GatherRows"


def gather_rows(table: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """`tf.gather(table, ids)` of a matrix; the gradient is a `tf.IndexedSlices`."""
    table = ranked(table, 2)
    (rows,) = custom_call(
        Description(_OP, {}, {}),
        [table, ids],
        [Result(table.dtype, [size(ids, 0), size(table, 1)])],
        ["CPU"],
    )
    return rows


def _gradient(op: tf.Operation, grad_rows: tf.Tensor) -> list[tf.IndexedSlices | None]:
    table, ids = op.inputs
    return [tf.IndexedSlices(grad_rows, ids, tf.shape(table)), None]


tf.RegisterGradient(_OP)(_gradient)
register_gradient(_OP, _gradient)
