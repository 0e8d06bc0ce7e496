# mypy: allow-untyped-defs, allow-untyped-calls
"""The compiled loops of `support_vector_guided_softmax_loss`.

Rows are computed one by one, each by one thread, and their losses added in blocks of fixed size, so
results do not depend on who computes them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from fastneg.backends.numba.atomics import fetch_add, flush_denormals, relax, set_float_mode
from fastneg.backends.numba.plan import Array, compiled, strict

# Elements that are looked at together; elements that are summed before anything else is.
_LANES = 16
_PART = 1024

_LOG2_E = 1.4426950408889634


class SvSoftmaxPlan(NamedTuple):
    """The arrays and numbers of one call; T is the compute dtype. Optional arrays may be empty."""

    pos_score: Array  # [P] T
    neg_scores: Array  # [P, K] T
    weights: Array  # [P] T, optional
    smooth: float
    margin: float
    t: float
    threshold: float
    inverse_count: float  # 1 / number of rows with a weight, or 0
    with_grad: bool
    with_scalars: bool
    block_rows: int  # What a thread takes at a time, and what is summed first.
    # Results.
    block_sums: Array  # [blocks, 4] float64: loss; derivatives by smooth, margin, t
    grad_pos: Array  # [P] T, optional
    grad_neg: Array  # [P, K] T, optional
    grad_weights: Array  # [P] T, optional
    # Scratch.
    exponentials: Array  # [workers, K] T where there is no grad_neg to hold them


@intrinsic
def _power_of_2(typingctx, exponent):
    """2^exponent, for a float that is a whole number in the range of normal exponents."""

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(signature.return_type)
        bias, bits, integer = (127, 23, ir.IntType(32))
        if signature.return_type == types.float64:
            bias, bits, integer = (1023, 52, ir.IntType(64))
        biased = builder.add(builder.fptosi(args[0], integer), integer(bias))
        return builder.bitcast(builder.shl(biased, integer(bits)), kind)

    return exponent(exponent), codegen


# 2^r = 1 + r q(r) for |r| <= 1 / 2, where q interpolates (2^r - 1) / r at the Chebyshev nodes; the
# relative errors are below 6e-9 and 2e-19. Highest power first.
_P32 = tuple(
    np.float32(number)
    for number in (
        0.000154531629451206902,
        0.00133908633646712344,
        0.00961808255727785149,
        0.0555035711421907782,
        0.240226507605681269,
        0.693147188026228781,
        1.0,
    )
)
_P64 = tuple(
    np.float64(number)
    for number in (
        2.57293241773623042e-11,
        4.45581790833606449e-10,
        7.05489730415549928e-9,
        1.01780570877339411e-7,
        1.32154868087055628e-6,
        0.0000152527338415567726,
        0.000154035303933707334,
        0.00133335581464064707,
        0.00961812910762847949,
        0.055504108664821627,
        0.240226506959100712,
        0.693147180559945309,
        1.0,
    )
)


@compiled
def _power32(r):
    p = _P32[0] * r + _P32[1]
    p = p * r + _P32[2]
    p = p * r + _P32[3]
    p = p * r + _P32[4]
    p = p * r + _P32[5]
    p = p * r + _P32[6]
    return p


@compiled
def _power64(r):
    p = _P64[0] * r + _P64[1]
    p = p * r + _P64[2]
    p = p * r + _P64[3]
    p = p * r + _P64[4]
    p = p * r + _P64[5]
    p = p * r + _P64[6]
    p = p * r + _P64[7]
    p = p * r + _P64[8]
    p = p * r + _P64[9]
    p = p * r + _P64[10]
    p = p * r + _P64[11]
    p = p * r + _P64[12]
    return p


def _exp2(x):
    """2^x; 0 where that is less than the smallest normal number, at most 2^120, NaN for NaN."""
    raise NotImplementedError  # In compiled code: below.


@overload(_exp2, jit_options={"fastmath": {"contract", "nsz"}, "error_model": "numpy"})
def _compiled_exp2(x):
    kind, power, low = np.float64, _power64, np.float64(-1022.0)
    if x == types.float32:
        kind, power, low = np.float32, _power32, np.float32(-126.0)
    high, half, zero = kind(120.0), kind(0.5), kind(0.0)

    def exp2(x):
        inside = high if x > high else x
        inside = low if inside < low else inside
        whole = np.floor(inside + half)
        result = power(inside - whole) * _power_of_2(whole)
        return zero if x < low else result

    return exp2


@compiled
def _reference(plan, i, positive, largest):
    """The score of the row's largest logit: what all others are taken relative to."""
    scalar = plan.pos_score.dtype.type
    t, threshold = scalar(plan.t), scalar(plan.threshold)
    offset = t - scalar(1)
    sign = scalar(-1 if plan.smooth < 0 else 1)
    # Elements of matrices, here and below, and no rows: numba counts references to each row that it
    # takes, in memory that all threads share.
    negatives = plan.neg_scores
    size = negatives.shape[1]
    whole = size // _LANES * _LANES
    result = sign * positive
    if whole:
        for lane in range(_LANES):
            largest[lane] = result
        for k in range(0, whole, _LANES):
            for lane in range(_LANES):
                negative = negatives[i, k + lane]
                hard = positive - negative < threshold
                score = sign * (t * negative + offset if hard else negative)
                largest[lane] = score if score > largest[lane] else largest[lane]
        for lane in range(_LANES):
            result = largest[lane] if largest[lane] > result else result
    for k in range(whole, size):
        negative = negatives[i, k]
        hard = positive - negative < threshold
        score = sign * (t * negative + offset if hard else negative)
        result = score if score > result else result
    return sign * result


@strict
def _sum_part(plan, i, begin, end, positive, reference, waiting, place, sums):
    """Sum of 2^exponent over a part of a row; leaves each one's part in the gradient behind."""
    scalar = plan.pos_score.dtype.type
    t, threshold, scale = scalar(plan.t), scalar(plan.threshold), scalar(plan.smooth * _LOG2_E)
    offset = t - scalar(1)
    negatives = plan.neg_scores
    whole = begin + (end - begin) // _LANES * _LANES
    for lane in range(_LANES):
        sums[lane] = scalar(0)
    for first in range(begin, whole, _LANES):
        for lane in range(_LANES):
            k = first + lane
            negative = negatives[i, k]
            hard = positive - negative < threshold
            score = t * negative + offset if hard else negative
            e = _exp2(scale * (score - reference))
            waiting[place, k] = t * e if hard else e
            sums[lane] += e
    total = scalar(0)
    for lane in range(_LANES):
        total += sums[lane]
    for k in range(whole, end):
        negative = negatives[i, k]
        hard = positive - negative < threshold
        score = t * negative + offset if hard else negative
        e = _exp2(scale * (score - reference))
        waiting[place, k] = t * e if hard else e
        total += e
    return total


@strict
def _sum_scalars(plan, i, positive, reference, scalars):
    """Fills `scalars` with the sums that belong to smooth and t."""
    scalar = plan.pos_score.dtype.type
    t, threshold, scale = scalar(plan.t), scalar(plan.threshold), scalar(plan.smooth * _LOG2_E)
    offset, one = t - scalar(1), scalar(1)
    negatives = plan.neg_scores
    size = negatives.shape[1]
    leads = hards = 0.0
    for begin in range(0, size, _PART):
        lead_sum = hard_sum = scalar(0)
        for k in range(begin, min(begin + _PART, size)):
            negative = negatives[i, k]
            hard = positive - negative < threshold
            lead = (t * negative + offset if hard else negative) - reference
            e = _exp2(scale * lead)
            lead_sum += e * lead
            hard_sum += e * (negative + one) if hard else scalar(0)
        leads += float(lead_sum)
        hards += float(hard_sum)
    scalars[0], scalars[1] = leads, hards


@strict
def _score_row(plan, i, waiting, place, largest, scalars, block):
    """Loss of row i, added to `sums`, and its gradients."""
    scalar = plan.pos_score.dtype.type
    weight = float(plan.weights[i]) if plan.weights.size else 1.0
    if weight == 0 and (plan.grad_weights.size == 0 or plan.inverse_count == 0):
        _leave_out(plan, i)
        return
    positive = plan.pos_score[i] - scalar(plan.margin)
    reference = _reference(plan, i, positive, largest)
    negatives = 0.0
    size = plan.neg_scores.shape[1]
    for begin in range(0, size, _PART):
        end = min(begin + _PART, size)
        negatives += float(
            _sum_part(plan, i, begin, end, positive, reference, waiting, place, largest)
        )
    behind = float(reference) - float(positive)
    # 1, or the row has a negative of at least 1.
    own = math.exp(-plan.smooth * behind)
    total = negatives + own
    loss = plan.smooth * behind + math.log(total) if behind != 0 else math.log1p(negatives)
    if plan.grad_weights.size:
        plan.grad_weights[i] = loss * plan.inverse_count
    if weight == 0:
        _leave_out(plan, i)
        return
    factor = weight * plan.inverse_count
    plan.block_sums[block, 0] += factor * loss
    share = negatives / total
    if plan.with_scalars:
        _sum_scalars(plan, i, positive, reference, scalars)
        plan.block_sums[block, 1] += factor * (scalars[0] + negatives * behind) / total
        plan.block_sums[block, 2] += factor * plan.smooth * share
        plan.block_sums[block, 3] += factor * plan.smooth * scalars[1] / total
    if plan.with_grad:
        factor *= plan.smooth
        plan.grad_pos[i] = -factor * share
        scale = scalar(factor / total)
        grad = plan.grad_neg
        for k in range(size):
            grad[i, k] = waiting[place, k] * scale


@compiled
def _leave_out(plan, i):
    if plan.grad_weights.size and plan.inverse_count == 0:
        plan.grad_weights[i] = 0
    if plan.with_grad:
        plan.grad_pos[i] = 0
        grad = plan.grad_neg
        for k in range(grad.shape[1]):
            grad[i, k] = 0


def make_run(source: str) -> Any:
    """Makes the entry; `source` tells cached machine code apart."""

    def run(plan, counters, worker):
        """Takes blocks of rows until all are done: to be entered by any number of threads."""
        if source == "":
            return
        float_mode = flush_denormals()
        num_rows = plan.pos_score.size
        num_blocks = plan.block_sums.shape[0]
        largest = np.empty(_LANES, plan.pos_score.dtype)
        scalars = np.empty(2)
        waiting = plan.grad_neg if plan.with_grad else plan.exponentials
        while True:
            block = fetch_add(counters, 0, 1)
            if block >= num_blocks:
                break
            first = block * plan.block_rows
            for i in range(first, min(first + plan.block_rows, num_rows)):
                place = i if plan.with_grad else worker
                _score_row(plan, i, waiting, place, largest, scalars, block)
            fetch_add(counters, 8, 1)
        while fetch_add(counters, 8, 0) < num_blocks:
            relax()
        set_float_mode(float_mode)

    return run
