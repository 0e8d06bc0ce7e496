"""Writes vector instructions for the functions in `simd.py`, through llvmlite.

For any scalar type and instruction set: a vector that is wider than the machine's registers is
split by LLVM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils


def _has_avx512() -> bool:
    """Whether numba compiles for AVX-512: NUMBA_CPU_FEATURES decides where it is set."""
    if config.CPU_FEATURES is not None:
        return "+avx512f" in config.CPU_FEATURES.split(",")
    return bool(llvm.get_host_cpu_features().get("avx512f", False))


HAS_AVX512 = _has_avx512()
VECTOR_BYTES = 64 if HAS_AVX512 else 32

# Vectors that a row is padded to a multiple of.
ROW_VECTORS = 2

_INDEX = ir.IntType(64)


class Emitter:
    """Emits vector instructions for one scalar type, with `lanes` of them to a vector.

    Args:
        context: numba's target context.
        builder: llvmlite's, where the instructions go.
        dtype: numba's float32 or float64.
    """

    def __init__(self, context: Any, builder: Any, dtype: Any) -> None:  # noqa: D107
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
        """The address of an array's first element."""
        return self.context.make_array(array_type)(self.context, self.builder, array).data

    def width(self, array_type: Any, matrix: Any) -> Any:
        """The length of a row."""
        array = self.context.make_array(array_type)(self.context, self.builder, matrix)
        return self.builder.extract_value(array.shape, array_type.ndim - 1)

    def num_rows(self, array_type: Any, matrix: Any) -> Any:
        """The number of rows, of each matrix where there are several."""
        array = self.context.make_array(array_type)(self.context, self.builder, matrix)
        return self.builder.extract_value(array.shape, array_type.ndim - 2)

    def index(self, value: int) -> ir.Constant:
        """A constant."""
        return ir.Constant(_INDEX, value)

    def at(self, pointer: Any, offset: Any) -> Any:
        """The address `offset` elements further."""
        return self.builder.gep(pointer, [offset])

    def load(self, pointer: Any, lanes: int | None = None) -> Any:
        """A vector from `pointer`, which needs no more than the alignment of an element."""
        vector = self.vector if lanes is None else ir.VectorType(self.scalar, lanes)
        cast = self.builder.bitcast(pointer, vector.as_pointer())
        return self.builder.load(cast, align=self.bytes)

    def store(self, value: Any, pointer: Any) -> None:
        """Writes a vector; alignment as for `load`."""
        cast = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, cast, align=self.bytes)

    def gather(self, pointer: Any, stride: Any) -> Any:
        """A vector of elements that lie `stride` apart."""
        result = ir.Constant(self.vector, ir.Undefined)
        for lane in range(self.lanes):
            place = self.at(pointer, self.builder.mul(stride, self.index(lane)))
            value = self.builder.load(place, align=self.bytes)
            result = self.builder.insert_element(result, value, ir.Constant(ir.IntType(32), lane))
        return result

    def scatter(self, value: Any, pointer: Any, stride: Any) -> None:
        """Writes a vector to elements that lie `stride` apart."""
        for lane in range(self.lanes):
            place = self.at(pointer, self.builder.mul(stride, self.index(lane)))
            self.builder.store(self.lane(value, lane), place, align=self.bytes)

    def last_lanes(self, count: Any) -> Any:
        """A mask of the last `count` lanes."""
        integer = ir.IntType(self.int_bits)
        first = self.builder.sub(self.index(self.lanes), count)
        if self.int_bits < 64:
            first = self.builder.trunc(first, integer)
        undefined = ir.Constant(self.int_vector, ir.Undefined)
        one = self.builder.insert_element(undefined, first, ir.Constant(ir.IntType(32), 0))
        order = ir.Constant(self.int_vector, list(range(self.lanes)))
        return self.builder.icmp_signed(">=", order, self.shuffle(one, one, [0] * self.lanes))

    def splat(self, value: Any) -> Any:
        """A vector with a number, or a scalar of the code, in every lane."""
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

    def term(self, weight: Any, x: Any) -> Any:
        """`weight * x`; 0 where the weight is, whatever x is: a score of -inf stands for none."""
        b, zero = self.builder, self.splat(0.0)
        return b.select(b.fcmp_ordered("==", weight, zero), zero, b.fmul(weight, x))

    def lane_sums(self, vectors: Sequence[Any]) -> Any:
        """A vector whose lane i is the sum over the lanes of vectors[i].

        The number of vectors is a power of two; in further lanes the sums repeat. Every sum is
        formed by the same tree, so equal vectors have equal sums.
        """
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

    def largest_lane(self, vector: Any) -> Any:
        """The largest lane, as a scalar. A NaN may be lost or found."""
        step = 1
        while step < self.lanes:
            swapped = self.shuffle(vector, vector, [x ^ step for x in range(self.lanes)])
            vector = self.larger(swapped, vector)
            step *= 2
        return self.lane(vector, 0)

    def larger(self, a: Any, b: Any) -> Any:
        """The larger one of each pair of lanes, b where one of them is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def lane(self, vector: Any, index: int) -> Any:
        """One lane, as a scalar."""
        return self.builder.extract_element(vector, ir.Constant(ir.IntType(32), index))

    def log(self, x: Any) -> Any:
        """The natural logarithm of a positive normal x, to 1-2 ulp; infinity and NaN as they are.

        x = 2^n m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s) with s = (m - 1) / (m + 1), by
        the Taylor series.
        """
        b = self.builder
        kind = np.float64 if self.is_double else np.float32
        mantissa, degree = (52, 10) if self.is_double else (23, 4)
        high, low = self._ln2_parts()

        def integers(value: int) -> ir.Constant:
            return ir.Constant(self.int_vector, [value] * self.lanes)

        bits = b.bitcast(x, self.int_vector)
        sqrt_half = int(kind(0.5**0.5).view(f"i{self.bytes}"))
        exponent = b.ashr(b.sub(bits, integers(sqrt_half)), integers(mantissa))
        m = b.bitcast(b.sub(bits, b.shl(exponent, integers(mantissa))), self.vector)
        n = b.sitofp(exponent, self.vector)
        f = b.fsub(m, self.splat(1.0))
        s = b.fdiv(f, b.fadd(f, self.splat(2.0)))
        z = b.fmul(s, s)
        q = self.splat(2.0 / (2 * degree + 1))
        for k in range(degree - 1, 0, -1):
            q = self.multiply_add(q, z, self.splat(2.0 / (2 * k + 1)))
        # log m = 2 s + s z q, and 2 s = f - s f keeps the leading term exact.
        inner = b.fsub(f, b.fmul(z, q))
        log_m = b.fsub(f, b.fmul(s, inner))
        result = self.multiply_add(n, self.splat(low), log_m)
        result = self.multiply_add(n, self.splat(high), result)
        finite = b.fcmp_ordered("<", x, self.splat(math.inf))
        return b.select(finite, result, x)

    def _ln2_parts(self) -> tuple[float, float]:
        """Two summands of ln 2: the first ends in zeros, so that its small multiples are exact."""
        if self.is_double:
            return 0.69314718036912381649, 1.9082149292705877e-10
        return 0.693145751953125, 1.42860682030941723212e-06

    def exp(self, x: Any) -> Any:
        """The exponential of x, which must not overflow, to 1-2 ulp; 0 where it is not normal.

        x = n ln 2 + r with |r| <= ln(2) / 2; the Taylor polynomial of exp(r) is exact to rounding
        there. NaN stays NaN, because 2^n enters by a multiplication.
        """
        b = self.builder
        lowest, mantissa, degree = (-708.0, 52, 13) if self.is_double else (-87.0, 23, 7)
        high, low = self._ln2_parts()
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


def loop(emitter: Emitter, count: Any, body: Callable[[Any], None]) -> None:
    """Emits a loop; `body` emits one step, given its index."""
    with cgutils.for_range(emitter.builder, count, intp=_INDEX) as step:
        body(step.index)


def groups(
    emitter: Emitter, width: Any, sizes: Sequence[int], body: Callable[[Any, int], None]
) -> None:
    """Emits a walk along a row: groups of sizes[0] vectors, then at most one of each other size.

    `body` emits one group, given where it starts and how many vectors it has.
    """
    builder = emitter.builder
    whole = emitter.index(sizes[0] * emitter.lanes)
    count = builder.sdiv(width, whole)
    loop(emitter, count, lambda g: body(builder.mul(g, whole), sizes[0]))
    done = builder.mul(count, whole)
    for size in sizes[1:]:
        end = builder.add(done, emitter.index(size * emitter.lanes))
        fits = builder.icmp_signed("<=", end, width)
        with builder.if_then(fits):
            body(done, size)
        done = builder.select(fits, end, done)
