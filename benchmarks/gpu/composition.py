"""The losses in plain PyTorch, differentiated by it.

In float64 they are the truth, in other types what one would write without the kernels. Straight
from the formulas of `csrc/core/api.h`, for tensors on any device.
"""

from typing import Any

import torch
from torch import Tensor


def normalize(rows: Tensor) -> Tensor:
    """What tf.nn.l2_normalize computes."""
    squares = (rows * rows).sum(dim=1, keepdim=True)
    return rows * torch.rsqrt(torch.clamp_min(squares, 1e-12))


def rolled_rows(shifts: Tensor, batch_size: int) -> Tensor:
    """The item row of candidate k of row i, [K, B]."""
    rows = torch.arange(batch_size, device=shifts.device)
    return (rows[None, :] - shifts[:, None]) % batch_size


def row_losses(
    positive: Tensor,
    negatives: Tensor,
    *,
    gamma: Any = 1.0,
    t: Any = 1.0,
    threshold: float = 0.0,
    log_q: tuple[Tensor, Tensor] | None = None,
    left_out: Tensor | None = None,
) -> Tensor:
    """The SV-softmax over each row's scores: positive [B] (less margin), negatives [B, K]."""
    hard = positive.detach()[:, None] - negatives.detach() < threshold
    scores = torch.where(hard, t * negatives + t - 1, negatives)
    first, others = gamma * positive, gamma * scores
    if log_q is not None:
        first, others = first - log_q[0], others - log_q[1]
    if left_out is not None:
        others = others.masked_fill(left_out, -torch.inf)
    return torch.logsumexp(torch.cat([first[:, None], others], dim=1), dim=1) - first


def mean_of_weighted(losses: Tensor, counted: Tensor | None, weights: Tensor | None) -> Tensor:
    """sum(w * loss) / number of counted rows with a weight; 0 without any."""
    if counted is None and weights is None:
        return losses.mean()
    used = torch.ones_like(losses) if weights is None else weights
    if counted is not None:
        losses, used = torch.where(counted, losses, 0), torch.where(counted, used, 0)
    return (losses * used).sum() / torch.clamp_min(torch.count_nonzero(used), 1)


def gathered_loss(
    user: Tensor,
    item: Tensor,
    candidates: Tensor,
    *,
    scores_by: str = "candidate",
    embed_normed: bool = False,
    labels: Tensor | None = None,
    weights: Tensor | None = None,
    gamma: Any = 1.0,
    margin: Any = 0.0,
    t: Any = 1.0,
    probability: Tensor | None = None,
    ids: Tensor | None = None,
) -> Tensor:
    """The loss of both gathered losses; `candidates` [K, B] holds item rows.

    `scores_by` says how the scores come about: "candidate" takes one candidate of all rows at a
    time, "gather" builds the candidates' embeddings, [B, K, D], and "product" all rows' products
    with all items, [B, B]. Half types are widened for the softmax alone.
    """
    users, items = (user, item) if embed_normed else (normalize(user), normalize(item))
    positive = (users * items).sum(dim=1)
    if scores_by == "candidate":
        negatives = torch.stack([(users * items[rows]).sum(dim=1) for rows in candidates], dim=1)
    elif scores_by == "gather":
        negatives = torch.einsum("bd,bkd->bk", users, items[candidates.T])
    else:
        negatives = torch.gather(users @ items.T, 1, candidates.T)
    if user.dtype in (torch.float16, torch.bfloat16):
        positive, negatives = positive.float(), negatives.float()
    log_q = left_out = None
    if probability is not None:
        log = torch.log(torch.clamp_min(probability, 1e-9)).to(positive.dtype)
        log_q = (log, log[candidates.T])
    if ids is not None:
        left_out = ids[candidates.T] == ids[:, None]
    losses = row_losses(
        positive - margin, negatives, gamma=gamma, t=t, log_q=log_q, left_out=left_out
    )
    return mean_of_weighted(losses, None if labels is None else labels > 0, weights)


def sv_softmax_loss(
    pos_score: Tensor,
    neg_scores: Tensor,
    *,
    weights: Tensor | None = None,
    margin: Any = 0.0,
    t: Any = 1.0,
    smooth: Any = 1.0,
    threshold: float = 0.0,
) -> Tensor:
    """The loss on given scores."""
    losses = row_losses(pos_score - margin, neg_scores, gamma=smooth, t=t, threshold=threshold)
    return mean_of_weighted(losses, None, weights)
