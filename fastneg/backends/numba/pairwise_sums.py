# mypy: allow-untyped-defs, allow-untyped-calls
"""Sums of softplus and sigmoid over all pairs of sorted rows, in time proportional to the rows.

The method of the native kernels (`plan.h` and `series.h` in `csrc/core/cpu/pairwise`),
for one thread and in float64 throughout: a range of rows is cut between two labels, again and
again. The rows above a cut meet the rows below it by power series of boxes of rows, or one by one
where that is cheaper, and so do all rows of a range that is small.

Everything compiled is in this file, so that numba notices when its cached machine code is old.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import njit

TERMS = 16
BOX_WIDTH = 0.5
# Distances of box centres, in boxes, for which there is a series. Left of them both functions are
# below e^-87 and count as 0; right of them they are u and 1 to within e^-40.
FIRST_DISTANCE = -176
LAST_DISTANCE = 80

_LEAF_ROWS = 128
_FARTHEST_BOX = 1e9
# Estimates, in nanoseconds: of a pair met one by one, of a row's moments and polynomial, and of two
# boxes' translations.
_PAIR_COST = 12.0
_ROW_COST = 70.0
_BOX_PAIR_COST = 400.0

_BELOW, _ABOVE = 0, 1


@functools.cache
def series() -> np.ndarray[Any, Any]:
    """Coefficients g_n of f(u0 + d) = sum_n g_n d^n / n!, n < TERMS.

    By [softplus or sigmoid, distance, n]. The polynomial agrees with f in the Chebyshev points of
    [u0 - BOX_WIDTH, u0 + BOX_WIDTH], where its error is below 3e-14 of f.
    """
    points = np.cos((np.arange(TERMS) + 0.5) * math.pi / TERMS)
    orders = np.arange(TERMS)[:, None]
    cosines = np.cos(orders * (np.arange(TERMS) + 0.5) * math.pi / TERMS)
    to_chebyshev = np.where(orders == 0, 1.0, 2.0) / TERMS * cosines
    to_powers = np.zeros((TERMS, TERMS))
    for order in range(TERMS):
        powers = np.polynomial.chebyshev.cheb2poly(np.eye(TERMS)[order])
        to_powers[: len(powers), order] = powers
    scales = np.array([math.factorial(n) / BOX_WIDTH**n for n in range(TERMS)])
    centres = BOX_WIDTH * np.arange(FIRST_DISTANCE, LAST_DISTANCE + 1)
    u = centres[:, None] + BOX_WIDTH * points
    small = np.exp(-np.abs(u))
    softplus = np.maximum(u, 0.0) + np.log1p(small)
    sigmoid = np.where(u > 0, 1.0, small) / (1.0 + small)
    values = np.stack([softplus, sigmoid])
    return np.ascontiguousarray(values @ to_chebyshev.T @ to_powers.T * scales)


@njit(nogil=True, error_model="numpy")
def _meet_rows(position, weights, margin, rows, others, value, above, below, with_slopes):
    """Rows `rows` above rows `others`, pair by pair; a row meets nothing that is not below it."""
    for i in range(rows[0], rows[1]):
        weight = weights[i]
        total, slopes = 0.0, 0.0
        for j in range(others[0], others[1]):
            u = position[j] - (position[i] - margin)
            small = math.exp(-abs(u))
            total += (u if u > 0 else 0.0) + math.log1p(small)
            if with_slopes and weight != 0:
                slope = (1.0 if u > 0 else small) / (1.0 + small)
                slopes += slope
                below[j] += weight * slope
        value[i] += total
        above[i] += slopes


@njit(nogil=True, error_model="numpy")
def _extent(position, rows, shift):
    """First and last box of some rows, as floats; NaN unless all are finite."""
    low, high = math.inf, -math.inf
    for k in range(rows[0], rows[1]):
        place = position[k] - shift
        if not abs(place) < math.inf:
            return math.nan, math.nan
        low, high = min(low, place), max(high, place)
    return np.floor(low / BOX_WIDTH), np.floor(high / BOX_WIDTH)


@njit(nogil=True, error_model="numpy")
def _window(first, last, reach_first, reach_last):
    """The boxes to use: rows beyond the reach of all series may be in any box that is as well."""
    first = min(max(first, reach_first), last)
    return first, max(min(last, reach_last), first)


@njit(nogil=True, error_model="numpy")
def _find(position, first, count):
    """The box of a row, and its place relative to the box's centre."""
    found = min(max(position / BOX_WIDTH - first, 0.0), count - 1.0)
    box = int(found)
    return box, position - (box + first + 0.5) * BOX_WIDTH


@njit(nogil=True, error_model="numpy")
def _moments(position, weights, rows, shift, first, moments):
    for k in range(rows[0], rows[1]):
        box, place = _find(position[k] - shift, first, moments.shape[0])
        # Of a row outside of its box, an outermost one, only the first power matters.
        terms = TERMS if abs(place) < BOX_WIDTH else 2
        power = weights[k]
        for q in range(terms):
            moments[box, q] += power
            power *= place


@njit(nogil=True, error_model="numpy")
def _evaluate(position, rows, shift, first, polynomials, sums):
    for k in range(rows[0], rows[1]):
        box, place = _find(position[k] - shift, first, polynomials.shape[0])
        terms = TERMS if abs(place) < BOX_WIDTH else 2
        total = 0.0
        for q in range(terms - 1, -1, -1):
            total = total * place + polynomials[box, q]
        sums[k] += total


@njit(nogil=True, error_model="numpy")
def _scale_terms(terms, alternate):
    """Multiplies column n by 1 / n!, with the sign of (-1)^n where `alternate`."""
    factor = 1.0
    for n in range(TERMS):
        if n > 0:
            factor /= -n if alternate else n
        for box in range(terms.shape[0]):
            terms[box, n] *= factor


@njit(nogil=True, error_model="numpy")
def _translate(moments, source_first, target_first, source_below, coefficients, far_linear, result):
    """Polynomials of the target boxes from the (scaled) moments of the source boxes."""
    for t in range(result.shape[0]):
        far_value, far_count = 0.0, 0.0
        for s in range(moments.shape[0]):
            distance = (source_first + s) - (target_first + t)
            if not source_below:
                distance = -distance
            if distance < FIRST_DISTANCE:
                continue
            if distance > LAST_DISTANCE:
                far_value += BOX_WIDTH * distance * moments[s, 0] + moments[s, 1]
                far_count += moments[s, 0]
                continue
            g = coefficients[distance - FIRST_DISTANCE]
            for r in range(TERMS):
                total = 0.0
                for q in range(TERMS - r):
                    total += g[q + r] * moments[s, q]
                result[t, r] += total
        result[t, 0] += far_value if far_linear else far_count
        if far_linear:
            result[t, 1] += far_count


@njit(nogil=True, error_model="numpy")
def _meet_block(
    position, weights, margin, begin, middle, end, ones, series, value, above, below, with_slopes
):
    """Rows [middle, end) above rows [begin, middle)."""
    lower, upper = (begin, middle), (middle, end)
    lowest_below, highest_below = _extent(position, lower, 0.0)
    lowest_above, highest_above = _extent(position, upper, margin)
    nearest, farthest = FIRST_DISTANCE - 1, LAST_DISTANCE + 1
    first, last = _window(
        lowest_below, highest_below, lowest_above + nearest, highest_above + farthest
    )
    above_first, above_last = _window(
        lowest_above, highest_above, lowest_below - farthest, highest_below - nearest
    )
    rows = end - begin
    num_boxes = (last - first) + (above_last - above_first) + 2.0  # May be NaN.
    placed = num_boxes <= 1024 + rows // 2
    placed = placed and abs(first) < _FARTHEST_BOX and abs(above_first) < _FARTHEST_BOX
    if placed:
        near = min(last - first + 1.0, LAST_DISTANCE - FIRST_DISTANCE + 1.0)
        by_series = rows * _ROW_COST + (above_last - above_first + 1.0) * near * _BOX_PAIR_COST
        placed = float(middle - begin) * float(end - middle) * _PAIR_COST >= by_series
    if not placed:
        _meet_rows(position, weights, margin, upper, lower, value, above, below, with_slopes)
        return
    first_below, num_below = int(first), int(last - first) + 1
    first_above, num_above = int(above_first), int(above_last - above_first) + 1
    from_below = np.zeros((num_below, TERMS))
    _moments(position, ones, lower, 0.0, first_below, from_below)
    _scale_terms(from_below, False)
    polynomials = np.zeros((num_above, TERMS))
    _translate(from_below, first_below, first_above, True, series[0], True, polynomials)
    _scale_terms(polynomials, True)
    _evaluate(position, upper, margin, first_above, polynomials, value)
    if not with_slopes:
        return
    polynomials[:] = 0.0
    _translate(from_below, first_below, first_above, True, series[1], False, polynomials)
    _scale_terms(polynomials, True)
    _evaluate(position, upper, margin, first_above, polynomials, above)
    from_above = np.zeros((num_above, TERMS))
    _moments(position, weights, upper, margin, first_above, from_above)
    _scale_terms(from_above, True)
    polynomials = np.zeros((num_below, TERMS))
    _translate(from_above, first_above, first_below, False, series[1], False, polynomials)
    _scale_terms(polynomials, False)
    _evaluate(position, lower, 0.0, first_below, polynomials, below)


def _add_pairs(
    position, level_begin, sessions, weights, margin, series, value, above, below, with_slopes
):
    """Adds to each row what its pairs amount to.

    Args:
        position: Of rows sorted by session and label: logit / temperature.
        level_begin: The first row of the same session and label.
        sessions: The first row of each session, and the number of rows.
        weights: Of each row.
        margin: Scalar.
        series: As the function of this name returns them.
        value: Gets the sum of softplus over the rows below.
        above: Gets the sum of sigmoid over the same pairs.
        below: Gets the weighted sum of sigmoid over the pairs with the rows above.
        with_slopes: Whether to fill `above` and `below`.
    """
    ones = np.ones(position.size)
    pending = np.empty((128, 2), np.int64)  # Each cut leaves at most one more range than before.
    for session in range(sessions.size - 1):
        pending[0] = sessions[session], sessions[session + 1]
        num_pending = 1
        while num_pending > 0:
            num_pending -= 1
            begin, end = pending[num_pending]
            if level_begin[end - 1] <= begin:
                continue
            if end - begin <= _LEAF_ROWS:
                for i in range(begin, end):
                    lower = (begin, level_begin[i])
                    rows = (i, i + 1)
                    _meet_rows(
                        position, weights, margin, rows, lower, value, above, below, with_slopes
                    )
                continue
            middle = begin + (end - begin) // 2
            before = level_begin[middle]
            after = middle + np.searchsorted(level_begin[middle:end], before, side="right")
            cut = before if after == end or middle - before <= after - middle else after
            if before <= begin:
                cut = after
            _meet_block(
                position,
                weights,
                margin,
                begin,
                cut,
                end,
                ones,
                series,
                value,
                above,
                below,
                with_slopes,
            )
            # The smaller range waits at the top, so that few wait at a time.
            smaller, larger = (begin, cut), (cut, end)
            if cut - begin > end - cut:
                smaller, larger = larger, smaller
            pending[num_pending] = larger
            pending[num_pending + 1] = smaller
            num_pending += 2


def _compiled() -> Any:
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(_add_pairs)
    except RuntimeError:
        # No directory for the cache can be written, next to this file or in the user's home.
        return njit(**options)(_add_pairs)


add_pairs = _compiled()
