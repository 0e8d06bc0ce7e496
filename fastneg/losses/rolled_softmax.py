"""softmax_loss_with_negative_mining: in-batch negatives by rolling the item batch."""

from typing import Any

import tensorflow as tf

from fastneg.arguments.rolled_softmax import RolledSoftmaxArguments
from fastneg.losses import common


def softmax_loss_with_negative_mining(
    user_emb: Any,
    item_emb: Any,
    labels: Any,
    num_negative_samples: int = 4,
    embed_normed: bool = False,
    weights: Any = 1.0,
    gamma: Any = 1.0,
    margin: Any = 0,
    t: Any = 1,
    seed: Any = None,
    *,
    shifts: Any = None,
    candidate_sampling_probability: Any = None,
    candidate_ids: Any = None,
    positive_in_softmax: bool = True,
    negative_weight: float = 1.0,
    correction: str = "standard",
    name: str | None = None,
) -> tf.Tensor:
    """Softmax loss over a row's own item and K items of other rows, support vectors emphasised.

    Row i's candidates are item i and, for each of K shifts, item (i - shift) mod B. With c_0 the
    cosine of user i and item i, c_k those with the negatives, and q_j the sampling probability of
    item j:

        p    = c_0 - margin
        s_k  = t c_k + t - 1  if p - c_k < 0 (a hard negative)  else  c_k
        l_0  = gamma p   - log q_i
        l_k  = gamma s_k - log q_j
        loss = sum_i w_i (logsumexp(l_0, .., l_K) - l_0) / #{i : w_i != 0}

    where i runs over the rows with labels > 0. With `positive_in_softmax=False` (the decoupled or,
    with a `negative_weight`, the bilateral softmax loss) the parentheses hold

        L_i  = negative_weight logsumexp(l_1, .., l_K) - l_0

    instead, 0 for a row whose negatives `candidate_ids` left out, all of them.
    `correction="refined"` is for probabilities and the positive out of the softmax: the positive is
    not corrected, a negative's q_j becomes q_j / (1 - q_i), and L_i is multiplied by 1 - P_i, a
    constant for the gradient, where P_i = exp(l_0) / (exp(l_0) + mean_k exp(l_k)).

    The choice between hard and easy is a constant for the gradient. A loss over no rows is 0. Items
    of rows with labels 0 serve as negatives too.

    Args:
        user_emb: User embeddings, [B, D]: float16, bfloat16, float32 or float64.
        item_emb: Item embeddings, [B, D], the same dtype.
        labels: Rows with labels > 0 count. [B] or [B, 1], integer, floating point or bool.
        num_negative_samples: K, a Python integer, 1 <= K < B. Not used with `shifts`.
        embed_normed: Whether the embeddings are L2-normalised already; else they are normalised
            here, as `tf.nn.l2_normalize` does.
        weights: A number or scalar tensor, which scales the loss, or a weight per row: [B] or
            [B, 1].
        gamma: Scale of the logits (the inverse of a temperature). A number or scalar tensor.
        margin: Subtracted from the positive's cosine. A number or scalar tensor.
        t: Emphasis of hard negatives, 1 for none. A number or scalar tensor.
        seed: Makes the sequence of drawn shifts repeatable, as in `tf.random.uniform`. Two
            integers, [2], instead: the draw depends on them alone, as in
            `tf.random.stateless_uniform`. That, or given `shifts`, is for `tf.recompute_grad` and
            `keras.remat`, which compute the loss twice and would draw twice. Replicas of
            `tf.distribute` draw for themselves, whatever the seed.
        shifts: [K] integers to use instead of drawing them: taken modulo B, none may be 0 modulo B.
        candidate_sampling_probability: [B], how likely each item is to be drawn into a batch,
            clipped below at 1e-9. Corrects for popular items serving as negatives more often (logQ
            correction). A constant for the gradient.
        candidate_ids: [B] integers. A negative with the row's own id is left out of the row's
            softmax. Here, and for `shifts`, floats that are whole numbers will do, if none can be
            the rounded form of another: float32 below 2**24, for instance.
        positive_in_softmax: Whether the positive's logit is among those that are summed.
        negative_weight: A Python number; 1 with the positive in the softmax.
        correction: "standard" or "refined".
        name: Name of the scope in the graph.

    Returns:
        The loss, a scalar: float64 for float64 embeddings, else float32. It is differentiable with
        respect to the embeddings, and to `weights`, `gamma`, `margin` and `t` where they are
        tensors.

    Raises:
        ValueError: An argument or a static shape is wrong.
        tf.errors.InvalidArgumentError: A run-time shape is wrong, K is not less than a B known only
            then, a shift is 0 modulo B, or a float is no integer where there should be one. Kernels
            on a GPU and the composition inside XLA cannot raise for a shift, and nothing inside XLA
            can for an id that is such a float: the loss is NaN there.

    Example:
        >>> users = tf.random.normal([8, 4], seed=1)
        >>> items = tf.random.normal([8, 4], seed=2)
        >>> labels = tf.constant([1, 0, 1, 1, 0, 1, 1, 1])
        >>> loss = fastneg.softmax_loss_with_negative_mining(
        ...     users, items, labels, num_negative_samples=3, gamma=20.0, margin=0.1, t=1.2
        ... )
        >>> loss.shape
        TensorShape([])

    Source:
        The function of this name published at https://developer.aliyun.com/article/873405, after
        Wang et al., "Support Vector Guided Softmax Loss for Face Recognition", arXiv 1812.11317.
        logQ correction: Yi et al., "Sampling-bias-corrected neural modeling for large corpus item
        recommendations", RecSys 2019. Refined correction: arXiv 2507.09331. Positive out of the
        softmax, with a weight: arXiv 2312.12882.
    """
    with common.scope(name, "softmax_loss_with_negative_mining"):
        arguments = RolledSoftmaxArguments(
            user_emb=user_emb,
            item_emb=item_emb,
            labels=labels,
            num_negative_samples=num_negative_samples,
            embed_normed=embed_normed,
            weights=weights,
            gamma=gamma,
            margin=margin,
            t=t,
            seed=seed,
            shifts=shifts,
            candidate_sampling_probability=candidate_sampling_probability,
            candidate_ids=candidate_ids,
            positive_in_softmax=positive_in_softmax,
            negative_weight=negative_weight,
            correction=correction,
        )
        return arguments.scaled(common.backend("rolled_softmax").rolled_softmax(arguments))
