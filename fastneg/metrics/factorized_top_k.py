"""FactorizedTopK: how often a query's candidate is among the first k of a whole catalogue."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from fastneg import validation
from fastneg.losses.positive_ranks import positive_ranks

_ALL_ROWS = 2**31 - 1


class FactorizedTopK(keras.metrics.Metric):  # type: ignore[misc]
    """`tfrs.metrics.FactorizedTopK` of TensorFlow Recommenders, computed by `positive_ranks`.

    For each k, the mean over queries, weighted, of

        1 if rank_i < k, else 0

    where rank_i is the number of candidates of the catalogue that score above query i's own. All ks
    cost one sweep over the scores, of which no more than one block exists at a time.

    By scores, the own candidate is `true_candidate_embeddings[i]`, which need not be part of the
    catalogue, and equal scores are not above it: its copy in the catalogue scores the same on the
    native backend, and up to rounding on the reference. By ids, it is the candidate of the
    catalogue with that id; of equal scores the first is above. An id that is not in the catalogue
    is no hit.

    Args:
        candidates: The catalogue: a tensor, array or variable, [N, D]; a `tf.data.Dataset` of
            batches, [n, D] each; or either with ids before the embeddings, `(ids, embeddings)`, ids
            [N] or [n] of integers or strings, all different. Without ids, a candidate's id is its
            place, 0 .. N - 1. Variables and datasets are read at each update, a dataset into memory
            as a whole.
        ks: The ks, positive integers.
        name: The name of the metric.
        **kwargs: As for every metric of Keras.

    Attributes:
        ks: The ks.

    Raises:
        ValueError: An argument or a static shape is wrong.
        tf.errors.InvalidArgumentError: A run-time shape is wrong, or ids of the catalogue repeat.

    Example:
        >>> movies = tf.constant([[3.0, 1.0], [5.0, 2.0], [4.0, 9.0]])
        >>> metric = fastneg.metrics.FactorizedTopK(movies, ks=(1, 2))
        >>> users = tf.constant([[1.0, 0.0], [0.0, 1.0]])
        >>> metric.update_state(users, tf.gather(movies, [2, 2]))  # In places 1 and 0.
        >>> print(float(metric.result()["factorized_top_k/top_1_categorical_accuracy"]))
        0.5

    Source:
        TensorFlow Recommenders, `metrics.FactorizedTopK`.
    """

    def __init__(
        self,
        candidates: Any,
        ks: Sequence[int] = (1, 5, 10, 50, 100),
        name: str = "factorized_top_k",
        **kwargs: Any,
    ) -> None:
        """Checks the catalogue and makes the counters."""
        super().__init__(name=name, **kwargs)
        if not isinstance(ks, Iterable) or not (ks := tuple(ks)):
            raise ValueError(f"`ks` must be positive integers, at least one. Received: {ks!r}.")
        self.ks = tuple(validation.positive_integer("ks", k) for k in ks)
        self._catalogue = _Catalogue(candidates)
        self.hits = self.add_variable((len(self.ks),), initializer="zeros", name="hits")
        self.weight = self.add_variable((), initializer="zeros", name="weight")

    def update_state(
        self,
        query_embeddings: Any,
        true_candidate_embeddings: Any,
        true_candidate_ids: Any = None,
        sample_weight: Any = None,
    ) -> None:
        """Counts the hits of a batch.

        Args:
            query_embeddings: [B, D], in the dtype of the catalogue.
            true_candidate_embeddings: [B, D], the queries' own candidates; what counts without ids.
            true_candidate_ids: [B] or [B, 1], the ids of these in the catalogue, which count where
                they are given; or None.
            sample_weight: A number, or weights of the queries, [B] or [B, 1]; or None for 1.
        """
        ids, candidates = self._catalogue.read()
        query = validation.embeddings("query_embeddings", query_embeddings)
        _check_like_query("candidates", candidates, query)
        if true_candidate_ids is None:
            ranks = _ranks_by_score(query, true_candidate_embeddings, candidates)
        else:
            ranks = _ranks_by_id(query, true_candidate_ids, ids, candidates)
        dtype = tf.as_dtype(self.dtype)
        weights, factor = validation.weights(
            "sample_weight",
            1.0 if sample_weight is None else sample_weight,
            query[:, 0],
            validation.static_batch_size(query),
            dtype,
        )
        weights = tf.ones_like(ranks, dtype) if weights is None else tf.reshape(weights, [-1])
        weights *= factor
        hits = tf.cast(ranks[:, None] < tf.constant(self.ks, tf.int64), dtype)
        self.hits.assign_add(tf.linalg.matvec(hits, weights, transpose_a=True))
        self.weight.assign_add(tf.reduce_sum(weights))

    def result(self) -> dict[str, tf.Tensor]:
        """Returns the accuracies by name, `<name>/top_<k>_categorical_accuracy`."""
        accuracies = tf.math.divide_no_nan(
            tf.convert_to_tensor(self.hits), tf.convert_to_tensor(self.weight)
        )
        names = [f"{self.name}/top_{k}_categorical_accuracy" for k in self.ks]
        return dict(zip(names, tf.unstack(accuracies, num=len(names)), strict=True))

    def get_config(self) -> dict[str, Any]:
        """Refuses: the catalogue is data, and no part of a configuration."""
        raise NotImplementedError(
            f"`{self.name}` must be made anew from its candidates: they are no part of a saved "
            "configuration."
        )


class _Catalogue:
    """Candidates and perhaps their ids, wherever they come from."""

    def __init__(self, candidates: Any) -> None:
        self._ids: Any = None
        self._embeddings = candidates
        if isinstance(candidates, tf.data.Dataset):
            spec = candidates.element_spec
            specs = spec if isinstance(spec, tuple) else (spec,)
            ranks = [getattr(part, "shape", tf.TensorShape([])).rank for part in specs]
            if ranks not in ([2], [1, 2]):
                raise ValueError(
                    "`candidates` must be a dataset of batches of embeddings, [n, embedding_dim], "
                    f"or of (ids, embeddings). Received: {spec}."
                )
            # All batches become one.
            self._embeddings = candidates.rebatch(_ALL_ROWS)
            return
        if isinstance(candidates, tuple):
            if len(candidates) != 2:
                raise ValueError(
                    "`candidates` must be embeddings or (ids, embeddings). "
                    f"Received: a tuple of {len(candidates)}."
                )
            self._ids, self._embeddings = candidates
        self.read()

    def read(self) -> tuple[tf.Tensor | None, tf.Tensor]:
        """Returns ids, or None for 0 .. N - 1, and embeddings."""
        ids, embeddings = self._ids, self._embeddings
        if isinstance(embeddings, tf.data.Dataset):
            element = embeddings.get_single_element()
            ids, embeddings = element if isinstance(element, tuple) else (None, element)
        embeddings = validation.embeddings("candidates", embeddings)
        if ids is not None:
            ids = _ids("ids of candidates", ids)
            validation.per_row("ids of candidates", ids, validation.static_batch_size(embeddings))
        return ids, embeddings


def _check_like_query(name: str, value: tf.Tensor, query: tf.Tensor) -> None:
    """Checks the dtype and the width of embeddings that queries are scored with."""
    if value.dtype != query.dtype:
        raise ValueError(
            f"`{name}` must have the dtype of `query_embeddings`, {query.dtype.name}. "
            f"Received: {value.dtype.name}."
        )
    width = query.shape[1] if query.shape.rank else None
    if not value.shape.is_compatible_with([None, width]):
        raise ValueError(
            f"`{name}` must have the width of `query_embeddings`, {width}. "
            f"Received: {validation.shape_text(value.shape)}."
        )


def _ranks_by_score(query: tf.Tensor, own: Any, candidates: tf.Tensor) -> tf.Tensor:
    """Ranks among the candidates of others that are put before them."""
    own = validation.embeddings("true_candidate_embeddings", own)
    _check_like_query("true_candidate_embeddings", own, query)
    batch_size = validation.static_batch_size(query)
    if batch_size is not None and own.shape[0] not in (batch_size, None):
        raise ValueError(
            "`true_candidate_embeddings` must have a row for each of `query_embeddings`, "
            f"{batch_size}. Received: {validation.shape_text(own.shape)}."
        )
    size, num_candidates = tf.shape(own)[0], tf.shape(candidates)[0]
    return tf.cast(
        positive_ranks(
            query,
            tf.concat([own, candidates], axis=0),
            positives=tf.range(size),
            candidate_mask=tf.range(size + num_candidates) >= size,
        ),
        tf.int64,
    )


def _ranks_by_id(
    query: tf.Tensor, own_ids: Any, ids: tf.Tensor | None, candidates: tf.Tensor
) -> tf.Tensor:
    """Ranks of candidates of the catalogue, higher than any k where one is not there."""
    own_ids = _ids("true_candidate_ids", own_ids)
    validation.per_row(
        "true_candidate_ids", own_ids, validation.static_batch_size(query), allow_column=True
    )
    own_ids = tf.reshape(own_ids, [-1])
    size = tf.shape(candidates)[0]
    if ids is None:
        if own_ids.dtype == tf.string:
            raise ValueError(
                "`true_candidate_ids` must be integers, places in the catalogue, where `candidates`"
                " have no ids. Received: string."
            )
        places = own_ids
    else:
        if (ids.dtype == tf.string) != (own_ids.dtype == tf.string):
            raise ValueError(
                f"`true_candidate_ids` must have the dtype of the catalogue's, {ids.dtype.name}. "
                f"Received: {own_ids.dtype.name}."
            )
        # Numbers in order of their first appearance: where ids of the catalogue differ, its own
        # are 0 .. N - 1.
        places = tf.unique(tf.concat([ids, own_ids], axis=0)).idx
        differ = tf.reduce_all(tf.equal(places[:size], tf.range(size)))
        message = "Ids of `candidates` must differ from each other. Received: some of them twice."
        with tf.control_dependencies([tf.debugging.Assert(differ, [message])]):
            places = places[size:]
    places = tf.cast(places, tf.int64)
    found = (places >= 0) & (places < tf.cast(size, tf.int64))
    if candidates.shape[0] == 0:  # None to rank, and none is found.
        candidates = tf.zeros([1, tf.shape(query)[1]], query.dtype)
    ranks = positive_ranks(query, candidates, positives=tf.where(found, places, 0))
    return tf.where(found, tf.cast(ranks, tf.int64), tf.int64.max)


def _ids(name: str, value: Any) -> tf.Tensor:
    value = validation.to_tensor(name, value)
    return value if value.dtype == tf.string else validation.integer_ids(name, value)
