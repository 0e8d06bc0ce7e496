"""Rows of a table that may be a variable and may come in shards."""

from typing import Any

import tensorflow as tf


def gather(shards: list[Any], ids: tf.Tensor) -> tf.Tensor:
    """Rows of the table; the gradient is a `tf.IndexedSlices`."""
    if len(shards) == 1:
        return tf.gather(shards[0], ids)
    return tf.nn.embedding_lookup(shards, ids)


def table_rows(*tables: list[Any] | None) -> list[tf.Tensor]:
    """The numbers of rows of those tables that have not the same one whenever a graph runs."""
    return [
        tf.add_n([tf.shape(shard, out_type=tf.int64)[0] for shard in shards])
        for shards in tables
        if shards is not None and not all(shard.shape[:1].is_fully_defined() for shard in shards)
    ]
