"""Shapes of which some sizes are known only when a graph runs, or when XLA compiles it."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Size(NamedTuple):
    """The size of a tensor along an axis."""

    tensor: tf.Tensor
    axis: int


# None for a shape of which not even the rank is known.
Shape = Sequence[int | Size] | None


def size(tensor: tf.Tensor, axis: int) -> int | Size:
    """The size of a tensor of known rank along an axis."""
    static_size = tensor.shape[axis]
    return Size(tensor, axis) if static_size is None else int(static_size)


def sizes(tensor: tf.Tensor) -> Shape:
    """The shape of a tensor."""
    rank = tensor.shape.rank
    return None if rank is None else [size(tensor, axis) for axis in range(rank)]


def rows(tensor: tf.Tensor) -> Shape:
    """The shape of a vector with an element for each row of a tensor."""
    shape = sizes(tensor)
    return None if shape is None else shape[:1]


def static(shape: Shape) -> tf.TensorShape:
    """What of a shape is known while a graph is traced."""
    if shape is None:
        return tf.TensorShape(None)
    return tf.TensorShape([None if isinstance(size, Size) else size for size in shape])
