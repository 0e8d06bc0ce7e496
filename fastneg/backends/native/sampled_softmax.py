"""The native `sampled_softmax_loss`: its operations and their gradient.

One operation finds the distinct table rows that labels and samples name, TensorFlow gathers these,
and another operation computes the losses from them. So the table is touched by `tf.gather` alone,
whose gradient names each row once, whatever the table is: a variable, a tensor or shards. (Inside
XLA an operation of fastneg's takes its place where the table is stored as it is.)

The loss's gradients are those for an upstream gradient of 1 in every row, computed along with the
value. Where the real upstream gradients are all the same number, as for a mean or a sum, they are
scaled; else a third operation computes those of the table again. Only the values decide.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from fastneg import _tensorflow, validation
from fastneg.arguments.sampled_softmax import SampledSoftmaxArguments
from fastneg.backends import autodiff
from fastneg.backends.native import xla
from fastneg.backends.native.custom_call import (
    Description,
    Result,
    by_row,
    custom_call,
    is_custom_call,
    ranked,
)
from fastneg.backends.native.fused_loss import FusedLoss, Grads
from fastneg.backends.native.gather_rows import gather_rows
from fastneg.backends.native.library import operations
from fastneg.backends.native.sizes import Shape, rows, size, sizes
from fastneg.backends.native.ways import Call
from fastneg.reference.table import gather, table_rows


def sampled_softmax(arguments: SampledSoftmaxArguments) -> tf.Tensor:
    """Calls the operations."""
    found = _sampled_rows(arguments)
    inputs, biases = arguments.inputs, arguments.biases
    dtype = validation.compute_dtype(inputs.dtype)
    found_rows = _gather(arguments.weights, found.ids)
    if found_rows.dtype != inputs.dtype:
        found_rows, inputs = tf.cast(found_rows, dtype), tf.cast(inputs, dtype)
    bias_rows = None if biases is None else tf.cast(gather(biases, found.ids), dtype)
    loss = _loss(
        [
            found_rows,
            inputs,
            found.label_rows,
            found.sampled_rows,
            arguments.true_expected_count,
            arguments.sampled_expected_count,
        ],
        [bias_rows],
        dtype=inputs.dtype,
        differentiable=[0, 1],
        remove_accidental_hits=arguments.remove_accidental_hits,
    )
    if inputs.shape.rank == 2:
        loss.set_shape(inputs.shape[:1])
    return loss


class _Found(NamedTuple):
    """What the operation `SampledRows` returns."""

    ids: tf.Tensor
    label_rows: tf.Tensor
    sampled_rows: tf.Tensor


def _sampled_rows(arguments: SampledSoftmaxArguments) -> _Found:
    sizes_of_table = table_rows(arguments.weights, arguments.biases)
    num_true, num_classes = arguments.num_true, arguments.num_classes
    if not xla.is_the_way("sampled_softmax"):
        found = operations().fastneg_sampled_rows(
            arguments.labels,
            arguments.sampled,
            sizes_of_table,
            num_classes=num_classes,
            num_true=num_true,
        )
        return _Found(*found)
    # Shapes must not depend on values: there are as many rows as can be.
    labels, sampled = ranked(arguments.labels, 2), ranked(arguments.sampled, 1)
    labels = by_row("labels", labels, tf.shape(arguments.inputs)[0])
    named = tf.concat([tf.reshape(labels, [-1]), sampled], axis=0)
    attributes = {
        "num_classes": num_classes,
        "num_true": num_true,
        "num_table_rows": len(sizes_of_table),
        "padded": True,
    }
    results = custom_call(
        Description("Fastneg>SampledRows", attributes, {}),
        [labels, sampled, *sizes_of_table],
        [
            Result(tf.int64, [size(named, 0)]),
            Result(tf.int32, sizes(labels)),
            Result(tf.int32, sizes(sampled)),
        ],
        xla.platforms("sampled_softmax"),
        witnesses=[named],
    )
    return _Found(*results)


def _gather(shards: list[Any], ids: tf.Tensor) -> tf.Tensor:
    if len(shards) == 1 and xla.is_the_way("sampled_softmax"):
        table = tf.convert_to_tensor(shards[0])  # XLA reads a variable where it is.
        if _tensorflow.is_argument_or_variable(table, cast=False):
            return gather_rows(table, ids)
    return gather(shards, ids)


def _gradients(grad_loss: tf.Tensor, call: Call) -> tuple[Grads, Grads]:
    _, *unit_grads = call.outputs
    biases = [tensor for tensor in call.optional if tensor is not None]
    hits = call.attribute("remove_accidental_hits")
    if is_custom_call(call.outputs[0]):
        grad_rows, grad_inputs, grad_biases = _grad_in_xla(grad_loss, call, biases, hits)
    else:
        grad_rows, grad_inputs, grad_biases = operations().fastneg_sampled_softmax_grad(
            grad_loss, *unit_grads, *call.required, biases, remove_accidental_hits=hits
        )
    return [grad_rows, grad_inputs, None, None, None, None], [grad_biases if biases else None]


def _grad_in_xla(
    grad_loss: tf.Tensor, call: Call, biases: list[tf.Tensor], remove_accidental_hits: bool
) -> list[tf.Tensor]:
    attributes = {"remove_accidental_hits": remove_accidental_hits, "num_biases": len(biases)}
    unit_grads = call.outputs[1:]
    dtypes = [call.required[0].dtype, call.required[1].dtype, grad_loss.dtype]
    return custom_call(
        Description("Fastneg>SampledSoftmaxGrad", attributes, {}),
        [grad_loss, *unit_grads, *call.required, *biases],
        [
            Result(dtype, sizes(unit_grad), operand=i if unit_grad.dtype == dtype else None)
            for i, (unit_grad, dtype) in enumerate(zip(unit_grads, dtypes, strict=True), 1)
        ],
        xla.platforms("sampled_softmax"),
    )


def _output_shapes(call: Call) -> list[Shape]:
    table_rows, inputs = call.required[:2]
    return [
        rows(inputs),
        sizes(table_rows),
        sizes(inputs),
        [0] if call.optional[0] is None else rows(table_rows),
    ]


_loss = FusedLoss(
    "sampled_softmax",
    _gradients,
    _output_shapes,
    inputs={
        "rows": 2,
        "inputs": 2,
        "label_rows": 2,
        "sampled_rows": 1,
        "true_expected_count": 2,
        "sampled_expected_count": 1,
    },
    attributes=("remove_accidental_hits",),
    optional_inputs={"num_biases": True},
)


@tf.RegisterGradient("Fastneg>SampledSoftmaxGrad")  # type: ignore[untyped-decorator]
def _second_derivative(op: tf.Operation, *grads: Any) -> None:
    raise autodiff.second_derivative_error()


tf.no_gradient("Fastneg>SampledRows")
