"""The inner loops of the numba kernels, as explicit vector code.

numba leaves vectorising to LLVM, which neither keeps sixteen dot products in registers at once nor
uses the full register width by itself. The functions here emit the vector instructions directly, for
any dtype and instruction set: a vector that is wider than the machine's registers is split by LLVM.

They are called from compiled code only. Offsets and strides count elements. Every scratch row starts
at a multiple of `VECTOR_BYTES` and its length is a multiple of `ROW_VECTORS` vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

HAS_AVX512 = bool(llvm.get_host_cpu_features().get("avx512f", False))
VECTOR_BYTES = 64 if HAS_AVX512 else 32

# Vectors that a row is padded to a multiple of.
ROW_VECTORS = 2

# Rows that are handled together, so that a loaded row serves all of their sums.
QUAD = 4

# Vectors of the query, and of each running sum of a quad, that are kept in registers.
_QUERY_VECTORS = (8, 4, ROW_VECTORS) if HAS_AVX512 else (4, ROW_VECTORS)
_SUM_VECTORS = (4, ROW_VECTORS) if HAS_AVX512 else (ROW_VECTORS,)

_INDEX = ir.IntType(64)


class _Emitter:
    """Emits vector instructions for one scalar type, with `lanes` of them to a vector."""

    def __init__(self, context: Any, builder: Any, dtype: Any) -> None:
        self.context = context
        self.builder = builder
        self.is_double = dtype == types.float64
        self.scalar = ir.DoubleType() if self.is_double else ir.FloatType()
        self.int_bits = 64 if self.is_double else 32
        self.bytes = self.int_bits // 8
        self.lanes = VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.int_vector = ir.VectorType(ir.IntType(self.int_bits), self.lanes)

    def data(self, array_type: Any, array: Any) -> Any:
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def index(self, value: int) -> ir.Constant:
        return ir.Constant(_INDEX, value)

    def at(self, pointer: Any, offset: Any) -> Any:
        return self.builder.gep(pointer, [offset])

    def load(self, pointer: Any, lanes: int | None = None) -> Any:
        """A vector from `pointer`, which needs no more than the alignment of an element."""
        vector = self.vector if lanes is None else ir.VectorType(self.scalar, lanes)
        cast = self.builder.bitcast(pointer, vector.as_pointer())
        return self.builder.load(cast, align=self.bytes)

    def store(self, value: Any, pointer: Any) -> None:
        cast = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, cast, align=self.bytes)

    def splat(self, value: Any) -> Any:
        if isinstance(value, (int, float)):
            return ir.Constant(self.vector, [float(value)] * self.lanes)
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(one, one, [0] * self.lanes)

    def shuffle(self, a: Any, b: Any, lanes: Sequence[int]) -> Any:
        """Lanes of the concatenation of `a` and `b`."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
        return self.builder.shuffle_vector(a, b, mask)

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """`a * b + c`, fused where the machine can."""
        suffix = f"v{self.lanes}f{self.int_bits}"
        signature = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fmuladd.{suffix}"
        function = cgutils.get_or_insert_function(self.builder.module, signature, name)
        return self.builder.call(function, [a, b, c])

    def lane_sums(self, vectors: Sequence[Any]) -> Any:
        """A vector whose lane `i` is the sum over the lanes of `vectors[i]`; the rest is garbage."""
        partial = list(vectors)
        step = 1
        while len(partial) > 1:
            first = [x if not x & step else x - step + self.lanes for x in range(self.lanes)]
            second = [x + step if not x & step else x + self.lanes for x in range(self.lanes)]
            partial = [
                self.builder.fadd(self.shuffle(a, b, first), self.shuffle(a, b, second))
                for a, b in zip(partial[::2], partial[1::2], strict=True)
            ]
            step *= 2
        total = partial[0]
        while step < self.lanes:
            swapped = self.shuffle(total, total, [x ^ step for x in range(self.lanes)])
            total = self.builder.fadd(total, swapped)
            step *= 2
        return total

    def exp(self, x: Any) -> Any:
        """exp(x) for x below the overflow threshold, to 1-2 ulp; 0 below the smallest normal number.

        x = n ln 2 + r with |r| <= ln(2) / 2; the Taylor polynomial of exp(r) is exact to rounding
        there. NaN stays NaN, because 2^n enters by a multiplication.
        """
        b = self.builder
        lowest, mantissa, degree = (-708.0, 52, 13) if self.is_double else (-87.0, 23, 7)
        # ln 2 in two parts: the first has trailing zeros, so that n times it is exact.
        high, low = (
            (0.693145751953125, 1.42860682030941723212e-06)
            if not self.is_double
            else (0.69314718036912381649, 1.9082149292705877e-10)
        )
        magic = self.splat(1.5 * 2.0**mantissa)
        shifted = self.multiply_add(x, self.splat(1.4426950408889634), magic)
        n = b.fsub(shifted, magic)
        r = self.multiply_add(n, self.splat(-high), x)
        r = self.multiply_add(n, self.splat(-low), r)
        factorial = 1.0
        coefficients = [1.0]
        for k in range(1, degree + 1):
            factorial *= k
            coefficients.append(1.0 / factorial)
        p = self.splat(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            p = self.multiply_add(p, r, self.splat(coefficient))
        bits = b.bitcast(shifted, self.int_vector)
        move = ir.Constant(self.int_vector, [mantissa] * self.lanes)
        one = b.bitcast(self.splat(1.0), self.int_vector)
        power = b.bitcast(b.add(b.shl(bits, move), one), self.vector)
        tiny = b.fcmp_ordered("<", x, self.splat(lowest))
        return b.select(tiny, self.splat(0.0), b.fmul(p, power))


def _loop(emitter: _Emitter, count: Any, body: Callable[[Any], None]) -> None:
    with cgutils.for_range(emitter.builder, count, intp=_INDEX) as loop:
        body(loop.index)


def _groups(
    emitter: _Emitter, width: Any, sizes: Sequence[int], body: Callable[[Any, int], None]
) -> None:
    """Walks a row in groups of sizes[0] vectors, and what is left in at most one of each other size."""
    builder = emitter.builder
    whole = emitter.index(sizes[0] * emitter.lanes)
    count = builder.sdiv(width, whole)
    _loop(emitter, count, lambda g: body(builder.mul(g, whole), sizes[0]))
    done = builder.mul(count, whole)
    for size in sizes[1:]:
        end = builder.add(done, emitter.index(size * emitter.lanes))
        fits = builder.icmp_signed("<=", end, width)
        with builder.if_then(fits):
            body(done, size)
        done = builder.select(fits, end, done)


@intrinsic
def dots(typingctx, some, query, query_offset, rows, windows, first, row_offset, width, out,
         out_offset):  # fmt: skip
    """Dot products of one query row with the same row of `len(some)` windows.

    `out[out_offset + k] = query[query_offset:] . rows[windows[first + k] + row_offset:]` over `width`
    elements for k < len(some); the vector's other lanes are overwritten with copies of these.
    """

    def codegen(context, builder, signature, args):
        e = _Emitter(context, builder, signature.args[1].dtype)
        num_rows = signature.args[0].count
        _, query, query_offset, rows, windows, first, row_offset, width, out, out_offset = args
        query = e.at(e.data(signature.args[1], query), query_offset)
        rows = e.at(e.data(signature.args[3], rows), row_offset)
        windows = e.at(e.data(signature.args[4], windows), first)
        out = e.at(e.data(signature.args[8], out), out_offset)
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

        _groups(e, width, _QUERY_VECTORS, add_group)
        e.store(e.lane_sums([builder.load(total) for total in sums]), out)
        return context.get_dummy_value()

    signature = types.void(
        some, query, types.int64, rows, windows, types.int64, types.int64, types.int64, out,
        types.int64)  # fmt: skip
    return signature, codegen


def _logits(e: _Emitter, scores: Any, bias: Any, positive: Any, gamma: Any, t: Any) -> Any:
    """One row's scores, which of them are hard, the re-weighted ones and their logits."""
    c = e.load(scores)
    p = e.splat(e.builder.load(positive))
    hard = e.builder.fcmp_ordered(">", c, p)
    t = e.splat(t)
    s = e.builder.select(hard, e.multiply_add(t, c, e.builder.fsub(t, e.splat(1.0))), c)
    return c, p, hard, s, e.multiply_add(e.splat(gamma), s, e.load(bias))


@intrinsic
def raise_maxima(typingctx, scores, bias, bias_stride, positive, first_row, gamma, t, maxima):
    """`maxima[first_row + r, k]` becomes the larger of itself and the quad's logit (r, k)."""

    def codegen(context, builder, signature, args):
        e = _Emitter(context, builder, signature.args[0].dtype)
        kinds = signature.args
        scores, bias, bias_stride, positive, first_row, gamma, t, maxima = args
        scores, bias = e.data(kinds[0], scores), e.data(kinds[1], bias)
        positive = e.at(e.data(kinds[3], positive), first_row)
        maxima = e.at(e.data(kinds[7], maxima), builder.mul(first_row, e.index(e.lanes)))
        for r in range(QUAD):
            row = e.index(r * e.lanes)
            offset = e.at(bias, builder.mul(bias_stride, e.index(r)))
            p = e.at(positive, e.index(r))
            logit = _logits(e, e.at(scores, row), offset, p, gamma, t)[-1]
            target = e.at(maxima, row)
            old = e.load(target)
            e.store(builder.select(builder.fcmp_ordered(">", logit, old), logit, old), target)
        return context.get_dummy_value()

    signature = types.void(
        scores, bias, types.int64, positive, types.int64, scores.dtype, scores.dtype, maxima)  # fmt: skip
    return signature, codegen


@intrinsic
def exponentiate(typingctx, scores, bias, bias_stride, positive, reference, first_row, gamma, t,
                 sums, slopes, score_sums, hard_sums, scalars):  # fmt: skip
    """Turns a quad's scores into exponentials and adds them to its rows' sums.

    For lane k of row r of the quad, with c the score, p = positive[first_row + r] and
    m = reference[first_row + r]:

        s = t c + t - 1 if c > p else c,   e = exp(gamma s + bias[r * bias_stride + k] - m)

    `sums[first_row + r, k] += e`; `slopes[r, k] = e` times t where c > p. With the literal True for
    `scalars` also `score_sums[...] += e (s - p)` and `hard_sums[...] += e (c + 1)` where c > p.
    """
    if not isinstance(scalars, types.BooleanLiteral):
        return None

    def codegen(context, builder, signature, args):
        e = _Emitter(context, builder, signature.args[0].dtype)
        kinds = signature.args
        (scores, bias, bias_stride, positive, reference, first_row, gamma, t, sums, slopes,
         score_sums, hard_sums, _) = args  # fmt: skip
        scores, bias, slopes = (
            e.data(kinds[i], x) for i, x in ((0, scores), (1, bias), (9, slopes))
        )
        start = builder.mul(first_row, e.index(e.lanes))
        sums, score_sums, hard_sums = (
            e.at(e.data(kinds[i], x), start) for i, x in ((8, sums), (10, score_sums), (11, hard_sums))
        )
        positive, reference = (
            e.at(e.data(kinds[i], x), first_row) for i, x in ((3, positive), (4, reference))
        )
        def accumulate(value, pointer):
            e.store(builder.fadd(e.load(pointer), value), pointer)

        for r in range(QUAD):
            row = e.index(r * e.lanes)
            offset = e.at(bias, builder.mul(bias_stride, e.index(r)))
            p = e.at(positive, e.index(r))
            c, p, hard, s, logit = _logits(e, e.at(scores, row), offset, p, gamma, t)
            m = e.splat(builder.load(e.at(reference, e.index(r))))
            value = e.exp(builder.fsub(logit, m))
            accumulate(value, e.at(sums, row))
            steep = builder.fmul(value, e.splat(t))
            e.store(builder.select(hard, steep, value), e.at(slopes, row))
            if kinds[12].literal_value:
                accumulate(builder.fmul(value, builder.fsub(s, p)), e.at(score_sums, row))
                above = builder.fmul(value, builder.fadd(c, e.splat(1.0)))
                accumulate(builder.select(hard, above, e.splat(0.0)), e.at(hard_sums, row))
        return context.get_dummy_value()

    signature = types.void(
        scores, bias, types.int64, positive, reference, types.int64, scores.dtype, scores.dtype,
        sums, slopes, score_sums, hard_sums, scalars)  # fmt: skip
    return signature, codegen


@intrinsic
def transpose(typingctx, quad, out, windows, first, column):
    """Writes lane k of the quad's four rows to `out[windows[first + k] + column:][:4]`, for every lane."""

    def codegen(context, builder, signature, args):
        e = _Emitter(context, builder, signature.args[0].dtype)
        quad, out, windows, first, column = args
        quad = e.data(signature.args[0], quad)
        out = e.at(e.data(signature.args[1], out), column)
        windows = e.at(e.data(signature.args[2], windows), first)
        a, b, c, d = (e.load(e.at(quad, e.index(r * e.lanes))) for r in range(QUAD))
        blocks = range(0, e.lanes, QUAD)

        def merge(x, y, pattern):
            return e.shuffle(x, y, [q + (l if l < QUAD else l - QUAD + e.lanes) for q in blocks for l in pattern])

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
def gather(typingctx, out, out_offset, width, rows, windows, row_offset, weights, weight_windows,
           column, first, count):  # fmt: skip
    """Adds to four consecutive rows of `out` the weighted rows of `count` windows.

    `out[out_offset + r * width:][:width] += sum over k of weights[weight_windows[first + k] + column + r]
    * rows[windows[first + k] + row_offset + r * width:][:width]`, r = 0 .. 3, in the order of k.
    """

    def codegen(context, builder, signature, args):
        e = _Emitter(context, builder, signature.args[0].dtype)
        kinds = signature.args
        (out, out_offset, width, rows, windows, row_offset, weights, weight_windows, column, first,
         count) = args  # fmt: skip
        out = e.at(e.data(kinds[0], out), out_offset)
        rows = e.at(e.data(kinds[3], rows), row_offset)
        weights = e.at(e.data(kinds[6], weights), column)
        windows = e.at(e.data(kinds[4], windows), first)
        weight_windows = e.at(e.data(kinds[7], weight_windows), first)
        starts = [builder.mul(width, e.index(r)) for r in range(QUAD)]

        def add_group(start, num_vectors):
            steps = [e.index(v * e.lanes) for v in range(num_vectors)]
            targets = [
                e.at(e.at(e.at(out, start), row), step) for row in starts for step in steps
            ]
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

            _loop(e, count, add_row)
            for total, target in zip(sums, targets, strict=True):
                e.store(builder.load(total), target)

        _groups(e, width, _SUM_VECTORS, add_group)
        return context.get_dummy_value()

    signature = types.void(
        out, types.int64, types.int64, rows, windows, types.int64, weights, weight_windows,
        types.int64, types.int64, types.int64)  # fmt: skip
    return signature, codegen


@intrinsic
def fetch_add(typingctx, array, index, value):
    """Adds to one element of an int64 array as one indivisible step; returns what was there."""

    def codegen(context, builder, signature, args):
        e = _Emitter(context, builder, types.float64)
        pointer = e.at(e.data(signature.args[0], args[0]), args[1])
        return builder.atomic_rmw("add", pointer, args[2], "seq_cst")

    return types.int64(array, types.int64, types.int64), codegen


@intrinsic
def relax(typingctx):
    """Tells the processor that the thread is waiting."""

    def codegen(context, builder, signature, args):
        if "x86" in builder.module.triple:
            signature = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [])
        return context.get_dummy_value()

    return types.void(), codegen
