"""The few places where fastneg touches TensorFlow's internals, gathered in one file.

Public TensorFlow has no way to ask whether code is being traced for XLA, or whether a gradient tape
is following a tensor. Both questions decide what is worth computing.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import forwardprop_util, record
from tensorflow.python.ops import control_flow_util

_OLDEST = (2, 16)

if tuple(int(part) for part in tf.__version__.split(".")[:2]) < _OLDEST:
    raise ImportError(
        f"fastneg needs TensorFlow {'.'.join(map(str, _OLDEST))} or newer. "
        f"Received: {tf.__version__}."
    )


def in_xla() -> bool:
    """Whether the graph being traced, or one around it, will be compiled by XLA."""
    if tf.executing_eagerly():
        return False
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def is_followed(tensors: Sequence[tf.Tensor]) -> bool:
    """Whether a gradient tape or forward accumulator follows any of `tensors`."""
    return bool(pywrap_tfe.TFE_Py_TapeSetPossibleGradientTypes(tensors))


def has_tangents(tensors: Sequence[tf.Tensor]) -> bool:
    """Whether a forward accumulator follows any of `tensors`."""
    return bool(forwardprop_util.pack_tangents(list(tensors)).tangents)


def anything_recording() -> bool:
    """Whether any gradient tape or forward accumulator is active."""
    return bool(record.could_possibly_record())


def stop_recording() -> AbstractContextManager[None]:
    """Hides what happens inside from every gradient tape and forward accumulator."""
    return record.stop_recording()  # type: ignore[no-any-return]


def record_operation(
    op_type: str, outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor], backward: Any
) -> None:
    """Tells every active tape that `outputs` came from `inputs`, and how to go back."""
    record.record_operation(op_type, list(outputs), list(inputs), backward)


def can_be_changed(operation: tf.Operation) -> bool:
    """Whether changes of an operation reach whoever runs its graph.

    A session of TensorFlow 1 keeps the operations that it has run as they were.
    """
    return bool(operation.graph.building_function)


def set_constant(constant: tf.Tensor, value: Any) -> None:
    """Changes the value of a constant in the graph that it belongs to, for whoever reads it."""
    proto = tf.make_tensor_proto(value, constant.dtype)
    constant.op._set_attr("value", attr_value_pb2.AttrValue(tensor=proto))
