"""Operations that return a scalar loss and, on request, gradients for an upstream gradient of 1.

Evaluation must not pay for gradients, so the attribute `with_grad` of such an operation is false
until something is known to differentiate: a tape, when called eagerly; in a graph the gradient
function, which then sets the attribute of the operation in place, as TensorFlow's own gradient of a
function call rewrites the call. Where that is not possible, it runs the operation once more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from fastneg import _tensorflow
from fastneg.backends import autodiff
from fastneg.backends.native import cuda
from fastneg.backends.native.library import operations

Grads = list[tf.Tensor | None]


class Call(NamedTuple):
    """One execution of a loss's operation, with gradients."""

    required: Sequence[tf.Tensor]  # The inputs that are always there.
    optional: Sequence[tf.Tensor | None]  # The others, None for those that are not.
    outputs: Sequence[tf.Tensor]  # The loss and its gradients for an upstream gradient of 1.
    attribute: Callable[[str], Any]


# The static shapes of the gradients among the outputs. (The operation's own shape function, in C,
# cannot tell: it sees no attributes.)
UnitShapes = Callable[[Call], Sequence[Any]]

# From the upstream gradient to the gradients of the required and of the optional inputs; None for
# an input without one.
Gradients = Callable[[tf.Tensor, Call], tuple[Grads, Grads]]


class FusedLoss:
    """Such an operation as a function; registers its gradient.

    Args:
        op_type: The operation's type, "Fastneg>RolledSoftmax". Its first output is the loss; it has
            an attribute `with_grad`.
        gradients: Gives each input its gradient.
        unit_shapes: Gives the outputs behind the loss their shapes.
        attributes: The names of the operation's other attributes that a caller sets.
        optional_inputs: For each input behind the required ones the attribute that says how many
            tensors (0 or 1) it has, and whether it is differentiated.
    """

    def __init__(  # noqa: D107
        self,
        op_type: str,
        gradients: Gradients,
        unit_shapes: UnitShapes,
        *,
        attributes: Sequence[str] = (),
        optional_inputs: Mapping[str, bool] | None = None,
    ) -> None:
        self._name = "fastneg" + "".join(
            f"_{letter.lower()}" if letter.isupper() else letter
            for letter in op_type.partition(">")[2]
        )
        self._gradients = gradients
        self._unit_shapes = unit_shapes
        self._attributes = tuple(attributes)
        self._optional_inputs = dict(optional_inputs or {})
        tf.RegisterGradient(op_type)(self._graph_gradient)

    def __call__(
        self,
        required: Sequence[Any],
        optional: Sequence[tf.Tensor | None] = (),
        *,
        differentiable: Sequence[int],
        **attributes: Any,
    ) -> tf.Tensor:
        """Returns the loss.

        Args:
            required: The inputs that are always there.
            optional: The others, None for those that are not.
            differentiable: Places of the required inputs that have a gradient.
            **attributes: As listed at construction.
        """
        operation = getattr(operations(), self._name)
        lists = [[] if tensor is None else [tensor] for tensor in optional]
        places = [
            place
            for place, differentiated in enumerate(self._optional_inputs.values())
            if differentiated and optional[place] is not None
        ]
        sources = [required[i] for i in differentiable] + [optional[i] for i in places]
        if not tf.executing_eagerly():
            autodiff.refuse_tangents(sources)
            return operation(*required, *lists, **attributes)[0]
        if not _tensorflow.is_followed(sources):
            return operation(*required, *lists, **attributes)[0]
        with _tensorflow.stop_recording():
            outputs = operation(*required, *lists, **attributes, with_grad=True)
        call = Call(required, optional, outputs, attributes.__getitem__)

        def backward(grad_loss: tf.Tensor) -> Grads:
            of_required, of_optional = self._gradients(grad_loss, call)
            return [of_required[i] for i in differentiable] + [of_optional[i] for i in places]

        autodiff.attach_gradient(outputs[0], sources, backward)
        return outputs[0]

    def _graph_gradient(self, op: Any, grad_loss: tf.Tensor, *_: Any) -> Grads:
        required, optional = self._inputs(op)
        outputs = self._with_grad(op)
        call = Call(required, optional, outputs, op.get_attr)
        of_required, of_optional = self._gradients(grad_loss, call)
        given = zip(of_optional, optional, strict=True)
        grads = [*of_required, *(grad for grad, tensor in given if tensor is not None)]
        for grad, tensor in zip(grads, op.inputs, strict=True):
            if grad is not None:
                grad.set_shape(tensor.shape)
        return grads

    def _inputs(self, op: Any) -> tuple[list[tf.Tensor], list[tf.Tensor | None]]:
        inputs = list(op.inputs)
        present = [op.get_attr(name) > 0 for name in self._optional_inputs]
        num_required = len(inputs) - sum(present)
        given = iter(inputs[num_required:])
        return inputs[:num_required], [next(given) if there else None for there in present]

    def _with_grad(self, op: Any) -> Sequence[tf.Tensor]:
        """Outputs of an operation that is about to be differentiated, gradients among them."""
        if op.get_attr("with_grad"):
            return list(op.outputs)
        # `op` may be a stand-in that a tape recorded; its outputs know the real one.
        if isinstance(op.outputs[0], tf.__internal__.EagerTensor):
            return self._recomputed(op)
        node = op.outputs[0].op
        if not _tensorflow.can_be_changed(node):
            return self._recomputed(op)
        node._set_attr("with_grad", attr_value_pb2.AttrValue(b=True))
        call = Call(*self._inputs(op), node.outputs, op.get_attr)
        for unit_grad, shape in zip(node.outputs[1:], self._unit_shapes(call), strict=True):
            unit_grad.set_shape(shape)
        return list(node.outputs)

    def _recomputed(self, op: Any) -> Sequence[tf.Tensor]:
        """Runs an operation once more, with gradients: where it cannot be changed."""
        required, optional = self._inputs(op)
        lists = [[] if tensor is None else [tensor] for tensor in optional]
        attributes = {name: op.get_attr(name) for name in self._attributes}
        operation = getattr(operations(), self._name)
        return list(operation(*required, *lists, **attributes, with_grad=True))


def scalars(values: Sequence[float | tf.Tensor], dtype: tf.DType) -> list[Any]:
    """The scalar inputs of a loss; `dtype` is that of its embeddings or scores.

    Numbers stay numbers where they become the right tensors by themselves. They do not as float64;
    and in a graph they would become constants on the device of the loss: a GPU kernel, which takes
    scalars from the host's memory, would wait for their copies at every step.
    """
    if tf.executing_eagerly() or _tensorflow.in_xla() or cuda.library.why_not_loaded() is not None:
        if dtype != tf.float64:
            return list(values)
        return [tf.convert_to_tensor(value, tf.float64) for value in values]
    dtype = tf.float64 if dtype == tf.float64 else tf.float32
    with tf.device("CPU:0"):
        return [
            value if isinstance(value, tf.Tensor) else tf.constant(value, dtype) for value in values
        ]


def reshaped(grad: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """`grad`, a vector, in the shape of its input, which may be a column."""
    return grad if tensor.shape.rank == 1 else tf.reshape(grad, tf.shape(tensor))
