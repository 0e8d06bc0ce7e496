"""The few places where fastneg touches TensorFlow's internals, gathered in one file.

Public TensorFlow has no way to ask whether code is being traced for XLA, or whether a gradient tape
is following a tensor. Both questions decide what is worth computing.
"""

import ctypes
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python import pywrap_tfe
from tensorflow.python.distribute.sharded_variable import ShardedVariable
from tensorflow.python.eager import forwardprop_util, record
from tensorflow.python.framework.func_graph import FuncGraph
from tensorflow.python.ops import control_flow_util

_OLDEST = (2, 16)
_VERSION = tuple(int(part) for part in tf.__version__.split(".")[:2])

# TensorFlow 2.16 does not export XLA's foreign function interface, and 2.17 crashes when a handler
# is registered.
_OLDEST_FOR_XLA_HANDLERS = (2, 18)

if _VERSION < _OLDEST:
    raise ImportError(
        f"fastneg needs TensorFlow {'.'.join(map(str, _OLDEST))} or newer. "
        f"Received: {tf.__version__}."
    )


def in_xla() -> bool:
    """Whether the graph being traced, or one around it, will be compiled by XLA."""
    if tf.executing_eagerly():
        return False
    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def has_gpus() -> bool:
    """Whether TensorFlow may put anything on a GPU."""
    return bool(tf.config.list_logical_devices("GPU"))


def is_argument_or_variable(value: Any, *, cast: bool = True) -> bool:
    """Whether a tensor of a graph is an argument of the outermost function, or a variable's value.

    Its gradient is then nobody's to process but the caller's. With `cast`, it may have been cast.
    """
    if isinstance(value, tf.Variable):
        return True
    operation = value.op
    while operation.type == "Identity" or (cast and operation.type == "Cast"):
        operation = operation.inputs[0].op
    if operation.type == "Placeholder":
        return not isinstance(getattr(operation.graph, "outer_graph", None), FuncGraph)
    return bool(operation.type == "ReadVariableOp")


def shards_of(value: Any) -> list[Any] | None:
    """Returns the variables that a variable sharded by a distribution strategy is made of."""
    return list(value.variables) if isinstance(value, ShardedVariable) else None


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


def xla_handler_interface() -> int:
    """The address of XLA's `XLA_FFI_Api`, through which handlers of custom calls register.

    Raises:
        ImportError: This TensorFlow has none.
    """
    if _VERSION < _OLDEST_FOR_XLA_HANDLERS:
        raise ImportError(
            f"TensorFlow {'.'.join(map(str, _OLDEST_FOR_XLA_HANDLERS))} or newer is needed inside "
            f"XLA. Received: {tf.__version__}."
        )
    try:
        library = ctypes.CDLL(f"{tf.sysconfig.get_lib()}/libtensorflow_cc.so.2")
        get = library._ZN3xla3ffi12GetXlaFfiApiEv
    except (OSError, AttributeError) as error:
        raise ImportError(f"This TensorFlow does not offer XLA's interface: {error}") from error
    get.restype = ctypes.c_void_p
    address = get()
    if not address:
        raise ImportError("This TensorFlow does not offer XLA's interface: it is empty")
    return int(address)


def xla_call_module(
    arguments: Sequence[tf.Tensor],
    *,
    module: str,
    dtypes: Sequence[tf.DType],
    shapes: Sequence[tf.TensorShape],
    platforms: Sequence[str],
) -> list[tf.Tensor]:
    """Runs a module in StableHLO's text form."""
    return list(
        gen_xla_ops.xla_call_module(
            args=list(arguments),
            version=9,
            module=module,
            Tout=list(dtypes),
            Sout=list(shapes),
            platforms=list(platforms),
            dim_args_spec=[],
            function_list=[],
            has_token_input_output=False,
            disabled_checks=[],
        )
    )


def set_xla_module(node: tf.Operation, module: str, shapes: Sequence[tf.TensorShape]) -> None:
    """Gives an XlaCallModule operation another module, whose results have `shapes`."""
    node._set_attr("module", attr_value_pb2.AttrValue(s=module.encode()))
    protos = attr_value_pb2.AttrValue.ListValue(shape=[shape.as_proto() for shape in shapes])
    node._set_attr("Sout", attr_value_pb2.AttrValue(list=protos))


def register_gradient_of_xla_call_modules(gradient: Callable[..., Any]) -> None:
    """Gives XlaCallModule operations their gradient, of which TensorFlow knows none.

    Raises:
        ImportError: Somebody else has registered one.
    """
    try:
        tf.RegisterGradient("XlaCallModule")(gradient)
    except KeyError as error:
        raise ImportError(f"XlaCallModule has a gradient already: {error}") from error
