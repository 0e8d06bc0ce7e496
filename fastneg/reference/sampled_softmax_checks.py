"""Checks of run-time shapes and values for the plain TensorFlow loss."""

from typing import Any

import tensorflow as tf

from fastneg.arguments.sampled_softmax import SampledSoftmaxArguments
from fastneg.reference.checks import rank, require, same_shape
from fastneg.reference.table import table_rows


def checked(arguments: SampledSoftmaxArguments) -> SampledSoftmaxArguments:
    """Labels, inputs and samples become such that are used only if everything is as it must be."""
    labels, inputs, sampled = arguments.labels, arguments.inputs, arguments.sampled
    num_true, num_classes = arguments.num_true, arguments.num_classes
    checks: list[Any] = []
    if inputs.shape.rank is None:
        require(
            checks,
            tf.equal(rank(inputs), 2),
            "`inputs` must have rank 2, [batch_size, embedding_dim].",
            tf.shape(inputs),
        )
    for rows in table_rows(arguments.weights, arguments.biases):
        require(
            checks,
            tf.equal(rows, num_classes),
            "`weights` and `biases` must have as many rows as `num_classes` says,",
            tf.constant(num_classes, tf.int64),
            rows,
        )
    with tf.control_dependencies(checks):
        input_shape = tf.shape(inputs, out_type=tf.int64)
        label_shape = tf.shape(labels, out_type=tf.int64)
        sampled_shape = tf.shape(sampled, out_type=tf.int64)
    if not _all_static(labels, inputs):
        require(
            checks,
            same_shape(label_shape, tf.stack([input_shape[0], num_true])),
            "`labels` must have shape [batch_size, num_true], with the batch_size of `inputs`,",
            tf.stack([input_shape[0], num_true]),
            label_shape,
        )
    for shard in arguments.weights:
        if not (shard.shape[1:].is_fully_defined() and inputs.shape[1:].is_fully_defined()):
            require(
                checks,
                same_shape(tf.shape(shard, out_type=tf.int64)[1:], input_shape[1:]),
                "`weights` must have shape [num_classes, embedding_dim], with the embedding_dim of "
                "`inputs`,",
                input_shape[1],
                tf.shape(shard),
            )
    if not _all_static(sampled):
        require(
            checks,
            tf.logical_and(tf.equal(tf.size(sampled_shape), 1), tf.size(sampled) >= 1),
            "`sampled_values[0]` must have shape [num_sampled], at least [1].",
            sampled_shape,
        )
    for name, value, wanted in (
        ("sampled_values[1]", arguments.true_expected_count, labels),
        ("sampled_values[2]", arguments.sampled_expected_count, sampled),
    ):
        if not _all_static(value, wanted):
            shape = label_shape if wanted is labels else sampled_shape
            actual = tf.shape(value, out_type=tf.int64)
            require(checks, same_shape(actual, shape), f"`{name}` must have shape", shape, actual)
    for name, ids in (("labels", labels), ("sampled_values[0]", sampled)):
        require(
            checks,
            tf.reduce_all(_in_range(ids, num_classes)),
            f"`{name}` must be in 0 .. `num_classes` - 1, `num_classes` being",
            tf.constant(num_classes, tf.int64),
            ids,
        )
    with tf.control_dependencies(checks):
        return arguments.replaced(
            labels=tf.identity(labels), inputs=tf.identity(inputs), sampled=tf.identity(sampled)
        )


def is_valid(labels: tf.Tensor, sampled: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Whether all ids name classes."""
    valid = [tf.reduce_all(_in_range(ids, num_classes)) for ids in (labels, sampled)]
    return tf.logical_and(*valid)


def _in_range(ids: tf.Tensor, num_classes: int) -> tf.Tensor:
    return (ids >= 0) & (ids < num_classes)


def _all_static(*values: tf.Tensor) -> bool:
    """Whether static checks have seen all there is to see of these shapes."""
    return all(value.shape.is_fully_defined() for value in values)
