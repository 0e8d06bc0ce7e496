"""Checks of arguments that need no values: types, dtypes and static shapes.

Every message states the requirement and then what was received. What is not known while a graph is
traced is left to the backends, which see every shape and value.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from fastneg.whole_numbers import NO_ID, whole_numbers

FLOAT_DTYPES = frozenset({tf.float16, tf.bfloat16, tf.float32, tf.float64})
_INTEGER_DTYPES = frozenset(
    {tf.int8, tf.uint8, tf.int16, tf.uint16, tf.int32, tf.uint32, tf.int64, tf.uint64}
)
_REAL_DTYPES = FLOAT_DTYPES | _INTEGER_DTYPES
# uint64 is left out: its values do not fit the int64 that shifts are computed in.
_SHIFT_DTYPES = _INTEGER_DTYPES - {tf.uint64}
_MOST_NEGATIVES = 2**31 - 1
_LONGEST_VALUE = 500  # Of a value that a message quotes, in characters.
# TensorFlow takes microseconds to say so.
_LARGEST = {dtype: float(dtype.max) for dtype in (tf.float32, tf.float64)}


def compute_dtype(embedding_dtype: tf.DType) -> tf.DType:
    """Returns the dtype of arithmetic, losses and scalar arguments for embeddings of a dtype."""
    return tf.float64 if embedding_dtype == tf.float64 else tf.float32


def to_tensor(name: str, value: Any, dtype_hint: tf.DType | None = None) -> tf.Tensor:
    """Converts an argument, naming it if it cannot be converted."""
    if isinstance(value, tf.Tensor):
        return value
    try:
        if isinstance(value, list | tuple) and value and isinstance(value[0], np.ndarray):
            value = np.stack(value)  # TensorFlow does that itself, but not while a graph is traced.
        # A hint would also truncate floating-point arrays to integers, and make numbers of what is
        # bool, so only lists of numbers get it.
        hint = None if hasattr(value, "dtype") or _holds_bool(value) else dtype_hint
        return tf.convert_to_tensor(value, dtype_hint=hint)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be convertible to a tensor. Received: {_shortened(repr(value))}."
        ) from error


def _holds_bool(value: Any) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (bool, np.bool_))


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} ..."


def embedding_pair(
    left_name: str, left: Any, right_name: str, right: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Checks two embedding matrices [B, D] of one dtype and shape."""
    left = to_tensor(left_name, left)
    right = to_tensor(right_name, right, dtype_hint=left.dtype)
    for name, value in ((left_name, left), (right_name, right)):
        if value.dtype not in FLOAT_DTYPES:
            raise ValueError(
                f"`{name}` must be float16, bfloat16, float32 or float64. "
                f"Received: {value.dtype.name}."
            )
        if value.shape.rank not in (2, None):
            raise ValueError(
                f"`{name}` must have rank 2, [batch_size, embedding_dim]. "
                f"Received: {shape_text(value.shape)}."
            )
    if left.dtype != right.dtype:
        raise ValueError(
            f"`{right_name}` must have the dtype of `{left_name}`, {left.dtype.name}. "
            f"Received: {right.dtype.name}."
        )
    if not right.shape.is_compatible_with(left.shape):
        raise ValueError(
            f"`{right_name}` must have the shape of `{left_name}`, {shape_text(left.shape)}. "
            f"Received: {shape_text(right.shape)}."
        )
    return left, right


def scores(
    positive_name: str, positive: Any, negatives_name: str, negatives: Any
) -> tuple[tf.Tensor, tf.Tensor]:
    """Checks the scores of positives, [P] or [P, 1], and negatives, [P, K], of one dtype."""
    negatives = to_tensor(negatives_name, negatives)
    positive = to_tensor(positive_name, positive, dtype_hint=negatives.dtype)
    for name, value in ((positive_name, positive), (negatives_name, negatives)):
        if value.dtype not in FLOAT_DTYPES:
            raise ValueError(
                f"`{name}` must be float16, bfloat16, float32 or float64. "
                f"Received: {value.dtype.name}."
            )
    if negatives.shape.rank not in (2, None):
        raise ValueError(
            f"`{negatives_name}` must have rank 2, [num_rows, num_negatives]. "
            f"Received: {shape_text(negatives.shape)}."
        )
    if positive.dtype != negatives.dtype:
        raise ValueError(
            f"`{positive_name}` must have the dtype of `{negatives_name}`, {negatives.dtype.name}. "
            f"Received: {positive.dtype.name}."
        )
    per_row(positive_name, positive, static_batch_size(negatives), allow_column=True)
    return positive, negatives


def floating(name: str, value: Any) -> tf.Tensor:
    """Checks a floating-point tensor; its shape is for `per_row`."""
    value = to_tensor(name, value)
    if value.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"`{name}` must be float16, bfloat16, float32 or float64. Received: {value.dtype.name}."
        )
    return value


def embeddings(name: str, value: Any) -> tf.Tensor:
    """Checks one embedding matrix [B, D]."""
    value = to_tensor(name, value)
    if value.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"`{name}` must be float16, bfloat16, float32 or float64. Received: {value.dtype.name}."
        )
    if value.shape.rank not in (2, None):
        raise ValueError(
            f"`{name}` must have rank 2, [batch_size, embedding_dim]. "
            f"Received: {shape_text(value.shape)}."
        )
    return value


def static_batch_size(*tensors: tf.Tensor | None) -> int | None:
    """Returns the first dimension of the first tensor that has it static."""
    for tensor in tensors:
        if tensor is not None and tensor.shape.rank and tensor.shape[0] is not None:
            return int(tensor.shape[0])
    return None


def labels(name: str, value: Any) -> tf.Tensor:
    """Checks labels of any real dtype or bool; their shape is for `per_row`."""
    value = to_tensor(name, value)
    if value.dtype not in _REAL_DTYPES and value.dtype != tf.bool:
        raise ValueError(
            f"`{name}` must be bool, integer or floating point. Received: {value.dtype.name}."
        )
    return value


def real_tensor(name: str, value: Any, dtype: tf.DType) -> tf.Tensor:
    """Checks a real tensor and casts it to the compute dtype."""
    value = to_tensor(name, value, dtype_hint=dtype)
    if value.dtype == dtype:
        return value
    if value.dtype not in _REAL_DTYPES:
        raise ValueError(f"`{name}` must be a real number. Received: {value.dtype.name}.")
    return tf.cast(value, dtype)


def integer_ids(name: str, value: Any) -> tf.Tensor:
    """Checks integer ids and casts them to int64, which keeps different ids different.

    Floats that hold integers are taken, too: Keras makes floats of much that was none. Inside XLA
    others become `NO_ID`.
    """
    value = _integers(name, value, NO_ID)
    if value.dtype not in _INTEGER_DTYPES:
        raise ValueError(f"`{name}` must be integers. Received: {value.dtype.name}.")
    return value if value.dtype == tf.int64 else tf.cast(value, tf.int64)


def _integers(name: str, value: Any, otherwise: int) -> tf.Tensor:
    tensor = to_tensor(name, value, dtype_hint=tf.int64)
    if tensor.dtype in FLOAT_DTYPES:
        return whole_numbers(name, value, tensor, otherwise)
    return tensor


def per_row(
    name: str, value: tf.Tensor, batch_size: int | None, *, allow_column: bool = False
) -> None:
    """Checks the static shape [B], or [B, 1] where a column is allowed."""
    rank = value.shape.rank
    if rank is None:
        return
    fits = rank == 1 or (allow_column and rank == 2 and value.shape[1] in (1, None))
    if fits and (batch_size is None or value.shape[0] in (batch_size, None)):
        return
    size = "batch_size" if batch_size is None else batch_size
    expected = f"[{size}] or [{size}, 1]" if allow_column else f"[{size}]"
    raise ValueError(f"`{name}` must have shape {expected}. Received: {shape_text(value.shape)}.")


def weights(
    name: str, value: Any, rows: tf.Tensor, num_rows: int | None, dtype: tf.DType
) -> tuple[tf.Tensor | None, float]:
    """Returns weights per row, or None, and a factor for the loss.

    Args:
        name: The argument's name.
        value: A number, a scalar tensor, or weights [B] or [B, 1].
        rows: Something of shape [B] or [B, 1].
        num_rows: B where it is static.
        dtype: That of the result.
    """
    if is_number(value):
        factor = number(name, value)
        if factor != 0.0:
            return None, factor
        # No row counts, which is more than a loss times 0: NaN in an embedding must not survive.
        value = tf.zeros([], dtype)
    value = real_tensor(name, value, dtype)
    if value.shape.rank == 0:
        shape = tf.shape(rows) if num_rows is None else [num_rows]
        return tf.broadcast_to(value, shape), 1.0
    per_row(name, value, num_rows, allow_column=True)
    return value, 1.0


def is_number(value: Any) -> bool:
    """Whether `value` is a constant of Python or NumPy, and not a tensor."""
    return isinstance(value, (int, float, np.number, np.bool_)) or (
        isinstance(value, np.ndarray) and value.ndim == 0
    )


def number(name: str, value: Any) -> float:
    """Checks a constant: it must be a real and finite number of Python or NumPy.

    A string is none; and a tensor, or a variable that somebody wants to train, would be a constant
    without a word.
    """
    is_real = isinstance(value, (int, float)) or (
        isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufV"
    )
    try:
        result = float(value) if is_real else math.nan
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise ValueError(f"`{name}` must be a finite number. Received: {value!r}.")
    return result


def number_or_scalar(name: str, value: Any, dtype: tf.DType) -> float | tf.Tensor:
    """Returns a checked Python float for a constant, else a scalar tensor of the compute dtype."""
    if is_number(value):
        result = number(name, value)
        if abs(result) > _LARGEST[dtype]:
            raise ValueError(f"`{name}` must be finite in {dtype.name}. Received: {value!r}.")
        return result
    tensor = real_tensor(name, value, dtype)
    if tensor.shape.rank not in (0, None):
        raise ValueError(f"`{name}` must be a scalar. Received: {shape_text(tensor.shape)}.")
    return tensor


def positive_integer(name: str, value: Any, most: int = 2**63 - 1) -> int:
    """Checks a Python integer that counts something there must be at least one of."""
    _check_integer(name, value)
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1. Received: {value}.")
    if value > most:
        raise ValueError(f"`{name}` must be at most {most}. Received: {value}.")
    return int(value)


def num_negatives(name: str, value: Any) -> int:
    """Checks a number of negatives."""
    return positive_integer(name, value, _MOST_NEGATIVES)


def num_rolled_negatives(name: str, value: Any, batch_size: int | None) -> int:
    """Checks 1 <= K < B; an empty batch takes any K."""
    _check_integer(name, value)
    if value < 1 or (batch_size and value >= batch_size):
        size = "" if batch_size is None else f", {batch_size}"
        raise ValueError(
            f"`{name}` must be at least 1 and less than the batch size{size}. Received: {value}."
        )
    return num_negatives(name, value)


def flag(name: str, value: Any) -> bool:
    """Checks a choice that is made while a loss is called or traced: a bool, or 0 or 1."""
    if not isinstance(value, (bool, np.bool_, int, np.integer)) or value not in (0, 1):
        raise ValueError(f"`{name}` must be True or False. Received: {value!r}.")
    return bool(value)


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer of Python or NumPy."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_integer(name: str, value: Any) -> None:
    if not is_integer(value):
        raise ValueError(f"`{name}` must be a Python integer. Received: {value!r}.")


def shifts(name: str, value: Any) -> tf.Tensor:
    """Checks integer shifts [K] and casts them to int64; inside XLA floats that are none to 0."""
    value = _integers(name, value, 0)
    if value.dtype not in _SHIFT_DTYPES:
        raise ValueError(
            f"`{name}` must be integers of at most 64 bits, signed if 64. "
            f"Received: {value.dtype.name}."
        )
    if value.shape.rank not in (1, None):
        raise ValueError(
            f"`{name}` must have rank 1, [num_negatives]. Received: {shape_text(value.shape)}."
        )
    return value if value.dtype == tf.int64 else tf.cast(value, tf.int64)


def permutations(name: str, value: Any, batch_size: int | None) -> tf.Tensor:
    """Checks integers [K, B] and casts them to int32 or int64; floats as `integer_ids` does."""
    value = _integers(name, value, NO_ID)
    if value.dtype not in _SHIFT_DTYPES:
        raise ValueError(
            f"`{name}` must be integers of at most 64 bits, signed if 64. "
            f"Received: {value.dtype.name}."
        )
    if value.shape.rank not in (2, None) or (
        value.shape.rank == 2
        and batch_size is not None
        and value.shape[1] not in (batch_size, None)
    ):
        size = "batch_size" if batch_size is None else batch_size
        raise ValueError(
            f"`{name}` must have shape [num_negatives, {size}]. "
            f"Received: {shape_text(value.shape)}."
        )
    if value.dtype in (tf.int32, tf.int64):
        return value
    return tf.cast(value, tf.int64 if value.dtype == tf.uint32 else tf.int32)


def shape_text(shape: tf.TensorShape) -> str:
    """A shape as messages have it."""
    return "unknown rank" if shape.rank is None else str(shape.as_list())
