"""Tables of one row per class, which may be variables and may come in shards."""

from typing import Any

import tensorflow as tf

from fastneg._tensorflow import shards_of
from fastneg.validation import FLOAT_DTYPES, shape_text, to_tensor


def table(name: str, value: Any, num_rows: int, row_shape: list[int | None]) -> list[Any]:
    """Checks a table that may come in shards; returns these as `tf.gather` takes them.

    A variable stays one: reading all of it would copy it, and gathering its rows does not.
    """
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError(f"`{name}` must have at least one shard. Received: {value!r}.")
        shards = [_gatherable(name, shard) for shard in value]
        # How TensorFlow's "div" strategy splits a table: evenly, the first shards one row larger.
        num, rest = divmod(num_rows, len(shards))
        even = [num + (i < rest) for i in range(len(shards))]
        split = f", evenly split into shards of {even} rows"
    else:
        value = unwrapped(value)
        shards = shards_of(value) or [_gatherable(name, value)]
        even, split = None, ""
    for shard in shards:
        if shard.dtype not in FLOAT_DTYPES or shard.dtype != shards[0].dtype:
            raise ValueError(
                f"`{name}` must be float16, bfloat16, float32 or float64, the same in all shards. "
                f"Received: {shard.dtype.name}."
            )
        expected = [num_rows if len(shards) == 1 else None, *row_shape]
        if not shard.shape.is_compatible_with(expected):
            dims = ", ".join(
                ["num_classes" if len(shards) == 1 else "rows"] + ["embedding_dim"] * len(row_shape)
            )
            raise ValueError(
                f"`{name}` must have shape [{dims}], "
                f"{[size if size is not None else 'any' for size in expected]}. "
                f"Received: {shape_text(shard.shape)}."
            )
    sizes: list[Any] = [shard.shape[0] if shard.shape.rank else None for shard in shards]
    if even is None:
        fits = None in sizes or sum(sizes) == num_rows
    else:
        fits = all(size in (wanted, None) for size, wanted in zip(sizes, even, strict=True))
    if not fits:
        raise ValueError(
            f"`{name}` must have `num_classes`, {num_rows}, rows{split}. Received: {sizes}."
        )
    return shards


def _gatherable(name: str, value: Any) -> Any:
    value = unwrapped(value)
    return value if isinstance(value, (tf.Variable, tf.Tensor)) else to_tensor(name, value)


def unwrapped(value: Any) -> Any:
    """Returns the variable of TensorFlow that a variable of Keras holds, else `value`."""
    inner = getattr(value, "_value", None)
    return inner if isinstance(inner, tf.Variable) or shards_of(inner) else value
