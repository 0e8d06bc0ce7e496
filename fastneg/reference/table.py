"""Rows of a table that may be a variable and may come in shards, each row asked for once."""

from typing import Any

import tensorflow as tf

from fastneg._tensorflow import in_xla, is_argument_or_variable


def distinct(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns each of the ids once, and for each of `ids` its place among them, int32.

    Inside XLA, where no shape may depend on values, there are as many as `ids` has. Those that are
    left over are the smallest id once more, and no place is theirs: what was gathered for them has
    a gradient of 0.
    """
    if not in_xla():
        unique = tf.unique(ids)
        return unique.y, unique.idx
    order = tf.argsort(ids, stable=True)
    ordered = tf.gather(ids, order)
    is_new = tf.concat([tf.zeros_like(ids[:1], tf.bool), ordered[1:] != ordered[:-1]], axis=0)
    places_in_order = tf.cumsum(tf.cast(is_new, tf.int32))
    places = tf.scatter_nd(order[:, None], places_in_order, tf.shape(ids))
    found = tf.math.unsorted_segment_max(ordered, places_in_order, tf.size(ids))
    return tf.where(found < ordered[:1], ordered[:1], found), places


def gather(shards: list[Any], ids: tf.Tensor) -> tf.Tensor:
    """Rows of the table, which is cut into shards in their order.

    The gradient is a `tf.IndexedSlices` for each shard, with the distinctness of `ids`.
    """
    if len(shards) > 1:
        return (_gather_everywhere if in_xla() else _gather_from_owners)(shards, ids)
    if in_xla() and not is_argument_or_variable(shards[0]):
        # The gradient of what computed the table, if it is a concatenation, looks in slices for
        # those of each part. XLA gets the number of these wrong.
        return gather_dense(shards[0], ids)
    return tf.gather(shards[0], ids)


def gather_dense(rows: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """`tf.gather(rows, places)` for a small `rows`: the gradient is a tensor."""
    if rows.shape.rank and 0 in rows.shape.as_list():
        return tf.gather(rows, places)  # `tf.gather_nd` refuses rows without elements.
    return tf.gather_nd(rows, places[tf.newaxis, :, tf.newaxis])[0]


def _gather_from_owners(shards: list[Any], ids: tf.Tensor) -> tf.Tensor:
    """Each shard is asked for the rows that it has, as in `tf.nn.embedding_lookup`."""
    ends = tf.cumsum(_sizes(shards, ids.dtype))
    owners = tf.searchsorted(ends, ids, side="right")
    starts = tf.concat([tf.zeros([1], ids.dtype), ends[:-1]], axis=0)
    places = tf.dynamic_partition(tf.range(tf.size(ids)), owners, len(shards))
    local = tf.dynamic_partition(ids - tf.gather(starts, owners), owners, len(shards))
    rows = [tf.gather(shard, some) for shard, some in zip(shards, local, strict=True)]
    return tf.dynamic_stitch(places, rows)


def _gather_everywhere(shards: list[Any], ids: tf.Tensor) -> tf.Tensor:
    """Every shard is asked for as many rows as there are ids: no shape depends on values.

    In the place of ids that a shard has not stands one that it has, if there is any, with a
    gradient of 0.
    """
    total, start = None, tf.zeros([], ids.dtype)
    for shard, size in zip(shards, tf.unstack(_sizes(shards, ids.dtype)), strict=True):
        local = ids - start
        mine = (local >= 0) & (local < size)
        some = tf.minimum(tf.reduce_min(tf.where(mine, local, size)), tf.maximum(size - 1, 0))
        rows = gather([shard], tf.where(mine, local, some))
        rows = tf.where(tf.reshape(mine, [-1] + [1] * (rows.shape.rank - 1)), rows, 0)
        total = rows if total is None else total + rows
        start += size
    return total


def _sizes(shards: list[Any], dtype: tf.DType) -> tf.Tensor:
    """The numbers of rows."""
    sizes = [shard.shape[0] if shard.shape.rank else None for shard in shards]
    if None in sizes:
        return tf.stack([tf.shape(shard, out_type=dtype)[0] for shard in shards])
    return tf.constant(sizes, dtype)


def table_rows(*tables: list[Any] | None) -> list[tf.Tensor]:
    """The numbers of rows of those tables that have not the same one whenever a graph runs."""
    return [
        tf.add_n([tf.shape(shard, out_type=tf.int64)[0] for shard in shards])
        for shards in tables
        if shards is not None and not all(shard.shape[:1].is_fully_defined() for shard in shards)
    ]
