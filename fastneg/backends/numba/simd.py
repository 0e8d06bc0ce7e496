# mypy: allow-untyped-defs, allow-untyped-calls
"""The inner loops of the numba kernels, as explicit vector code.

numba leaves vectorising to LLVM, which neither keeps sixteen dot products in registers at once nor
uses the full register width by itself. The functions here emit the vector instructions directly.

They are called from compiled code only. Offsets and strides count elements. Every row starts at a
multiple of `VECTOR_BYTES` and its length is a multiple of `ROW_VECTORS` vectors.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastneg.backends.numba.vector_ir import (
    HAS_AVX512,
    ROW_VECTORS,
    Emitter,
    groups,
    loop,
)

# Rows that are handled together, so that a loaded row serves all of their sums.
QUAD = 4

# Vectors of the query, and of each running sum of a quad, that are kept in registers.
_QUERY_VECTORS = (8, 4, ROW_VECTORS) if HAS_AVX512 else (4, ROW_VECTORS)
_SUM_VECTORS = (4, ROW_VECTORS) if HAS_AVX512 else (ROW_VECTORS,)


@intrinsic
def dots(typingctx, some, query, query_offset, rows, windows, first, row_offset, out, r):
    """Dot products of one query row with the same row of `len(some)` windows.

    `out[r, k] = query[query_offset:] . rows[windows[first + k] + row_offset:]` for k < len(some),
    over the length of a row; the other lanes are overwritten with copies of these. Offsets count
    from the first element of a matrix.
    """

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, signature.args[1].dtype)
        num_rows = signature.args[0].count
        _, query, query_offset, rows, windows, first, row_offset, out, r = args
        width = e.width(signature.args[3], rows)
        query = e.at(e.data(signature.args[1], query), query_offset)
        rows = e.at(e.data(signature.args[3], rows), row_offset)
        windows = e.at(e.data(signature.args[4], windows), first)
        out = e.at(e.data(signature.args[7], out), builder.mul(r, e.index(e.lanes)))
        sums = [cgutils.alloca_once(builder, e.vector) for _ in range(num_rows)]
        for total in sums:
            builder.store(e.splat(0.0), total)

        def add_group(start, num_vectors):
            steps = [e.index(v * e.lanes) for v in range(num_vectors)]
            mine, theirs = e.at(query, start), e.at(rows, start)
            kept = [e.load(e.at(mine, step)) for step in steps]
            at = [e.at(theirs, builder.load(e.at(windows, e.index(k)))) for k in range(num_rows)]
            values = [builder.load(total) for total in sums]
            # One vector of every row in turn: an addition waits long for the one before it.
            for vector, step in zip(kept, steps, strict=True):
                values = [
                    e.multiply_add(vector, e.load(e.at(row, step)), value)
                    for row, value in zip(at, values, strict=True)
                ]
            for total, value in zip(sums, values, strict=True):
                builder.store(value, total)

        groups(e, width, _QUERY_VECTORS, add_group)
        e.store(e.lane_sums([builder.load(total) for total in sums]), out)
        return context.get_dummy_value()

    signature = types.void(
        some, query, types.int64, rows, windows, types.int64, types.int64, out, types.int64
    )
    return signature, codegen


def _logits(e: Emitter, scores: Any, bias: Any, positive: Any, gamma: Any, t: Any) -> Any:
    """One row's scores, which of them are hard, the re-weighted ones and their logits."""
    c = e.load(scores)
    p = e.splat(e.builder.load(positive))
    hard = e.builder.fcmp_ordered(">", c, p)
    t = e.splat(t)
    s = e.builder.select(hard, e.multiply_add(t, c, e.builder.fsub(t, e.splat(1.0))), c)
    return c, p, hard, s, e.multiply_add(e.splat(gamma), s, e.load(bias))


@intrinsic
def raise_maxima(typingctx, scores, bias, positive, first_row, gamma, t, maxima):
    """`maxima[first_row + r, k]` becomes the larger of itself and the quad's logit (r, k)."""

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, signature.args[0].dtype)
        kinds = signature.args
        scores, bias, positive, first_row, gamma, t, maxima = args
        scores, bias = e.data(kinds[0], scores), e.data(kinds[1], bias)
        positive = e.at(e.data(kinds[2], positive), first_row)
        maxima = e.at(e.data(kinds[6], maxima), builder.mul(first_row, e.index(e.lanes)))
        for r in range(QUAD):
            row = e.index(r * e.lanes)
            p = e.at(positive, e.index(r))
            logit = _logits(e, e.at(scores, row), e.at(bias, row), p, gamma, t)[-1]
            target = e.at(maxima, row)
            old = e.load(target)
            e.store(builder.select(builder.fcmp_ordered(">", logit, old), logit, old), target)
        return context.get_dummy_value()

    signature = types.void(scores, bias, positive, types.int64, scores.dtype, scores.dtype, maxima)
    return signature, codegen


@intrinsic
def exponentiate(
    typingctx, scores, bias, positive, reference, first_row, gamma, t, slopes, sums, scalars
):
    """Turns a quad's scores into exponentials and adds them to its rows' sums.

    For lane k of row r of the quad, R = first_row + r, c the score and p = positive[R]:

        s = t c + t - 1 if c > p else c
        e = exp(gamma s + bias[r, k] - reference[R])

    `sums[0, R, k] += e`; `slopes[r, k] = e`, times t where c > p. With the literal True for
    `scalars` also `sums[1, R, k] += e (s - p)` and `sums[2, R, k] += e (c + 1)` where c > p.
    """
    if not isinstance(scalars, types.BooleanLiteral):
        return None

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, signature.args[0].dtype)
        kinds = signature.args
        scores, bias, positive, reference, first_row, gamma, t, slopes, sums, _ = args
        scores, bias = e.data(kinds[0], scores), e.data(kinds[1], bias)
        positive = e.at(e.data(kinds[2], positive), first_row)
        reference = e.at(e.data(kinds[3], reference), first_row)
        slopes = e.data(kinds[7], slopes)
        plane = builder.mul(e.index(e.lanes), e.num_rows(kinds[8], sums))
        sums = e.at(e.data(kinds[8], sums), builder.mul(first_row, e.index(e.lanes)))

        def accumulate(value, which, row):
            pointer = e.at(e.at(sums, builder.mul(plane, e.index(which))), row)
            e.store(builder.fadd(e.load(pointer), value), pointer)

        for r in range(QUAD):
            row = e.index(r * e.lanes)
            p = e.at(positive, e.index(r))
            c, p, hard, s, logit = _logits(e, e.at(scores, row), e.at(bias, row), p, gamma, t)
            m = e.splat(builder.load(e.at(reference, e.index(r))))
            value = e.exp(builder.fsub(logit, m))
            accumulate(value, 0, row)
            steep = builder.fmul(value, e.splat(t))
            e.store(builder.select(hard, steep, value), e.at(slopes, row))
            if kinds[9].literal_value:
                accumulate(e.term(value, builder.fsub(s, p)), 1, row)
                above = e.term(value, builder.fadd(c, e.splat(1.0)))
                accumulate(builder.select(hard, above, e.splat(0.0)), 2, row)
        return context.get_dummy_value()

    scalar = scores.dtype
    signature = types.void(
        scores, bias, positive, reference, types.int64, scalar, scalar, slopes, sums, scalars
    )
    return signature, codegen


@intrinsic
def transpose(typingctx, quad, out, windows, first, column):
    """Writes lane k of the quad's rows to `out[windows[first + k] + column:][:4]`, for every k."""

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, signature.args[0].dtype)
        quad, out, windows, first, column = args
        quad = e.data(signature.args[0], quad)
        out = e.at(e.data(signature.args[1], out), column)
        windows = e.at(e.data(signature.args[2], windows), first)
        a, b, c, d = (e.load(e.at(quad, e.index(r * e.lanes))) for r in range(QUAD))
        blocks = range(0, e.lanes, QUAD)

        def merge(x, y, pattern):
            lanes = [k if k < QUAD else k - QUAD + e.lanes for k in pattern]
            return e.shuffle(x, y, [q + k for q in blocks for k in lanes])

        low, high = (0, 4, 1, 5), (2, 6, 3, 7)
        first_pair, second_pair = (0, 1, 4, 5), (2, 3, 6, 7)
        ab, cd = merge(a, b, low), merge(c, d, low)
        columns = [merge(ab, cd, first_pair), merge(ab, cd, second_pair)]
        ab, cd = merge(a, b, high), merge(c, d, high)
        columns += [merge(ab, cd, first_pair), merge(ab, cd, second_pair)]
        for k in range(e.lanes):
            source = columns[k % QUAD]
            chunk = e.shuffle(source, source, range(k - k % QUAD, k - k % QUAD + QUAD))
            e.store(chunk, e.at(out, builder.load(e.at(windows, e.index(k)))))
        return context.get_dummy_value()

    return types.void(quad, out, windows, types.int64, types.int64), codegen


@intrinsic
def gather(typingctx, out, first_row, rows, windows, weights, weight_windows, column, first, count):
    """Adds to a quad's rows of `out` the weighted rows of `count` windows.

    With R = first_row + r, r = 0 .. 3, and k = first .. first + count - 1 in this order:
    `out[R] += weights[weight_windows[k] + column + r] * rows[windows[k] + R * width:][:width]`.
    """

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, signature.args[0].dtype)
        kinds = signature.args
        out, first_row, rows, windows, weights, weight_windows, column, first, count = args
        width = e.width(kinds[0], out)
        out = e.at(e.data(kinds[0], out), builder.mul(first_row, width))
        rows = e.at(e.data(kinds[2], rows), builder.mul(first_row, width))
        weights = e.at(e.data(kinds[4], weights), column)
        windows = e.at(e.data(kinds[3], windows), first)
        weight_windows = e.at(e.data(kinds[5], weight_windows), first)
        starts = [builder.mul(width, e.index(r)) for r in range(QUAD)]

        def add_group(start, num_vectors):
            steps = [e.index(v * e.lanes) for v in range(num_vectors)]
            targets = [e.at(e.at(e.at(out, start), row), step) for row in starts for step in steps]
            sums = [cgutils.alloca_once(builder, e.vector) for _ in targets]
            for total, target in zip(sums, targets, strict=True):
                builder.store(e.load(target), total)

            def add_row(k):
                window = e.at(e.at(rows, start), builder.load(e.at(windows, k)))
                weight = e.at(weights, builder.load(e.at(weight_windows, k)))
                totals = iter(sums)
                for r, row in enumerate(starts):
                    factor = e.splat(builder.load(e.at(weight, e.index(r))))
                    source = e.at(window, row)
                    for step in steps:
                        total = next(totals)
                        value = e.load(e.at(source, step))
                        builder.store(e.multiply_add(factor, value, builder.load(total)), total)

            loop(e, count, add_row)
            for total, target in zip(sums, targets, strict=True):
                e.store(builder.load(total), target)

        groups(e, width, _SUM_VECTORS, add_group)
        return context.get_dummy_value()

    index = types.int64
    signature = types.void(out, index, rows, windows, weights, weight_windows, index, index, index)
    return signature, codegen
