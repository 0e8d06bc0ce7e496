"""The native `sampled_softmax_loss`: its operations and their gradient.

One operation finds the distinct table rows that labels and samples name, TensorFlow gathers these,
and another operation computes the losses from them. So the table is touched by `tf.gather` alone,
whose gradient names each row once, whatever the table is: a variable, a tensor or shards.

The loss's gradients are those for an upstream gradient of 1 in every row, computed along with the
value. Where the real upstream gradients are all the same number, as for a mean or a sum, they are
scaled; else a third operation computes those of the table again. Only the values decide.
"""

from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg.arguments.sampled_softmax import SampledSoftmaxArguments
from fastneg.backends import autodiff
from fastneg.backends.native.fused_loss import Call, FusedLoss, Grads
from fastneg.backends.native.library import operations
from fastneg.reference.table import gather, table_rows


def sampled_softmax(arguments: SampledSoftmaxArguments) -> tf.Tensor:
    """Calls the operations."""
    found = operations().fastneg_sampled_rows(
        arguments.labels,
        arguments.sampled,
        table_rows(arguments.weights, arguments.biases),
        num_classes=arguments.num_classes,
        num_true=arguments.num_true,
    )
    inputs, biases = arguments.inputs, arguments.biases
    dtype = validation.compute_dtype(inputs.dtype)
    rows = gather(arguments.weights, found.ids)
    if rows.dtype != inputs.dtype:
        rows, inputs = tf.cast(rows, dtype), tf.cast(inputs, dtype)
    bias_rows = None if biases is None else tf.cast(gather(biases, found.ids), dtype)
    loss = _loss(
        [
            rows,
            inputs,
            found.label_rows,
            found.sampled_rows,
            arguments.true_expected_count,
            arguments.sampled_expected_count,
        ],
        [bias_rows],
        differentiable=[0, 1],
        remove_accidental_hits=arguments.remove_accidental_hits,
    )
    if inputs.shape.rank == 2:
        loss.set_shape(inputs.shape[:1])
    return loss


def _gradients(grad_loss: tf.Tensor, call: Call) -> tuple[Grads, Grads]:
    _, *unit_grads = call.outputs
    biases = [tensor for tensor in call.optional if tensor is not None]
    grad_rows, grad_inputs, grad_biases = operations().fastneg_sampled_softmax_grad(
        grad_loss,
        *unit_grads,
        *call.required,
        biases,
        remove_accidental_hits=call.attribute("remove_accidental_hits"),
    )
    return [grad_rows, grad_inputs, None, None, None, None], [grad_biases if biases else None]


def _unit_shapes(call: Call) -> list[Any]:
    rows, inputs = call.required[:2]
    return [rows.shape, inputs.shape, [0] if call.optional[0] is None else rows.shape[:1]]


_loss = FusedLoss(
    "Fastneg>SampledSoftmax",
    _gradients,
    _unit_shapes,
    attributes=("remove_accidental_hits",),
    optional_inputs={"num_biases": True},
)


@tf.RegisterGradient("Fastneg>SampledSoftmaxGrad")  # type: ignore[untyped-decorator]
def _second_derivative(op: tf.Operation, *grads: Any) -> None:
    raise autodiff.second_derivative_error()


tf.no_gradient("Fastneg>SampledRows")
