"""Operations that return a loss and, on request, gradients for an upstream gradient of 1.

Evaluation must not pay for gradients, so the attribute `with_grad` of such an operation is false
until something is known to differentiate: a tape, when called eagerly; in a graph the gradient
function, which then changes the operation in place, as TensorFlow's own gradient of a function call
rewrites the call. Where that is not possible, it runs the operation once more.

Gradients for an upstream gradient of 1 are not rounded to float16 or bfloat16, because they have
yet to be multiplied, and might be lost: float16 ends at 6e-8. Where the upstream gradient is known
to be 1, an operation that can does round them, and nobody has to read and write them again. In a
graph that is so where it is a constant; a tape finds out later, and so expects what it found last.

Either of two ways leads to an operation, see `ways.py`.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from fastneg import _tensorflow, validation
from fastneg.backends import autodiff
from fastneg.backends.native import custom_call, xla
from fastneg.backends.native.ways import (
    NARROW_GRADS,
    Call,
    CustomCall,
    Operation,
    OutputShapes,
    Signature,
    Way,
    is_number,
)

Grads = list[tf.Tensor | None]

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
        num_narrow: How many gradients can also be had narrow, that is, of the dtype of the first
            input: outputs behind all others, which take the place of the first gradients where the
            attribute `narrow_grads` says so.
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
        num_narrow: int = 0,
    ) -> None:
        attributes = (*attributes, NARROW_GRADS) if num_narrow else attributes
        self._signature = Signature(
            stem, inputs, attributes, tuple(optional_inputs or ()), output_shapes, num_narrow
        )
        self._expects_one = True  # As upstream gradient.
        self._gradients = gradients
        self._differentiated = tuple((optional_inputs or {}).values())
        self._operation = Operation(self._signature)
        self._custom_call = CustomCall(self._signature)
        tf.RegisterGradient(self._signature.op_type)(self._gradient_of_operation)
        custom_call.register_gradient(self._signature.op_type, self._gradient_of_custom_call)

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
            for place, differentiated in enumerate(self._differentiated)
            if differentiated and optional[place] is not None
        ]
        sources = [required[i] for i in differentiable] + [optional[i] for i in places]
        in_xla = xla.is_the_way(self._signature.stem)
        run = self._way(in_xla=in_xla).run
        can_narrow = self._can_narrow(dtype)
        if self._signature.num_narrow:
            attributes[NARROW_GRADS] = False
        compute_dtype = validation.compute_dtype(dtype)
        if not tf.executing_eagerly():
            autodiff.refuse_tangents(sources)
            return run(required, optional, compute_dtype, attributes, with_grad=False)[0]
        if not _tensorflow.is_followed(sources):
            return run(required, optional, compute_dtype, attributes, with_grad=False)[0]
        can_narrow = can_narrow and not in_xla  # Or the value would have to come from a GPU.
        if can_narrow:
            attributes[NARROW_GRADS] = self._expects_one
        with _tensorflow.stop_recording():
            outputs = run(required, optional, compute_dtype, attributes, with_grad=True)
        call = Call(required, optional, outputs, attributes.__getitem__)

        def backward(grad_loss: tf.Tensor) -> Grads:
            suited = call
            if can_narrow:
                self._expects_one = _is_one(grad_loss)
                if attributes[NARROW_GRADS] and not self._expects_one:
                    wide = {**attributes, NARROW_GRADS: False}
                    suited = self.with_gradients(required, optional, like=call, **wide)
            of_required, of_optional = self._gradients(grad_loss, suited)
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
        if isinstance(loss, tf.__internal__.EagerTensor):  # Perhaps in a graph: of a Jacobian.
            in_xla = xla.is_the_way(self._signature.stem)
        else:
            in_xla = custom_call.is_custom_call(loss)
        run = self._way(in_xla=in_xla).run
        # In a graph a tape has to see it, or would find that the gradients depend on nothing.
        eager = tf.executing_eagerly()
        with _tensorflow.stop_recording() if eager else contextlib.nullcontext():
            outputs = run(required, optional, loss.dtype, attributes, with_grad=True)
        return Call(required, optional, outputs, attributes.__getitem__)

    def _gradient_of_operation(self, op: Any, grad_loss: tf.Tensor, *_: Any) -> Grads:
        return self._gradient(self._operation, op, grad_loss)

    def _gradient_of_custom_call(self, op: Any, grad_loss: tf.Tensor, *_: Any) -> Grads:
        return self._gradient(self._custom_call, op, grad_loss)

    def _gradient(self, way: Way, op: Any, grad_loss: tf.Tensor) -> Grads:
        dtype = op.inputs[0].dtype
        narrow_grads = self._can_narrow(dtype) and _is_one(grad_loss)
        call = way.call_with_grad(op, narrow_grads=narrow_grads)
        of_required, of_optional = self._gradients(grad_loss, call)
        inputs = [*zip(of_required, call.required, strict=True)]
        inputs += zip(of_optional, call.optional, strict=True)
        grads = [grad for grad, value in inputs if value is not None and not is_number(value)]
        for grad, tensor in zip(grads, op.inputs, strict=True):
            if grad is not None:
                grad.set_shape(tensor.shape)
        return grads

    def _can_narrow(self, dtype: tf.DType) -> bool:
        return self._signature.num_narrow > 0 and validation.compute_dtype(dtype) != dtype

    def _way(self, *, in_xla: bool) -> Way:
        return self._custom_call if in_xla else self._operation


def _is_one(grad_loss: tf.Tensor) -> bool:
    """Whether an upstream gradient is known to be 1, and nobody asks how results depend on it."""
    return bool(tf.get_static_value(grad_loss) == 1) and not _tensorflow.is_followed([grad_loss])


def reshaped(grad: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """`grad`, a vector, in the shape of its input, which may be a column."""
    return grad if tensor.shape.rank == 1 else tf.reshape(grad, tf.shape(tensor))
