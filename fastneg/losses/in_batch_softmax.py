"""in_batch_softmax_loss: every candidate of the batch is a negative of every row."""

from typing import Any

import tensorflow as tf

from fastneg.arguments.in_batch_softmax import InBatchSoftmaxArguments
from fastneg.losses import common


def in_batch_softmax_loss(
    query_embeddings: Any,
    candidate_embeddings: Any,
    *,
    positives: Any = None,
    sample_weight: Any = 1.0,
    temperature: Any = 1.0,
    normalize: bool = False,
    margin: Any = 0.0,
    t: Any = 1.0,
    candidate_sampling_probability: Any = None,
    candidate_ids: Any = None,
    candidate_mask: Any = None,
    score_mask: Any = None,
    num_hard_negatives: int | None = None,
    label_smoothing: float = 0.0,
    correction: str = "standard",
    positive_in_softmax: bool = True,
    negative_weight: float = 1.0,
    bidirectional: bool = False,
    reduction: str = "mean",
    name: str | None = None,
) -> tf.Tensor:
    """Softmax loss of each query over all candidates of the batch.

    Row i's positive is candidate p(i): i, or `positives[i]`. All other candidates are its
    negatives, but for those that a mask, or the id of its own positive, leaves out. With the dot
    products s_ij, or cosines with `normalize`, and q_j the sampling probability of candidate j:

        l_ip = (s_ip - margin) / temperature - log q_p
        l_ij = (t s_ij + t - 1) / temperature - log q_j   if s_ip - margin - s_ij < 0  (hard)
        l_ij = s_ij / temperature - log q_j               else
        L_i  = logsumexp_j l_ij - (1 - e) l_ip - e mean_j l_ij,   e = label_smoothing
        loss = sum_i w_i L_i / #{i : w_i != 0}

    where j runs over the positive and the row's negatives. With `positive_in_softmax=False` (the
    decoupled or, with a `negative_weight`, the bilateral softmax loss):

        L_i  = negative_weight logsumexp_j l_ij - l_ip

    where j runs over the negatives alone; a row that has none has loss 0. `correction="refined"` is
    for probabilities and the positive out of the softmax: the positive is not corrected, a
    negative's q_j becomes q_j / (1 - q_p), and L_i is multiplied by 1 - P_i, a constant for the
    gradient, where P_i = exp(l_ip) / (exp(l_ip) + mean_j exp(l_ij)).

    `bidirectional` averages L_i with the loss of candidate i over all queries: the same logits and
    exclusions, read by columns, without log q.

    Which negatives are hard, and which are the largest, are constants for the gradient. A loss over
    no rows is 0.

    Args:
        query_embeddings: [B, D]: float16, bfloat16, float32 or float64.
        candidate_embeddings: [C, D], the same dtype; C >= B without `positives`. Candidates from B
            on are then additional negatives.
        positives: [B] integers, 0 <= p(i) < C; None for p(i) = i.
        sample_weight: A number or scalar tensor, which scales the loss, or a weight per row: [B] or
            [B, 1].
        temperature: Divides the scores. A number or scalar tensor, positive.
        normalize: Whether rows are L2-normalised first, as `tf.nn.l2_normalize` does.
        margin: Subtracted from the positive's score. A number or scalar tensor.
        t: Emphasis of hard negatives, 1 for none. A number or scalar tensor.
        candidate_sampling_probability: [C], how likely each candidate is to be drawn into a batch,
            clipped to [1e-9, 1]. Corrects for popular candidates serving as negatives more often
            (logQ correction). A constant for the gradient.
        candidate_ids: [C] integers. Negatives with the id of a row's positive are left out.
        candidate_mask: [C] bool, false for candidates that are nobody's negative.
        score_mask: [B, C] bool, false for candidates that are no negative of a row.
        num_hard_negatives: How many of a row's negatives stay: those with the largest logits, of
            equal ones the first. A Python integer; None for all.
        label_smoothing: What part of the target is spread evenly over the positive and the
            negatives, a Python number in [0, 1). 0 with the positive out of the softmax.
        correction: "standard" or "refined".
        positive_in_softmax: Whether the positive's logit is among those that are summed.
        negative_weight: A Python number; 1 with the positive in the softmax.
        bidirectional: Whether candidates are classified too. Without `positives`,
            `num_hard_negatives` and the refined correction.
        reduction: "mean" as above, "sum" for sum_i w_i L_i, "none" for w_i L_i, [B].
        name: Name of the scope in the graph.

    Returns:
        The loss, a scalar or [B]: float64 for float64 embeddings, else float32. It is
        differentiable with respect to the embeddings, and to `sample_weight`, `temperature`,
        `margin` and `t` where they are tensors.

    Raises:
        ValueError: An argument or a static shape is wrong.
        tf.errors.InvalidArgumentError: A run-time shape is wrong, a positive is out of range, or a
            temperature is not positive and finite. The composition cannot raise inside XLA: its
            loss is NaN there.

    Example:
        >>> queries = tf.constant([[3.0, 0.0], [4.0, 1.0]])
        >>> candidates = tf.constant([[2.0, 1.0], [1.0, 1.0]])  # Scores [[6, 3], [9, 5]].
        >>> loss = fastneg.in_batch_softmax_loss(queries, candidates, reduction="none")
        >>> tf.abs(loss - tf.constant([0.048587, 4.018150])) < 1e-6
        <tf.Tensor: shape=(2,), dtype=bool, numpy=array([ True,  True])>

    Source:
        The task that TensorFlow Recommenders calls `Retrieval`. logQ correction: Yi et al.,
        "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys
        2019. Refined correction: arXiv 2507.09331. Positive out of the softmax, with a weight:
        arXiv 2312.12882. Re-weighting: arXiv 1812.11317.
    """
    with common.scope(name, "in_batch_softmax_loss"):
        arguments = InBatchSoftmaxArguments(
            query_embeddings=query_embeddings,
            candidate_embeddings=candidate_embeddings,
            positives=positives,
            sample_weight=sample_weight,
            temperature=temperature,
            normalize=normalize,
            margin=margin,
            t=t,
            candidate_sampling_probability=candidate_sampling_probability,
            candidate_ids=candidate_ids,
            candidate_mask=candidate_mask,
            score_mask=score_mask,
            num_hard_negatives=num_hard_negatives,
            label_smoothing=label_smoothing,
            correction=correction,
            positive_in_softmax=positive_in_softmax,
            negative_weight=negative_weight,
            bidirectional=bidirectional,
            reduction=reduction,
        )
        return arguments.scaled(common.backend("in_batch_softmax").in_batch_softmax(arguments))
