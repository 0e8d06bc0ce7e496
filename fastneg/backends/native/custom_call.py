"""Operations of fastneg as custom calls of XLA, which TensorFlow runs through its XlaCallModule.

XlaCallModule compiles a module in StableHLO's text form, wherever it stands: inside a function that
XLA compiles as a part of it, elsewhere by itself, once for each shape. The module here holds one
custom call; the handler that XLA finds for it (csrc/xla_ffi) reads which operation is meant from
its attributes. Behind sizes that are not known yet, the module names tensors that have them, and
XLA works the shapes of the results out when it compiles.

What a gradient function must know of a call stands in the first line of the module, a comment.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from fastneg import _tensorflow
from fastneg.backends import autodiff
from fastneg.backends.native.sizes import Shape, Size, static
from fastneg.backends.native.symbols import pass_on_num_threads

TARGET = "fastneg"

Grads = Sequence[tf.Tensor | tf.IndexedSlices | None]

# From an XlaCallModule operation and the gradients of its results to those of its inputs.
Gradient = Callable[..., Grads]

# Of the operations that have one, by name.
_gradients: dict[str, Gradient] = {}

_MARK = "// fastneg: "
_ELEMENTS = {
    tf.bool: "i1",
    tf.int8: "i8",
    tf.uint8: "ui8",
    tf.int16: "i16",
    tf.uint16: "ui16",
    tf.int32: "i32",
    tf.uint32: "ui32",
    tf.int64: "i64",
    tf.uint64: "ui64",
    tf.float16: "f16",
    tf.bfloat16: "bf16",
    tf.float32: "f32",
    tf.float64: "f64",
}


class Description(NamedTuple):
    """Which operation a custom call runs, and how.

    Args:
        op: The operation's name, "Fastneg>RolledSoftmax".
        attributes: Its attributes: flags and counts.
        numbers: Scalar inputs that are not tensors, by name.
    """

    op: str
    attributes: dict[str, bool | int]
    numbers: dict[str, float]


class Result(NamedTuple):
    """What a custom call returns.

    Args:
        dtype: Its type.
        shape: Its shape.
        fixed: Whether that is its shape for good, and not only until the call is changed.
        operand: The number of the input whose buffer becomes the result's. XLA copies the input if
            anything else needs it. Its type has to be the result's.
    """

    dtype: tf.DType
    shape: Shape
    fixed: bool = True
    operand: int | None = None


def custom_call(
    description: Description,
    inputs: Sequence[tf.Tensor],
    results: Sequence[Result],
    platforms: Sequence[str],
    witnesses: Sequence[tf.Tensor] = (),
) -> list[tf.Tensor]:
    """Runs an operation.

    Args:
        description: Which.
        inputs: Those of its inputs that are tensors. Their ranks are known.
        results: What it returns.
        platforms: "CPU", "CUDA": where it may run.
        witnesses: Further tensors, of which only sizes are used.
    """
    pass_on_num_threads()
    operands = [*inputs, *witnesses]
    module = _module(description, operands, results, _index(platforms), len(witnesses))
    outputs = _tensorflow.xla_call_module(
        operands,
        module=module,
        dtypes=[result.dtype for result in results],
        shapes=[static(result.shape if result.fixed else None) for result in results],
        platforms=list(platforms),
    )
    return list(outputs)


def change(node: tf.Operation, description: Description, results: Sequence[Result]) -> None:
    """Turns the call that `node` makes into another one with the same inputs."""
    module = _module(description, list(node.inputs), results, _index(node.get_attr("platforms")), 0)
    shapes = [static(result.shape) for result in results]
    _tensorflow.set_xla_module(node, module, shapes)
    for output, shape in zip(node.outputs, shapes, strict=True):
        output.set_shape(shape)


def register_gradient(op: str, gradient: Gradient) -> None:
    """Tells the gradient of the calls of an operation."""
    _gradients[op] = gradient


def gradient_of_xla_call_module(node: Any, *grads: tf.Tensor) -> Grads:
    """The gradient of XlaCallModule, of which TensorFlow has none: for fastneg's operations."""
    description = described(node)
    if description is None:
        raise LookupError("gradient registry has no entry for: XlaCallModule")
    if description.op not in _gradients:
        raise autodiff.second_derivative_error()
    return _gradients[description.op](node, *grads)


def by_row(name: str, tensor: tf.Tensor, num_rows: tf.Tensor) -> tf.Tensor:
    """Checks that a tensor has no rows where a batch has none.

    XLA leaves out a call that returns nothing, and with it what the call checks.
    """
    expected = tf.where(num_rows == 0, num_rows, tf.shape(tensor)[0])
    shape = tf.concat([[expected], tf.shape(tensor)[1:]], axis=0)
    checked = tf.reshape(tensor, shape, name=f"{name}_has_a_row_for_each_input")
    checked.set_shape([None, *tensor.shape[1:]])
    return checked


def ranked(tensor: tf.Tensor, rank: int | None = None) -> tf.Tensor:
    """A tensor whose rank is known: if nothing else tells it, `rank`, or that of a vector."""
    if tensor.shape.rank is not None:
        return tensor
    if rank is None:
        return tf.reshape(tensor, [-1])
    return tf.ensure_shape(tensor, [None] * rank)


def is_custom_call(tensor: tf.Tensor) -> bool:
    """Whether a tensor is one of a graph that comes from a custom call."""
    return not isinstance(tensor, tf.__internal__.EagerTensor) and tensor.op.type == "XlaCallModule"


def described(node: Any) -> Description | None:
    """The call that an XlaCallModule operation makes; None if it is not one of fastneg's."""
    module = node.get_attr("module")
    text = module.decode(errors="replace") if isinstance(module, bytes) else module
    if not text.startswith(_MARK):
        return None
    line = text[len(_MARK) :].partition("\n")[0]
    return Description(**json.loads(line))


def _index(platforms: Sequence[Any]) -> list[str]:
    """With several platforms, XlaCallModule tells the module in front of all else which it is."""
    return [_type(tf.int32, [])] if len(platforms) > 1 else []


def _module(
    description: Description,
    operands: Sequence[tf.Tensor],
    results: Sequence[Result],
    index: list[str],
    num_witnesses: int,
) -> str:
    types = [_type(operand.dtype, operand.shape.as_list()) for operand in operands]
    names = [f"%operand{i}" for i in range(len(operands))]
    parameters = [
        f"{name}: {type_}"
        for name, type_ in zip(["%platform"] * len(index) + names, index + types, strict=True)
    ]
    result_types = [_type(result.dtype, static(result.shape).as_list()) for result in results]
    lines = _Lines(operands, names)
    layouts = [_layout(operand.shape.rank) for operand in operands]
    attributes = [
        "api_version = 4 : i32",
        f"backend_config = {_config(description, num_witnesses)}",
    ]
    arguments, argument_types = list(names), list(types)
    if any(isinstance(size, Size) for result in results for size in result.shape or ()):
        places = range(len(names), len(names) + len(results))
        attributes.append(
            f"indices_of_shape_operands = dense<{list(places)}> : tensor<{len(results)}xi64>"
        )
        for result in results:
            name, rank = lines.shape(result.shape or ())
            arguments.append(name)
            argument_types.append(f"tensor<{rank}xi32>")
            layouts.append(_layout(1))
    attributes.append(f"operand_layouts = [{', '.join(layouts)}]")
    ranks = [len(result.shape or ()) for result in results]
    attributes.append(f"result_layouts = [{', '.join(map(_layout, ranks))}]")
    in_place = [
        f"#stablehlo.output_operand_alias<output_tuple_indices = [{i if len(results) > 1 else ''}],"
        f" operand_index = {result.operand}, operand_tuple_indices = []>"
        for i, result in enumerate(results)
        if result.operand is not None
    ]
    if in_place:
        attributes.append(f"output_operand_aliases = [{', '.join(in_place)}]")
    values = ", ".join(f"%results#{i}" for i in range(len(results)))
    header = json.dumps(description._asdict(), sort_keys=True)
    return "\n".join(
        [
            _MARK + header,
            "module @fastneg attributes {jax.uses_shape_polymorphism = true} {",
            f"  func.func public @main({', '.join(parameters)}) -> ({', '.join(result_types)}) {{",
            *lines.text,
            f"    %results:{len(results)} = stablehlo.custom_call @{TARGET}({', '.join(arguments)})"
            f" {{{', '.join(attributes)}}}"
            f" : ({', '.join(argument_types)}) -> ({', '.join(result_types)})",
            f"    return {values} : {', '.join(result_types)}",
            "  }",
            "}",
        ]
    )


class _Lines:
    """Lines of a module that compute the shapes of results."""

    def __init__(self, operands: Sequence[tf.Tensor], names: Sequence[str]) -> None:
        self._operands = operands
        self._names = names
        self._known: dict[int | tuple[int, int], str] = {}
        self.text: list[str] = []

    def shape(self, sizes: Sequence[int | Size]) -> tuple[str, int]:
        """The name of a vector that holds `sizes`, and its length."""
        if not sizes:
            return self._add("stablehlo.constant dense<> : tensor<0xi32>"), 0
        vectors = [self._size(size) for size in sizes]
        if len(vectors) == 1:
            return vectors[0], 1
        types = ", ".join(["tensor<1xi32>"] * len(vectors))
        return (
            self._add(
                f"stablehlo.concatenate {', '.join(vectors)}, dim = 0"
                f" : ({types}) -> tensor<{len(vectors)}xi32>"
            ),
            len(vectors),
        )

    def _size(self, size: int | Size) -> str:
        if not isinstance(size, Size):
            return self._once(size, self._constant, size)
        place = next(i for i, operand in enumerate(self._operands) if operand is size.tensor)
        return self._once((place, size.axis), self._looked_up, place, size.axis)

    def _once(self, key: int | tuple[int, int], make: Callable[..., str], *arguments: int) -> str:
        if key not in self._known:
            self._known[key] = make(*arguments)
        return self._known[key]

    def _constant(self, value: int) -> str:
        return self._add(f"stablehlo.constant dense<{value}> : tensor<1xi32>")

    def _looked_up(self, place: int, axis: int) -> str:
        operand = self._operands[place]
        type_ = _type(operand.dtype, operand.shape.as_list())
        size = self._add(
            f"stablehlo.get_dimension_size {self._names[place]}, dim = {axis}"
            f" : ({type_}) -> tensor<i32>"
        )
        return self._add(f"stablehlo.reshape {size} : (tensor<i32>) -> tensor<1xi32>")

    def _add(self, operation: str) -> str:
        name = f"%{len(self.text)}"
        self.text.append(f"    {name} = {operation}")
        return name


def _type(dtype: tf.DType, shape: Sequence[int | None]) -> str:
    dims = "".join(f"{'?' if size is None else size}x" for size in shape)
    return f"tensor<{dims}{_ELEMENTS[dtype]}>"


def _layout(rank: int) -> str:
    """Row-major."""
    if rank == 0:
        return "dense<> : tensor<0xindex>"
    return f"dense<{list(range(rank))[::-1]}> : tensor<{rank}xindex>"


def _config(description: Description, num_witnesses: int) -> str:
    entries: Mapping[str, str] = {
        "op": f'"{description.op}"',
        **{name: _attribute(value) for name, value in description.attributes.items()},
        **{name: _attribute(value) for name, value in description.numbers.items()},
    }
    if num_witnesses:
        entries = {**entries, "witnesses": _attribute(num_witnesses)}
    return "{" + ", ".join(f"{name} = {value}" for name, value in entries.items()) + "}"


def _attribute(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value} : i64"
    (bits,) = struct.unpack("<Q", struct.pack("<d", value))
    return f"0x{bits:016X} : f64"
