"""Operations that return a loss and, on request, gradients for an upstream gradient of 1.

Evaluation must not pay for gradients, so the attribute `with_grad` of such an operation is false
until something is known to differentiate: a tape, when called eagerly; in a graph the gradient
function, which then changes the operation in place, as TensorFlow's own gradient of a function call
rewrites the call. Where that is not possible, it runs the operation once more.

An operation is called in one of two ways: as TensorFlow's own on the CPU, or as a custom call of
XLA (`xla.is_the_way`). Both take the same inputs and attributes and return the same.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2

from fastneg import _tensorflow, validation
from fastneg.backends import autodiff
from fastneg.backends.native import custom_call, xla
from fastneg.backends.native.library import operations
from fastneg.backends.native.sizes import Shape, static

Grads = list[tf.Tensor | None]


class Call(NamedTuple):
    """One execution of a loss's operation, with gradients."""

    required: Sequence[Any]  # The inputs that are always there; scalars may be numbers.
    optional: Sequence[tf.Tensor | None]  # The others, None for those that are not.
    outputs: Sequence[tf.Tensor]  # The loss and its gradients for an upstream gradient of 1.
    attribute: Callable[[str], Any]


# The shapes of the outputs: the loss, and the gradients where they are asked for. (The operation's
# own shape function, in C, cannot tell: it sees no attributes.)
OutputShapes = Callable[[Call], Sequence[Shape]]

# From the upstream gradient to the gradients of the required and of the optional inputs; None for
# an input without one.
Gradients = Callable[[tf.Tensor, Call], tuple[Grads, Grads]]


class FusedLoss:
    """Such an operation as a function; registers its gradient.

    Args:
        stem: The loss's stem, "rolled_softmax". The operation is "Fastneg>RolledSoftmax"; its first
            output is the loss; it has an attribute `with_grad`.
        gradients: Gives each input its gradient.
        output_shapes: Gives the outputs their shapes.
        inputs: The names of the required inputs, and their ranks; None for a vector that may also
            come as a column.
        attributes: The names of the operation's other attributes that a caller sets.
        optional_inputs: For each input behind the required ones the attribute that says how many
            tensors (0 or 1) it has, and whether it is differentiated.
    """

    def __init__(  # noqa: D107
        self,
        stem: str,
        gradients: Gradients,
        output_shapes: OutputShapes,
        *,
        inputs: Mapping[str, int | None],
        attributes: Sequence[str] = (),
        optional_inputs: Mapping[str, bool] | None = None,
    ) -> None:
        self._stem = stem
        self._op_type = "Fastneg>" + "".join(word.capitalize() for word in stem.split("_"))
        self._gradients = gradients
        self._output_shapes = output_shapes
        self._names = tuple(inputs)
        self._ranks = tuple(inputs.values())
        self._attributes = tuple(attributes)
        self._optional_inputs = dict(optional_inputs or {})
        tf.RegisterGradient(self._op_type)(self._gradient_of_operation)
        _losses[self._op_type] = self

    def __call__(
        self,
        required: Sequence[Any],
        optional: Sequence[tf.Tensor | None] = (),
        *,
        dtype: tf.DType,
        differentiable: Sequence[int],
        **attributes: Any,
    ) -> tf.Tensor:
        """Returns the loss.

        Args:
            required: The inputs that are always there; scalars may be numbers.
            optional: The others, None for those that are not.
            dtype: That of the embeddings or scores.
            differentiable: Places of the required inputs that have a gradient.
            **attributes: As listed at construction.
        """
        places = [
            place
            for place, differentiated in enumerate(self._optional_inputs.values())
            if differentiated and optional[place] is not None
        ]
        sources = [required[i] for i in differentiable] + [optional[i] for i in places]
        run = self._run_custom_call if xla.is_the_way(self._stem) else self._run_operation
        compute_dtype = validation.compute_dtype(dtype)
        if not tf.executing_eagerly():
            autodiff.refuse_tangents(sources)
            return run(required, optional, compute_dtype, attributes, with_grad=False)[0]
        if not _tensorflow.is_followed(sources):
            return run(required, optional, compute_dtype, attributes, with_grad=False)[0]
        with _tensorflow.stop_recording():
            outputs = run(required, optional, compute_dtype, attributes, with_grad=True)
        call = Call(required, optional, outputs, attributes.__getitem__)

        def backward(grad_loss: tf.Tensor) -> Grads:
            of_required, of_optional = self._gradients(grad_loss, call)
            return [of_required[i] for i in differentiable] + [of_optional[i] for i in places]

        autodiff.attach_gradient(outputs[0], sources, backward)
        return outputs[0]

    def with_gradients(
        self,
        required: Sequence[Any],
        optional: Sequence[tf.Tensor | None],
        *,
        like: Call,
        **attributes: Any,
    ) -> Call:
        """A call with gradients, for those of another call, `like`, that are made of them.

        They have to go through `scale_grad`, which refuses to differentiate them.
        """
        loss = like.outputs[0]
        in_xla = custom_call.is_custom_call(loss)
        if tf.executing_eagerly():
            in_xla = xla.is_the_way(self._stem)
        run = self._run_custom_call if in_xla else self._run_operation
        # In a graph a tape has to see it, or would find that the gradients depend on nothing.
        eager = tf.executing_eagerly()
        with _tensorflow.stop_recording() if eager else contextlib.nullcontext():
            outputs = run(required, optional, loss.dtype, attributes, with_grad=True)
        return Call(required, optional, outputs, attributes.__getitem__)

    def _run_operation(
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
        operation = getattr(operations(), f"fastneg_{self._stem}")
        return list(operation(*required, *lists, **attributes, with_grad=with_grad))

    def _run_custom_call(
        self,
        required: Sequence[Any],
        optional: Sequence[tf.Tensor | None],
        dtype: tf.DType,
        attributes: Mapping[str, Any],
        *,
        with_grad: bool,
    ) -> list[tf.Tensor]:
        required = [
            value if isinstance(value, float) else custom_call.ranked(value, rank)
            for value, rank in zip(required, self._ranks, strict=True)
        ]
        optional = [None if tensor is None else custom_call.ranked(tensor) for tensor in optional]
        given = zip(self._names, required, strict=True)
        description = custom_call.Description(
            self._op_type,
            {
                **attributes,
                **{
                    name: int(tensor is not None)
                    for name, tensor in zip(self._optional_inputs, optional, strict=True)
                },
                "with_grad": with_grad,
            },
            {name: value for name, value in given if isinstance(value, float)},
        )
        tensors = [value for value in required if not isinstance(value, float)]
        tensors += [tensor for tensor in optional if tensor is not None]
        return custom_call.custom_call(
            description,
            tensors,
            self._results(Call(required, optional, (), description.attributes.__getitem__), dtype),
            xla.platforms(self._stem),
        )

    def _results(self, call: Call, dtype: tf.DType) -> list[custom_call.Result]:
        loss, *unit_grads = self._output_shapes(call)
        with_grad = call.attribute("with_grad")
        return [
            custom_call.Result(dtype, loss),
            *(
                custom_call.Result(dtype, shape if with_grad else [0], fixed=with_grad)
                for shape in unit_grads
            ),
        ]

    def _gradient_of_operation(self, op: Any, grad_loss: tf.Tensor, *_: Any) -> Grads:
        present = [op.get_attr(name) > 0 for name in self._optional_inputs]
        required, optional = self._split(list(op.inputs), present)
        outputs = self._operation_with_grad(op, required, optional)
        return self._of_inputs(op, grad_loss, Call(required, optional, outputs, op.get_attr))

    def gradient_of_custom_call(
        self, op: Any, description: custom_call.Description, grad_loss: tf.Tensor
    ) -> Grads:
        """The gradients of the inputs of an XlaCallModule operation that runs this loss."""
        tensors = iter(op.inputs)
        numbers = description.numbers
        inputs = [numbers[name] if name in numbers else next(tensors) for name in self._names]
        present = [description.attributes[name] > 0 for name in self._optional_inputs]
        required, optional = self._split([*inputs, *tensors], present)
        attribute = description.attributes.__getitem__
        outputs = self._custom_call_with_grad(op, description, required, optional)
        return self._of_inputs(op, grad_loss, Call(required, optional, outputs, attribute))

    def _of_inputs(self, op: Any, grad_loss: tf.Tensor, call: Call) -> Grads:
        of_required, of_optional = self._gradients(grad_loss, call)
        inputs = [*zip(of_required, call.required, strict=True)]
        inputs += zip(of_optional, call.optional, strict=True)
        grads = [grad for grad, value in inputs if value is not None and not _is_number(value)]
        for grad, tensor in zip(grads, op.inputs, strict=True):
            if grad is not None:
                grad.set_shape(tensor.shape)
        return grads

    def _split(
        self, inputs: list[Any], present: Sequence[bool]
    ) -> tuple[list[Any], list[tf.Tensor | None]]:
        num_required = len(inputs) - sum(present)
        given = iter(inputs[num_required:])
        return inputs[:num_required], [next(given) if there else None for there in present]

    def _operation_with_grad(
        self, op: Any, required: list[Any], optional: list[tf.Tensor | None]
    ) -> Sequence[tf.Tensor]:
        """Outputs of an operation that is about to be differentiated, gradients among them."""
        if op.get_attr("with_grad"):
            return list(op.outputs)
        node = _node(op)
        if node is None:
            attributes = {name: op.get_attr(name) for name in self._attributes}
            dtype = op.outputs[0].dtype
            return self._run_operation(required, optional, dtype, attributes, with_grad=True)
        node._set_attr("with_grad", attr_value_pb2.AttrValue(b=True))
        call = Call(required, optional, node.outputs, op.get_attr)
        _, *unit_shapes = self._output_shapes(call)
        for unit_grad, shape in zip(node.outputs[1:], unit_shapes, strict=True):
            unit_grad.set_shape(static(shape))
        return list(node.outputs)

    def _custom_call_with_grad(
        self,
        op: Any,
        description: custom_call.Description,
        required: list[Any],
        optional: list[tf.Tensor | None],
    ) -> Sequence[tf.Tensor]:
        if description.attributes["with_grad"]:
            return list(op.outputs)
        node = _node(op)
        if node is None:
            attributes = {name: description.attributes[name] for name in self._attributes}
            dtype = op.outputs[0].dtype
            return self._run_custom_call(required, optional, dtype, attributes, with_grad=True)
        attributes = {**description.attributes, "with_grad": True}
        call = Call(required, optional, (), attributes.__getitem__)
        custom_call.change(
            node,
            description._replace(attributes=attributes),
            self._results(call, node.outputs[0].dtype),
        )
        return list(node.outputs)


_losses: dict[str, FusedLoss] = {}


def gradient_of_custom_call(op: Any, grad_loss: tf.Tensor, *_: Any) -> Grads:
    """The gradient of XlaCallModule, of which TensorFlow has none: for fastneg's losses."""
    description = custom_call.described(op)
    if description is None:
        raise LookupError("gradient registry has no entry for: XlaCallModule")
    if description.op not in _losses:
        raise autodiff.second_derivative_error()
    return _losses[description.op].gradient_of_custom_call(op, description, grad_loss)


def _node(op: Any) -> tf.Operation | None:
    """The operation in its graph, if it can be changed there.

    `op` may be a stand-in that a tape recorded; its outputs know the real one.
    """
    if isinstance(op.outputs[0], tf.__internal__.EagerTensor):
        return None
    node = op.outputs[0].op
    return node if _tensorflow.can_be_changed(node) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, float)


def reshaped(grad: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """`grad`, a vector, in the shape of its input, which may be a column."""
    return grad if tensor.shape.rank == 1 else tf.reshape(grad, tf.shape(tensor))
