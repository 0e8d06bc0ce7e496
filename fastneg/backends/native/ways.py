"""The two ways of calling an operation that returns a loss and, on request, its gradients.

As TensorFlow's own operation on the CPU, or as a custom call of XLA (`xla.is_the_way`). Both take
the same inputs and attributes and return the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from fastneg import _tensorflow
from fastneg.backends.native import custom_call, xla
from fastneg.backends.native.library import operations
from fastneg.backends.native.sizes import Shape, static

# The attribute that asks for narrow gradients, see `FusedLoss`.
NARROW_GRADS = "narrow_grads"


class Call(NamedTuple):
    """One execution of a loss's operation."""

    required: Sequence[Any]  # The inputs that are always there; scalars may be numbers.
    optional: Sequence[tf.Tensor | None]  # The others, None for those that are not.
    outputs: Sequence[tf.Tensor]  # The loss and its gradients for an upstream gradient of 1.
    attribute: Callable[[str], Any]


# The shapes of the outputs: the loss, and the gradients where they are asked for. (The operation's
# own shape function, in C, cannot tell: it sees no attributes.)
OutputShapes = Callable[[Call], Sequence[Shape]]


class Signature(NamedTuple):
    """What is known of a loss's operation; `FusedLoss` says more of each.

    Args:
        stem: The loss's stem, "rolled_softmax".
        ranks: Of the required inputs, by name.
        attributes: The names of the attributes that a caller sets.
        optional_inputs: The names of the attributes that count the other inputs.
        output_shapes: Gives the outputs their shapes.
        num_narrow: How many outputs, the last ones, have the dtype of the first input; see
            `FusedLoss`.
    """

    stem: str
    ranks: Mapping[str, int | None]
    attributes: Sequence[str]
    optional_inputs: Sequence[str]
    output_shapes: OutputShapes
    num_narrow: int = 0

    @property
    def op_type(self) -> str:
        """The operation's name, "Fastneg>RolledSoftmax"."""
        return "Fastneg>" + "".join(word.capitalize() for word in self.stem.split("_"))

    def split(
        self, inputs: list[Any], present: Sequence[bool]
    ) -> tuple[list[Any], list[tf.Tensor | None]]:
        """Required and optional ones of the inputs that are there."""
        num_required = len(inputs) - sum(present)
        given = iter(inputs[num_required:])
        return inputs[:num_required], [next(given) if there else None for there in present]


class Way(ABC):
    """How an operation is called, and found again where it was."""

    def __init__(self, signature: Signature) -> None:  # noqa: D107
        self._signature = signature

    @abstractmethod
    def run(
        self,
        required: Sequence[Any],
        optional: Sequence[tf.Tensor | None],
        dtype: tf.DType,
        attributes: Mapping[str, Any],
        *,
        with_grad: bool,
    ) -> list[tf.Tensor]:
        """Returns the loss, of `dtype`, and its gradients, which are empty without `with_grad`."""

    def call_with_grad(self, op: Any, *, narrow_grads: bool) -> Call:
        """The call that an operation made, gradients among its outputs.

        Args:
            op: An operation of a graph, or what a tape has recorded of one.
            narrow_grads: Whether narrow gradients will do.
        """
        call, node = self._made(op), _node(op)
        if node is not None:  # What a tape has recorded does not show later changes.
            call = call._replace(attribute=self._made(node).attribute)
        attributes = {name: call.attribute(name) for name in self._signature.attributes}
        if call.attribute("with_grad"):
            if narrow_grads or not attributes.get(NARROW_GRADS):
                return call
            node = None
        if NARROW_GRADS in attributes:
            attributes[NARROW_GRADS] = narrow_grads
        dtype = call.outputs[0].dtype
        if node is not None:
            changed = {
                **{name: call.attribute(name) for name in self._signature.optional_inputs},
                **attributes,
                "with_grad": True,
            }
            call = call._replace(attribute=changed.__getitem__)
            return call._replace(outputs=self._with_grad_in_place(node, call))
        outputs = self.run(call.required, call.optional, dtype, attributes, with_grad=True)
        return call._replace(outputs=outputs, attribute=attributes.__getitem__)

    @abstractmethod
    def _made(self, op: Any) -> Call:
        """The call that an operation made."""

    @abstractmethod
    def _with_grad_in_place(self, node: tf.Operation, call: Call) -> list[tf.Tensor]:
        """Changes an operation so that it computes the gradients of `call`; returns its outputs."""


class Operation(Way):
    """Calls of TensorFlow's own operation."""

    def run(  # noqa: D102
        self,
        required: Sequence[Any],
        optional: Sequence[tf.Tensor | None],
        dtype: tf.DType,
        attributes: Mapping[str, Any],
        *,
        with_grad: bool,
    ) -> list[tf.Tensor]:
        # Numbers become tensors by themselves, but not float64 ones.
        required = [
            tf.convert_to_tensor(value, dtype)
            if dtype == tf.float64 and isinstance(value, float)
            else value
            for value in required
        ]
        lists = [[] if tensor is None else [tensor] for tensor in optional]
        operation = getattr(operations(), f"fastneg_{self._signature.stem}")
        return list(operation(*required, *lists, **attributes, with_grad=with_grad))

    def _made(self, op: Any) -> Call:
        present = [op.get_attr(name) > 0 for name in self._signature.optional_inputs]
        required, optional = self._signature.split(list(op.inputs), present)
        return Call(required, optional, list(op.outputs), op.get_attr)

    def _with_grad_in_place(self, node: tf.Operation, call: Call) -> list[tf.Tensor]:
        node._set_attr("with_grad", attr_value_pb2.AttrValue(b=True))
        if self._signature.num_narrow:
            narrow = call.attribute(NARROW_GRADS)
            node._set_attr(NARROW_GRADS, attr_value_pb2.AttrValue(b=narrow))
        _, *unit_shapes = self._signature.output_shapes(call._replace(outputs=node.outputs))
        for unit_grad, shape in zip(node.outputs[1:], unit_shapes, strict=True):
            unit_grad.set_shape(static(shape))
        return list(node.outputs)


class CustomCall(Way):
    """Custom calls of XLA, each in an XlaCallModule operation."""

    def run(  # noqa: D102
        self,
        required: Sequence[Any],
        optional: Sequence[tf.Tensor | None],
        dtype: tf.DType,
        attributes: Mapping[str, Any],
        *,
        with_grad: bool,
    ) -> list[tf.Tensor]:
        names, ranks = self._signature.ranks.keys(), self._signature.ranks.values()
        required = [
            value if is_number(value) else custom_call.ranked(value, rank)
            for value, rank in zip(required, ranks, strict=True)
        ]
        optional = [None if tensor is None else custom_call.ranked(tensor) for tensor in optional]
        counts = {
            name: int(tensor is not None)
            for name, tensor in zip(self._signature.optional_inputs, optional, strict=True)
        }
        description = custom_call.Description(
            self._signature.op_type,
            {**attributes, **counts, "with_grad": with_grad},
            {name: value for name, value in zip(names, required, strict=True) if is_number(value)},
        )
        call = Call(required, optional, (), description.attributes.__getitem__)
        return custom_call.custom_call(
            description,
            [
                value
                for value in (*required, *optional)
                if value is not None and not is_number(value)
            ],
            self._results(call, dtype),
            xla.platforms(self._signature.stem),
        )

    def _made(self, op: Any) -> Call:
        description = custom_call.described(op)
        assert description is not None
        attributes, numbers = description.attributes, description.numbers
        tensors = iter(op.inputs)
        inputs = [
            numbers[name] if name in numbers else next(tensors) for name in self._signature.ranks
        ]
        present = [attributes[name] > 0 for name in self._signature.optional_inputs]
        required, optional = self._signature.split([*inputs, *tensors], present)
        return Call(required, optional, list(op.outputs), attributes.__getitem__)

    def _with_grad_in_place(self, node: tf.Operation, call: Call) -> list[tf.Tensor]:
        description = custom_call.described(node)
        assert description is not None
        attributes = {name: call.attribute(name) for name in description.attributes}
        results = self._results(call, node.outputs[0].dtype)
        custom_call.change(node, description._replace(attributes=attributes), results)
        return list(node.outputs)

    def _results(self, call: Call, dtype: tf.DType) -> list[custom_call.Result]:
        loss, *unit_grads = self._signature.output_shapes(call)
        with_grad = call.attribute("with_grad")
        num_narrow = self._signature.num_narrow
        dtypes = [dtype] * (len(unit_grads) - num_narrow) + [call.required[0].dtype] * num_narrow
        return [
            custom_call.Result(dtype, loss),
            *(
                custom_call.Result(dtype, shape if with_grad else [0], fixed=with_grad)
                for dtype, shape in zip(dtypes, unit_grads, strict=True)
            ),
        ]


def is_number(value: Any) -> bool:
    """Whether an input is no tensor."""
    return isinstance(value, float)


def _node(op: Any) -> tf.Operation | None:
    """The operation in its graph, if it can be changed there.

    `op` may be a stand-in that a tape recorded; its outputs know the real one.
    """
    if isinstance(op.outputs[0], tf.__internal__.EagerTensor):
        return None
    node = op.outputs[0].op
    return node if _tensorflow.can_be_changed(node) else None
