"""`sampled_softmax_loss` on tiles: products of matrices by NumPy, never a whole [B, S]."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fastneg import validation
from fastneg.arguments.sampled_softmax import SampledSoftmaxArguments
from fastneg.backends import autodiff
from fastneg.backends.numba import bridge, sampled_tiles
from fastneg.reference.sampled_softmax_checks import checked
from fastneg.reference.table import gather


def sampled_softmax(arguments: SampledSoftmaxArguments) -> tf.Tensor:
    """Computes the losses."""
    arguments = checked(arguments)
    dtype = validation.compute_dtype(arguments.inputs.dtype)
    # Each distinct row is gathered once, so its gradient comes once.
    ids, places = tf.unique(
        tf.concat([arguments.sampled, tf.reshape(arguments.labels, [-1])], axis=0)
    )
    num_sampled = tf.size(arguments.sampled)
    constants = [
        tf.reshape(places[num_sampled:], [-1, arguments.num_true]),
        places[:num_sampled],
        arguments.true_expected_count,
        arguments.sampled_expected_count,
    ]
    differentiable = [
        tf.cast(gather(arguments.weights, ids), dtype),
        tf.cast(arguments.inputs, dtype),
    ]
    if arguments.biases is not None:
        differentiable.append(tf.cast(gather(arguments.biases, ids), dtype))
    num_inputs = len(differentiable)
    remove_accidental_hits = arguments.remove_accidental_hits

    def losses(*arrays: Any) -> Any:
        return sampled_tiles.losses(_problem(arrays, num_inputs, remove_accidental_hits))

    def gradients(upstream: Any, *arrays: Any) -> list[Any]:
        problem = _problem(arrays, num_inputs, remove_accidental_hits)
        return list(sampled_tiles.gradients(problem, upstream))[:num_inputs]

    if tf.executing_eagerly():
        arrays = [tensor.numpy() for tensor in (*differentiable, *constants)]
        value = tf.convert_to_tensor(losses(*arrays))

        def scaled(grad_loss: tf.Tensor) -> list[tf.Tensor]:
            grads = [tf.convert_to_tensor(x) for x in gradients(grad_loss.numpy(), *arrays)]
            autodiff.refuse_differentiation(grads, [grad_loss])
            return grads

        autodiff.attach_gradient(value, differentiable, scaled)
        return value

    autodiff.refuse_tangents(differentiable)

    @tf.custom_gradient
    def loss_of(*tensors: tf.Tensor) -> Any:
        loss = bridge.only_differentiable_here(
            tf.numpy_function(losses, [*tensors, *constants], dtype)
        )
        loss.set_shape(tensors[1].shape[:1])

        def backward(grad_loss: tf.Tensor) -> list[tf.Tensor]:
            grads = tf.numpy_function(
                gradients, [grad_loss, *tensors, *constants], [dtype] * num_inputs
            )
            for grad, tensor in zip(grads, tensors, strict=True):
                grad.set_shape(tensor.shape)
            return list(autodiff.undifferentiable(*grads))

        return loss, backward

    return loss_of(*differentiable)


def _problem(
    arrays: tuple[Any, ...], num_inputs: int, remove_accidental_hits: bool
) -> sampled_tiles.Problem:
    """From rows, inputs, biases where there are some, and the constants."""
    rows, inputs, *biases = arrays[:num_inputs]
    label_rows, sampled_rows, true_count, sampled_count = arrays[num_inputs:]
    return sampled_tiles.Problem(
        rows,
        inputs,
        biases[0] if biases else None,
        label_rows,
        sampled_rows,
        true_count,
        sampled_count,
        remove_accidental_hits,
    )
