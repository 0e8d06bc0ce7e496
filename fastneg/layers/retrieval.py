"""Retrieval: the task of TensorFlow Recommenders as a layer of Keras 3."""

import inspect
from typing import Any, ClassVar

import keras
import tensorflow as tf

from fastneg import validation
from fastneg.layers.common import LossLayer, loss_spec
from fastneg.layers.retrieval_scores import batch_scores, max_sim_loss
from fastneg.losses.in_batch_softmax import in_batch_softmax_loss

_IN_A_LAYER_OF_YOUR_OWN = (
    "To train or change it, call `fastneg.in_batch_softmax_loss` in a layer or model that owns the "
    "variable."
)


@keras.saving.register_keras_serializable(package="fastneg")
class Retrieval(LossLayer):
    """`tfrs.tasks.Retrieval` of TensorFlow Recommenders, computed by `in_batch_softmax_loss`.

    Row i's candidate is its positive, and all other candidates are its negatives. The loss is the
    sum over rows, not the mean:

        l_ij = <q_i, c_j> / temperature - log p_j
        loss = sum_i w_i (logsumexp_j l_ij - l_ii)

    with p_j the sampling probability of candidate j, where it is given. The other options and their
    formulas are those of `fastneg.in_batch_softmax_loss`. The layer returns the loss; a model
    returns it from its `compute_loss`, or adds it with `add_loss`.

    What differs from TensorFlow Recommenders:

    - A custom `loss` is refused: it would need all scores, which are never stored.
    - Probabilities are clipped at 1e-9, there at 1e-6: it matters from a million candidates on.
    - Candidates that are left out are left out; there their logit becomes -3.4e36. A `score_mask`
      that is false for a row's own candidate leaves that one in; there the loss becomes 3.4e36.
    - Evaluation by ids takes those of the rows' own candidates from `candidate_ids`, which may be
      longer than the batch.

    Args:
        temperature: Divides the scores, a positive number; None for 1.
        num_hard_negatives: How many of a row's negatives stay, those with the largest logits; None
            for all.
        remove_accidental_hits: Whether negatives with the id of a row's positive are left out.
        metrics: A metric over a whole catalogue, `fastneg.metrics.FactorizedTopK`, or several: what
            has `update_state(query_embeddings, true_candidate_embeddings, true_candidate_ids,
            sample_weight)`. They are no part of a saved configuration, as their candidates are
            none: set `factorized_metrics` after loading.
        batch_metrics: Metrics of Keras over the batch's candidates, called with labels, one-hot,
            and scores, [B, C], which are computed for them; with `num_hard_negatives` [B, H + 1].
            They see scores by temperature and probability, with neither margin nor re-weighting.
        loss_metrics: Metrics of Keras, called with the loss.
        name: The name of the layer.
        loss: Refused; here for the sake of the message.
        normalize: As in the function, like all that follow.
        margin: A number.
        t: A number.
        label_smoothing: A number.
        correction: "standard" or "refined".
        positive_in_softmax: Whether the positive's logit is among those that are summed.
        negative_weight: A number.
        bidirectional: Whether candidates are classified too.
        reduction: "sum", "mean" or "none".
        **kwargs: As for every Keras layer.

    Call arguments:
        query_embeddings: [B, D]; or several embeddings of each query, [B, H, D], of which the one
            with the largest score counts for a candidate (max-sim). Those are scored by plain
            TensorFlow, and `metrics` do not see them.
        candidate_embeddings: [C, D]; candidates from B on are additional negatives.
        sample_weight: [B] or [B, 1], or a number; optional.
        candidate_sampling_probability: [C], optional.
        candidate_ids: [C], integers or strings, optional. With `remove_accidental_hits` they must
            be given; `metrics` evaluate by them where they are.
        compute_metrics: Whether `metrics` are updated.
        compute_batch_metrics: Whether `batch_metrics` are updated.
        score_mask: [B, C] bool, false for candidates that are no negative of a row; optional.
        positives: [B] integers, the rows' own candidates where they are not the first B; optional.
        candidate_mask: [C] bool, false for candidates that are nobody's negative; optional.

    Returns:
        The loss, a scalar, or [B] with the reduction "none".

    Raises:
        ValueError: `loss` is given, `remove_accidental_hits` without ids, or as in the function.
        tf.errors.InvalidArgumentError: As in the function.

    Example:
        >>> task = fastneg.layers.Retrieval()
        >>> queries = tf.constant([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
        >>> candidates = tf.constant([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])  # [[6, 3], [9, 5]].
        >>> print(f"{task(queries, candidates):.4f}")  # log(1 + e^-3) + log(1 + e^4)
        4.0667

    Source:
        TensorFlow Recommenders, `tasks.Retrieval`.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = (
        "temperature",
        "num_hard_negatives",
        "remove_accidental_hits",
        "normalize",
        "margin",
        "t",
        "label_smoothing",
        "correction",
        "positive_in_softmax",
        "negative_weight",
        "bidirectional",
        "reduction",
    )
    NUMBERS: ClassVar[dict[str, str]] = dict.fromkeys(
        ("temperature", "margin", "t", "label_smoothing", "negative_weight"),
        _IN_A_LAYER_OF_YOUR_OWN,
    )

    def __init__(
        self,
        temperature: float | None = None,
        num_hard_negatives: int | None = None,
        remove_accidental_hits: bool = False,
        metrics: Any = None,
        batch_metrics: Any = None,
        loss_metrics: Any = None,
        name: str | None = None,
        *,
        loss: None = None,
        normalize: bool = False,
        margin: float = 0.0,
        t: float = 1.0,
        label_smoothing: float = 0.0,
        correction: str = "standard",
        positive_in_softmax: bool = True,
        negative_weight: float = 1.0,
        bidirectional: bool = False,
        reduction: str = "sum",
        **kwargs: Any,
    ) -> None:
        """Stores the options; all but the numbers are checked when the layer is called."""
        if callable(temperature):  # TensorFlow Recommenders has its loss in this place.
            loss = temperature
        if loss is not None:
            raise ValueError(
                "`loss` must be None: another loss would need the scores of all queries and "
                "candidates as one matrix, which is never stored. Compute the matrix and call that "
                f"loss in a layer or model of your own. Received: {loss!r}."
            )
        super().__init__(name=name, **kwargs)
        self.temperature = 1.0 if temperature is None else temperature
        self.num_hard_negatives = num_hard_negatives
        self.remove_accidental_hits = validation.flag(
            "remove_accidental_hits", remove_accidental_hits
        )
        self.normalize = normalize
        self.margin = margin
        self.t = t
        self.label_smoothing = label_smoothing
        self.correction = correction
        self.positive_in_softmax = positive_in_softmax
        self.negative_weight = negative_weight
        self.bidirectional = bidirectional
        self.reduction = reduction
        self.factorized_metrics = _listed(metrics)
        self.batch_metrics = _metrics_of_keras("batch_metrics", batch_metrics)
        self.loss_metrics = _metrics_of_keras("loss_metrics", loss_metrics)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; metrics over a catalogue may change at any time."""
        if name == "factorized_metrics":
            # Past Keras, which takes no metric once the layer is built, and would look for the
            # state of this one in files.
            metrics = _listed(value)
            for metric in metrics:
                if not _evaluates_candidates(metric):
                    raise ValueError(
                        "`metrics` must be metrics over a catalogue, such as "
                        "`fastneg.metrics.FactorizedTopK`; those of Keras are for `batch_metrics` "
                        f"and `loss_metrics`. Received: {metric!r}."
                    )
            object.__setattr__(self, name, metrics)
            self.supports_jit = not self.factorized_metrics
        else:
            super().__setattr__(name, value)

    @property
    def metrics(self) -> list[Any]:
        """All metrics, for Keras to report and reset."""
        return [*self.factorized_metrics, *super().metrics]

    def call(
        self,
        query_embeddings: Any,
        candidate_embeddings: Any,
        sample_weight: Any = None,
        candidate_sampling_probability: Any = None,
        candidate_ids: Any = None,
        compute_metrics: bool = True,
        compute_batch_metrics: bool = True,
        score_mask: Any = None,
        positives: Any = None,
        candidate_mask: Any = None,
    ) -> tf.Tensor:
        """Returns the loss, and updates the metrics."""
        if self.remove_accidental_hits and candidate_ids is None:
            raise ValueError(
                "`candidate_ids` must be given where `remove_accidental_hits` is true. "
                "Received: None."
            )
        query = validation.to_tensor("query_embeddings", query_embeddings)
        candidate = validation.to_tensor(
            "candidate_embeddings", candidate_embeddings, dtype_hint=query.dtype
        )
        if candidate_ids is not None:
            candidate_ids = validation.to_tensor("candidate_ids", candidate_ids)
            validation.per_row("candidate_ids", candidate_ids, candidate.shape[:1].as_list()[0])
        arguments = {
            "positives": positives,
            "sample_weight": 1.0 if sample_weight is None else sample_weight,
            "candidate_sampling_probability": candidate_sampling_probability,
            "candidate_ids": _numbered(candidate_ids) if self.remove_accidental_hits else None,
            "candidate_mask": candidate_mask,
            "score_mask": score_mask,
            **{
                option: getattr(self, option)
                for option in self.OPTIONS
                if option != "remove_accidental_hits"
            },
        }
        if query.shape.rank == 3:
            loss = max_sim_loss(query, candidate, arguments)
        else:
            loss = in_batch_softmax_loss(query, candidate, **arguments)
        for metric in self.loss_metrics:
            metric.update_state(loss)
        if compute_metrics and query.shape.rank != 3 and self.factorized_metrics:
            if positives is None:
                rows = tf.range(tf.shape(query)[0])
            else:
                rows = validation.integer_ids("positives", positives)
            ids = None if candidate_ids is None else tf.gather(candidate_ids, rows)
            for metric in self.factorized_metrics:
                metric.update_state(
                    query,
                    tf.gather(candidate, rows),
                    true_candidate_ids=ids,
                    sample_weight=sample_weight,
                )
        if compute_batch_metrics and self.batch_metrics:
            labels, scores = batch_scores(query, candidate, arguments)
            for metric in self.batch_metrics:
                metric.update_state(labels, scores, sample_weight=sample_weight)
        return loss

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes, but for the metrics over a catalogue."""
        return {
            **super().get_config(),
            "batch_metrics": [keras.saving.serialize_keras_object(m) for m in self.batch_metrics],
            "loss_metrics": [keras.saving.serialize_keras_object(m) for m in self.loss_metrics],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Retrieval":
        """Returns a layer with metrics of its own."""
        config = dict(config)
        for name in ("batch_metrics", "loss_metrics"):
            config[name] = [
                keras.saving.deserialize_keras_object(metric) for metric in config.get(name) or ()
            ]
        return super().from_config(config)  # type: ignore[no-any-return]

    def compute_output_shape(
        self, query_embeddings_shape: Any, *_: Any, **__: Any
    ) -> tuple[int | None, ...]:
        """Returns the shape of a scalar, or of one loss for each row."""
        return (query_embeddings_shape[0],) if self.reduction == "none" else ()

    def compute_output_spec(self, query_embeddings: Any, *_: Any, **__: Any) -> keras.KerasTensor:
        """Returns the loss as a symbol."""
        return loss_spec(self.compute_output_shape(query_embeddings.shape), query_embeddings)


def _listed(metrics: Any) -> list[Any]:
    if metrics is None:
        return []
    return list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]


def _metrics_of_keras(name: str, metrics: Any) -> list[Any]:
    listed = _listed(metrics)
    for metric in listed:
        if not isinstance(metric, keras.metrics.Metric):
            raise ValueError(
                f"`{name}` must be metrics of Keras, as objects. Received: {metric!r}."
            )
    return listed


def _evaluates_candidates(metric: Any) -> bool:
    """Whether a metric can be updated as one over a catalogue."""
    try:
        update = inspect.signature(metric.update_state)
        update.bind(None, None, true_candidate_ids=None, sample_weight=None)
    except (AttributeError, TypeError):
        return False
    return True


def _numbered(ids: Any) -> Any:
    """Makes numbers of ids that are strings, the same for the same string."""
    return tf.unique(ids).idx if ids is not None and ids.dtype == tf.string else ids
