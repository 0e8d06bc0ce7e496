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
from fastneg.backends.numba.plan import Array, compiled

# Exponents of 2 above which a row's exponentials are taken relative to the largest one.
_HIGHEST_EXPONENT = 58.0

_LOG2_E = 1.4426950408889634
_LN_2 = 0.6931471805599453


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
def _sum_row(plan, i, positive, shift, waiting, scalars):
    """The row's sum of 2^(exponent - shift); leaves each one's part in the gradient behind.

    Exponents are relative to the positive's. `scalars` gets the sums that belong to smooth and t.
    """
    scalar = plan.pos_score.dtype.type
    zero, one = scalar(0), scalar(1)
    t, threshold, scale = scalar(plan.t), scalar(plan.threshold), scalar(plan.smooth * _LOG2_E)
    offset = t - one
    row = plan.neg_scores[i]
    total = zero
    for k in range(row.size):
        hard = positive - row[k] < threshold
        score = t * row[k] + offset if hard else row[k]
        e = _exp2(scale * (score - positive) - shift)
        waiting[k] = t * e if hard else e
        total += e
    if plan.with_scalars:
        leads = hards = zero
        for k in range(row.size):
            hard = positive - row[k] < threshold
            score = t * row[k] + offset if hard else row[k]
            e = _exp2(scale * (score - positive) - shift)
            leads += e * (score - positive)
            hards += e * (row[k] + one) if hard else zero
        scalars[0], scalars[1] = leads, hards
    return total


@compiled
def _largest_exponent(plan, i, positive):
    scalar = plan.pos_score.dtype.type
    t, threshold, scale = scalar(plan.t), scalar(plan.threshold), scalar(plan.smooth * _LOG2_E)
    largest = scalar(0)
    for negative in plan.neg_scores[i]:
        hard = positive - negative < threshold
        score = t * negative + (t - scalar(1)) if hard else negative
        exponent = scale * (score - positive)
        largest = exponent if exponent > largest else largest
    return largest


@compiled
def _score_row(plan, i, waiting, scalars, sums):
    """Loss of row i, added to `sums`, and its gradients."""
    scalar = plan.pos_score.dtype.type
    with_weights = plan.weights.size > 0
    weight = float(plan.weights[i]) if with_weights else 1.0
    if weight == 0 and (plan.grad_weights.size == 0 or plan.inverse_count == 0):
        _finish_unread(plan, i)
        return
    positive = plan.pos_score[i] - scalar(plan.margin)
    shift = scalar(0)
    negatives = float(_sum_row(plan, i, positive, shift, waiting, scalars))
    own = 1.0
    if negatives > 2.0**_HIGHEST_EXPONENT:
        # Some exponent may have been cut off: once more, relative to the largest one.
        shift = _largest_exponent(plan, i, positive)
        negatives = float(_sum_row(plan, i, positive, shift, waiting, scalars))
        own = 2.0 ** -float(shift)
    # 0, or NaN where the positive's logit is not finite.
    own_logit = scalar(plan.smooth) * positive
    own += float(own_logit - own_logit)
    total = own + negatives
    loss = math.log1p(negatives) if own == 1 else float(shift) * _LN_2 + math.log(total)
    if plan.grad_weights.size:
        plan.grad_weights[i] = loss * plan.inverse_count
    if weight == 0:
        _finish_unread(plan, i)
        return
    factor = weight * plan.inverse_count
    sums[0] += factor * loss
    share = negatives / total
    if plan.with_scalars:
        sums[1] += factor * float(scalars[0]) / total
        sums[2] += factor * plan.smooth * share
        sums[3] += factor * plan.smooth * float(scalars[1]) / total
    if plan.with_grad:
        factor *= plan.smooth
        plan.grad_pos[i] = -factor * share
        inverse, factor = scalar(1.0 / total), scalar(factor)
        grad = plan.grad_neg[i]
        for k in range(grad.size):
            grad[k] = waiting[k] * inverse * factor


@compiled
def _finish_unread(plan, i):
    if plan.grad_weights.size and plan.inverse_count == 0:
        plan.grad_weights[i] = 0
    if plan.with_grad:
        plan.grad_pos[i] = 0
        grad = plan.grad_neg[i]
        for k in range(grad.size):
            grad[k] = 0


def make_run(source: str) -> Any:
    """Makes the entry; `source` tells cached machine code apart."""

    def run(plan, counters, worker):
        """Takes blocks of rows until all are done: to be entered by any number of threads."""
        if source == "":
            return
        float_mode = flush_denormals()
        num_rows = plan.pos_score.size
        num_blocks = plan.block_sums.shape[0]
        scalars = np.zeros(2, plan.pos_score.dtype)
        while True:
            block = fetch_add(counters, 0, 1)
            if block >= num_blocks:
                break
            first = block * plan.block_rows
            for i in range(first, min(first + plan.block_rows, num_rows)):
                waiting = plan.grad_neg[i] if plan.with_grad else plan.exponentials[worker]
                _score_row(plan, i, waiting, scalars, plan.block_sums[block])
            fetch_add(counters, 8, 1)
        while fetch_add(counters, 8, 0) < num_blocks:
            relax()
        set_float_mode(float_mode)

    return run
