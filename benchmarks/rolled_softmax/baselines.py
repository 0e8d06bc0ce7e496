"""TensorFlow formulations of the rolled SV-softmax loss that fastneg is compared with.

`published` follows the behaviour of the published function, step for step. The others compute the
same number in the ways a TensorFlow user could choose; each runs as a plain graph and under
`jit_compile=True`. What differs between them is only how the scores [B, K] come about, so that is
what each of them defines; the loss on top of the scores is shared. `looped_slices`, in
its own module, is the fastest that we found: loss and gradient written by hand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from rolled_softmax.looped_slices import looped_slices
from rolled_softmax.workloads import GAMMA, MARGIN, T, Workload

# user [B, D], item [B, D] (rows normalised), shifts [K] -> scores of the negatives [B, K].
ScoreFn = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def published(
    user_emb: tf.Tensor, item_emb: tf.Tensor, labels: tf.Tensor, shifts: tf.Tensor
) -> tf.Tensor:
    """Roll, stack, boolean_mask, batch dot, sparse softmax: the published composition."""
    user = tf.nn.l2_normalize(user_emb, axis=-1)
    item = tf.nn.l2_normalize(item_emb, axis=-1)
    rolled = [tf.roll(item, shift, axis=0) for shift in tf.unstack(shifts)]
    candidates = tf.stack([item, *rolled], axis=1)
    counted = labels > 0
    user = tf.boolean_mask(user, counted)
    candidates = tf.boolean_mask(candidates, counted)
    scores = tf.linalg.matvec(candidates, user)
    positive = scores[:, :1] - MARGIN
    negatives = scores[:, 1:]
    is_hard = tf.cast(positive - negatives < 0, scores.dtype)
    negatives = is_hard * (negatives * T + T - 1) + (1 - is_hard) * negatives
    logits = GAMMA * tf.concat([positive, negatives], axis=1)
    row_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.zeros_like(logits[:, 0], tf.int32), logits
    )
    loss = tf.reduce_mean(row_losses)
    return tf.where(tf.math.is_nan(loss), tf.zeros_like(loss), loss)


def stacked_einsum(user: tf.Tensor, item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Rolls stacked to [B, K, D], one einsum."""
    rolled = tf.stack([tf.roll(item, shift, axis=0) for shift in tf.unstack(shifts)], axis=1)
    return tf.einsum("bd,bkd->bk", user, rolled)


def gather_einsum(user: tf.Tensor, item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """Candidates gathered to [B, K, D] through an index matrix, one einsum."""
    return tf.einsum("bd,bkd->bk", user, tf.gather(item, _item_rows(item, shifts)))


def roll_multiply_sum(user: tf.Tensor, item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """One multiply-and-sum per roll."""
    return tf.stack(
        [
            tf.reduce_sum(user * tf.roll(item, shift, axis=0), axis=1)
            for shift in tf.unstack(shifts)
        ],
        axis=1,
    )


def doubled_slices(user: tf.Tensor, item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """A roll is a window of the doubled item matrix: one multiply-and-sum per window."""
    return tf.stack(
        [tf.reduce_sum(user * window, axis=1) for window in _windows(item, shifts)], axis=1
    )


def transposed_slices(user: tf.Tensor, item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """The same on transposed embeddings [D, B]: the sum over D needs no horizontal additions."""
    batch_size = item.shape[0]
    user = tf.transpose(user)
    item = tf.transpose(item)
    doubled = tf.concat([item, item], axis=1)
    return tf.stack(
        [
            tf.reduce_sum(
                user * tf.slice(doubled, [0, batch_size - shift], [item.shape[0], batch_size]),
                axis=0,
            )
            for shift in tf.unstack(shifts)
        ],
        axis=1,
    )


def full_product(user: tf.Tensor, item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """All [B, B] scores by one matrix product, of which [B, K] are gathered."""
    scores = tf.matmul(user, item, transpose_b=True)
    return tf.gather(scores, _item_rows(item, shifts), batch_dims=1)


def gather_both_ways(user: tf.Tensor, item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    """`gather_einsum` whose gradient gathers too, where automatic differentiation scatters."""

    @tf.custom_gradient
    def scores(user: tf.Tensor, item: tf.Tensor):
        item_rows = _item_rows(item, shifts)

        def grad(grad_scores: tf.Tensor):
            user_rows = _user_rows(item, shifts)
            columns = tf.broadcast_to(tf.range(shifts.shape[0]), tf.shape(user_rows))
            by_item = tf.gather_nd(grad_scores, tf.stack([user_rows, columns], axis=-1))
            return (
                tf.einsum("bk,bkd->bd", grad_scores, tf.gather(item, item_rows)),
                tf.einsum("bk,bkd->bd", by_item, tf.gather(user, user_rows)),
            )

        return tf.einsum("bd,bkd->bk", user, tf.gather(item, item_rows)), grad

    return scores(user, item)


@dataclasses.dataclass(frozen=True)
class Formulation:
    """One way to compute the scores, and where it is worth running."""

    name: str
    score_fn: ScoreFn | None  # None: `loss_fn` is the whole loss.
    loss_fn: Callable[..., tf.Tensor] | None = None
    unrolled: bool = False  # One operation per shift: compilation time grows with K.


FORMULATIONS = (
    Formulation("published", None, published, unrolled=True),
    Formulation("stacked einsum", stacked_einsum, unrolled=True),
    Formulation("gather einsum", gather_einsum),
    Formulation("roll, multiply, sum", roll_multiply_sum, unrolled=True),
    Formulation("doubled slices", doubled_slices, unrolled=True),
    Formulation("transposed slices", transposed_slices, unrolled=True),
    Formulation("full product", full_product),
    Formulation("gather both ways", gather_both_ways),
    Formulation("looped slices", None, loss_fn=looped_slices),
)


def make_loss(formulation: Formulation) -> Callable[..., tf.Tensor]:
    """A loss `(user_emb, item_emb, labels, shifts) -> scalar` for one formulation."""
    score_fn = formulation.score_fn
    if score_fn is None:
        return formulation.loss_fn

    def loss(
        user_emb: tf.Tensor, item_emb: tf.Tensor, labels: tf.Tensor, shifts: tf.Tensor
    ) -> tf.Tensor:
        user = tf.nn.l2_normalize(user_emb, axis=-1)
        item = tf.nn.l2_normalize(item_emb, axis=-1)
        positive = tf.reduce_sum(user * item, axis=1) - MARGIN
        return _loss_of_scores(positive, score_fn(user, item, shifts), labels)

    return loss


def why_skipped(
    formulation: Formulation, workload: Workload, jit_compile: bool, free_bytes: int
) -> str | None:
    """The reason not to run a formulation at a size, or None."""
    # Forward and backward hold about three tensors of the stacked size at once.
    needed = 3 * workload.stacked_bytes
    if formulation.score_fn is full_product:
        needed = 3 * 4 * workload.batch_size**2
    if needed > free_bytes:
        return f"needs about {needed / 2**30:.1f} GiB"
    if formulation.unrolled and jit_compile and workload.num_negatives > 64:
        return "compiles for more than 20 s"
    return None


def _loss_of_scores(positive: tf.Tensor, negatives: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """SV-softmax loss of scores: rows that do not count get weight 0, which keeps shapes static."""
    positive = positive[:, None]
    negatives = tf.where(positive < negatives, T * negatives + (T - 1), negatives)
    logits = GAMMA * tf.concat([positive, negatives], axis=1)
    row_losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        tf.zeros_like(logits[:, 0], tf.int32), logits
    )
    counted = tf.cast(labels > 0, logits.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(row_losses * counted), tf.reduce_sum(counted))


def _item_rows(item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    batch_size = item.shape[0]
    return (tf.range(batch_size)[:, None] - shifts) % batch_size


def _user_rows(item: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    batch_size = item.shape[0]
    return (tf.range(batch_size)[:, None] + shifts) % batch_size


def _windows(item: tf.Tensor, shifts: tf.Tensor) -> list[tf.Tensor]:
    batch_size, embedding_dim = item.shape
    doubled = tf.concat([item, item], axis=0)
    return [
        tf.slice(doubled, [batch_size - shift, 0], [batch_size, embedding_dim])
        for shift in tf.unstack(shifts)
    ]
