"""Checks of run-time shapes and values for the plain TensorFlow loss and ranks."""

from typing import Any, TypeVar

import tensorflow as tf

from fastneg.arguments.in_batch_softmax import InBatchSoftmaxArguments, PositiveRanksArguments
from fastneg.reference.checks import compilable, dimension, rank, require, same_shape

_Arguments = TypeVar("_Arguments", bound=PositiveRanksArguments)


def checked(arguments: _Arguments) -> _Arguments:
    """Returns the arguments, to be computed with only if everything is as it must be."""
    query, candidate = arguments.query_embeddings, arguments.candidate_embeddings
    checks: list[Any] = []
    for name, value in (("query_embeddings", query), ("candidate_embeddings", candidate)):
        if value.shape.rank is None:
            require(
                checks, tf.equal(rank(value), 2), f"`{name}` must have rank 2.", tf.shape(value)
            )
    with tf.control_dependencies(checks):  # A scalar has no first dimension.
        query_shape = tf.shape(query, out_type=tf.int64)
        candidate_shape = tf.shape(candidate, out_type=tf.int64)
        batch_size, num_candidates = query_shape[0], candidate_shape[0]
    if not (query.shape.is_fully_defined() and candidate.shape.is_fully_defined()):
        require(
            checks,
            tf.equal(query_shape[-1], candidate_shape[1]),
            "`candidate_embeddings` must have the width of `query_embeddings`,",
            query_shape[-1],
            candidate_shape,
        )
        if arguments.positives is None:
            require(
                checks,
                num_candidates >= batch_size,
                "`candidate_embeddings` must have at least as many rows as `query_embeddings`, "
                "unless `positives` are given,",
                batch_size,
                num_candidates,
            )
        else:
            require(
                checks,
                (num_candidates > 0) | tf.equal(batch_size, 0),
                "`candidate_embeddings` must have at least one row where `query_embeddings` has",
                batch_size,
                num_candidates,
            )
    _check_shapes(checks, arguments, batch_size, num_candidates)
    if arguments.positives is not None:
        require(
            checks,
            tf.reduce_all((arguments.positives >= 0) & (arguments.positives < num_candidates)),
            "`positives` must be at least 0 and less than the number of candidates,",
            num_candidates,
            arguments.positives,
        )
    if isinstance(arguments, InBatchSoftmaxArguments):
        for name in ("temperature", "margin", "t"):
            value = getattr(arguments, name)
            if isinstance(value, tf.Tensor) and value.shape.rank is None:
                require(
                    checks, tf.equal(rank(value), 0), f"`{name}` must be a scalar.", tf.shape(value)
                )
        if isinstance(arguments.temperature, tf.Tensor):
            with tf.control_dependencies(checks):
                usable = is_temperature(tf.reshape(arguments.temperature, []))
            require(
                checks, usable, "`temperature` must be positive and finite.", arguments.temperature
            )
    with tf.control_dependencies(checks):
        return arguments.replaced(
            query_embeddings=tf.identity(query), candidate_embeddings=tf.identity(candidate)
        )


def compilable_arguments(arguments: _Arguments) -> _Arguments:
    """The same inside XLA, which does not compile for what does not fit, and checks no values."""
    query = arguments.query_embeddings
    query = tf.ensure_shape(query, [None] * (query.shape.rank or 2))
    candidate = tf.ensure_shape(arguments.candidate_embeddings, [None, None])
    batch_size, num_candidates = dimension(query, 0), dimension(candidate, 0)
    changes: dict[str, Any] = {
        "query_embeddings": query,
        "candidate_embeddings": compilable(candidate, num_candidates, dimension(query, -1)),
    }
    for name, shape in _shapes(arguments, batch_size, num_candidates).items():
        value = getattr(arguments, name)
        if name == "sample_weight":
            value = tf.reshape(value, [-1])
        changes[name] = compilable(value, *shape)
    return arguments.replaced(**changes)


def is_temperature(value: Any) -> tf.Tensor:
    """Whether a temperature is positive and finite."""
    return (value > 0) & tf.math.is_finite(value)


def _shapes(arguments: PositiveRanksArguments, batch_size: Any, num_candidates: Any) -> Any:
    """The shapes that those of the optional arguments that were given must have."""
    shapes = {
        "positives": [batch_size],
        "candidate_ids": [num_candidates],
        "candidate_mask": [num_candidates],
        "score_mask": [batch_size, num_candidates],
        "candidate_sampling_probability": [num_candidates],
        "sample_weight": [batch_size],
    }
    return {
        name: shape for name, shape in shapes.items() if getattr(arguments, name, None) is not None
    }


def _check_shapes(
    checks: list[Any],
    arguments: PositiveRanksArguments,
    batch_size: tf.Tensor,
    num_candidates: tf.Tensor,
) -> None:
    known = (
        arguments.query_embeddings.shape.is_fully_defined()
        and arguments.candidate_embeddings.shape.is_fully_defined()
    )
    for name, shape in _shapes(arguments, batch_size, num_candidates).items():
        value = getattr(arguments, name)
        if known and value.shape.is_fully_defined():
            continue  # Static checks have seen all there is to see.
        actual, expected = tf.shape(value, out_type=tf.int64), tf.stack(shape)
        fits = same_shape(actual, expected)
        if name == "sample_weight":
            fits |= same_shape(actual, tf.stack([batch_size, 1]))
        column = " or [batch_size, 1]" if name == "sample_weight" else ""
        require(checks, fits, f"`{name}` must have shape{column}", expected, actual)
