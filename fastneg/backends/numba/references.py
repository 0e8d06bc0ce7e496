# mypy: allow-untyped-defs, allow-untyped-calls
"""What a row's softmax is taken relative to.

Any number will do that keeps the exponentials in range. The positive's logit, where it is in the
softmax, bounds the row's largest one from below, and the range of a cosine bounds all of them from
both sides; where the bounds are close, there is no need to look for the largest logit.
"""

from __future__ import annotations

import numpy as np

from fastneg.backends.numba.plan import compiled
from fastneg.backends.numba.simd import dots

# What rounding may do to a cosine.
_COSINE_BOUND = 1.00001

_ONE = (0,)


@compiled
def choose_references(plan, begin, rows, live, exact, positives, references, scores):
    """Chooses what stands in for the rows' largest logits; True if some row needs the real one."""
    scalar = plan.user.dtype.type
    width = plan.user.shape[1]
    window = np.zeros(1, np.int64)
    upper = scalar(_upper_bound(plan, plan.gamma) + plan.max_offset)
    lowest = scalar(plan.min_offset - _upper_bound(plan, -plan.gamma))
    any_exact = False
    for r in range(rows, references.size):
        references[r] = np.inf
    for r in range(rows):
        i = begin + r
        live[r] = plan.active[i]
        if not live[r]:
            references[r] = np.inf
            continue
        # By the function that will score the negatives: one that equals the positive is not hard.
        dots(_ONE, plan.user, i * width, plan.item, window, 0, i * width, scores, 0)
        positives[r] = scores[0, 0] - scalar(plan.margin)
        lower = lowest
        if plan.positive_in_softmax:
            lower = own_logit(plan, i, positives[r])
        weight = plan.weights[i] if plan.weights.size else scalar(1)
        scale = abs(weight * plan.gamma * plan.negative_weight) * plan.inverse_count
        span = upper - lower
        references[r] = lower
        near = span <= 40
        if not plan.positive_in_softmax:  # The middle: exponents are small where logits are.
            references[r] = lower + span / 2
            near = span <= 80
        if not near and span <= 100 and scale <= 1e3:
            references[r] = upper - 40
        elif not near:
            exact[r] = any_exact = True
            if not plan.positive_in_softmax:
                references[r] = -np.inf
    return any_exact


@compiled
def own_logit(plan, i, positive):
    """The logit of row i's positive; the refined correction is for negatives alone."""
    logit = plan.user.dtype.type(plan.gamma) * positive
    if plan.offsets.size and not plan.log_others.size:
        logit += plan.offsets[i]
    return logit


@compiled
def _upper_bound(plan, gamma):
    """No negative's score times gamma is above it."""
    cosine = _COSINE_BOUND
    if not plan.normalise:
        user = item = 0.0
        for tile in range(plan.tile_norms.shape[0]):
            user = max(user, float(plan.tile_norms[tile, 0]))
            item = max(item, float(plan.tile_norms[tile, 1]))
        cosine *= user * item
    reach = abs(plan.t) * cosine
    highest = max(cosine, reach + plan.t - 1.0)
    lowest = min(-cosine, -reach + plan.t - 1.0)
    return gamma * highest if gamma > 0 else gamma * lowest
