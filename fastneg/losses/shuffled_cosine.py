"""negative_cosine_loss: in-batch negatives by shuffling the document batch."""

from typing import Any

import tensorflow as tf

from fastneg.arguments.shuffled_cosine import ShuffledCosineArguments
from fastneg.losses import common
from fastneg.reference.shuffled_cosine import batch_normalized


def negative_cosine_loss(
    query: Any,
    doc: Any,
    num_negatives: int = 4,
    t: Any = 1.0,
    scale: Any = 20.0,
    normalize: str = "candidates",
    seed: Any = None,
    *,
    permutations: Any = None,
    candidate_sampling_probability: Any = None,
    candidate_ids: Any = None,
    positive_in_softmax: bool = True,
    negative_weight: float = 1.0,
    correction: str = "standard",
    name: str | None = None,
) -> tf.Tensor:
    """Softmax loss over a query's own document and K documents from shuffled batches.

    Row i's candidates are document i and, for each of K permutations, document j = perm_k[i]. With
    the cosines c_i0 and c_ik and the sampling probability q_j of document j:

        l_i0 = scale c_i0 / t - log q_i
        l_ik = scale c_ik / t - log q_j
        loss = mean_i (logsumexp(l_i0, .., l_iK) - l_i0)

    With `positive_in_softmax=False` (the decoupled or, with a `negative_weight`, the bilateral
    softmax loss) a row's part of that mean is

        L_i  = negative_weight logsumexp(l_i1, .., l_iK) - l_i0

    instead, 0 for a row whose negatives `candidate_ids` left out, all of them.
    `correction="refined"` is for probabilities and the positive out of the softmax: the positive is
    not corrected, a negative's q_j becomes q_j / (1 - q_i), and L_i is multiplied by 1 - P_i, a
    constant for the gradient, where P_i = exp(l_i0) / (exp(l_i0) + mean_k exp(l_ik)).

    A permutation may leave a row in place; the row's own document is then a negative, too, unless
    `candidate_ids` removes it. An empty batch has loss 0. The cosine with a zero vector is 0.

    Args:
        query: Query embeddings, [B, D]: float16, bfloat16, float32 or float64.
        doc: Document embeddings, [B, D], the same dtype.
        num_negatives: K, a Python integer, at least 1. Not used with `permutations`.
        t: Temperature: a number or scalar tensor, not 0.
        scale: Factor of the cosines: a number or scalar tensor.
        normalize: "candidates" for the above. "batch" for the arithmetic of the published layer,
            kept for comparison: each column of candidates is normalised over the rows of the
            batch instead, so that `t` cancels and the negatives drop out of the result, which is
            mean_i (logsumexp_j(scale c_j0) - scale c_i0).
        seed: Makes the sequence of drawn permutations repeatable, as in `tf.random.uniform`. Two
            integers, [2], instead: the draw depends on them alone, as in
            `tf.random.stateless_uniform`. That, or given `permutations`, is for
            `tf.recompute_grad` and `keras.remat`, which compute the loss twice and would draw
            twice. Replicas of `tf.distribute` draw for themselves, whatever the seed.
        permutations: [K, B] integers to use instead of drawing them; each row has to be a
            permutation of 0 .. B-1.
        candidate_sampling_probability: [B], how likely each document is to be drawn into a batch,
            clipped below at 1e-9. Corrects for popular documents serving as negatives more often
            (logQ correction). A constant for the gradient.
        candidate_ids: [B] integers. A negative with the row's own id is left out of the row's
            softmax. Here, and for `permutations`, floats that are whole numbers will do, if none
            can be the rounded form of another: float32 below 2**24, for instance.
        positive_in_softmax: Whether the positive's logit is among those that are summed.
        negative_weight: A Python number; 1 with the positive in the softmax.
        correction: "standard" or "refined".
        name: Name of the scope in the graph.

    Returns:
        The loss, a scalar: float64 for float64 embeddings, else float32. It is differentiable with
        respect to the embeddings, and to `t` and `scale` where they are tensors.

    Raises:
        ValueError: An argument or a static shape is wrong.
        tf.errors.InvalidArgumentError: A run-time shape is wrong, a tensor `t` is 0, a row of
            `permutations` is no permutation, or a float is no integer where there should be one.
            Kernels on a GPU cannot raise for permutations, nor the composition inside XLA for any
            value, nor anything inside XLA for `t` or an id that is such a float: the loss is NaN
            there.

    Example:
        >>> queries = tf.random.normal([8, 4], seed=1)
        >>> documents = tf.random.normal([8, 4], seed=2)
        >>> loss = fastneg.negative_cosine_loss(queries, documents, num_negatives=3)
        >>> loss.shape
        TensorShape([])

    Source:
        The layer `NegativeCosineLayer` of a widely copied blog post, after Huang et al., "Learning
        deep structured semantic models for web search using clickthrough data", CIKM 2013. Refined
        correction: arXiv 2507.09331. Positive out of the softmax, with a weight: arXiv 2312.12882.
    """
    with common.scope(name, "negative_cosine_loss"):
        arguments = ShuffledCosineArguments(
            query=query,
            doc=doc,
            num_negatives=num_negatives,
            t=t,
            scale=scale,
            normalize=normalize,
            seed=seed,
            permutations=permutations,
            candidate_sampling_probability=candidate_sampling_probability,
            candidate_ids=candidate_ids,
            positive_in_softmax=positive_in_softmax,
            negative_weight=negative_weight,
            correction=correction,
            draw=common.backend("random_permutations").random_permutations,
        )
        if arguments.normalize == "batch":
            return batch_normalized(arguments)
        return arguments.scaled(common.backend("shuffled_cosine").shuffled_cosine(arguments))
