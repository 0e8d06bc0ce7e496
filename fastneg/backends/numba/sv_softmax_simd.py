# mypy: allow-untyped-defs, allow-untyped-calls
"""The inner loops of `support_vector_guided_softmax_loss`, as explicit vector code.

Called from compiled code only. A row of at least one vector lies in vectors along its length; of
shorter rows as many as a vector has lanes are computed side by side. Offsets count elements from an
array's first one.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastneg.backends.numba.vector_ir import Emitter, groups, loop

# Rows of the matrices that hold what is known of groups of rows, one of them in each lane.
POSITIVE, REFERENCE, NEGATIVES, LEADS, HARDS, LOSS, INVERSE, SCALE = range(8)
NUM_VALUES = 8

# Vectors of a row that are worked on together, so that one's steps fill another's waiting time.
_MAXIMUM_VECTORS = (4, 2, 1)
_SUM_VECTORS = (2, 1)


class _Reweighting:
    """Scores of negatives as the loss takes them: t c + t - 1 where a negative is hard."""

    def __init__(self, e: Emitter, t: Any, threshold: Any) -> None:
        self._e = e
        self.t = e.splat(t)
        self._offset = e.builder.fsub(self.t, e.splat(1.0))
        self._threshold = e.splat(threshold)

    def __call__(self, positive: Any, negative: Any) -> tuple[Any, Any]:
        """Returns the score, and whether the negative is hard."""
        builder = self._e.builder
        gap = builder.fsub(positive, negative)
        hard = builder.fcmp_ordered("<", gap, self._threshold)
        steep = self._e.multiply_add(self.t, negative, self._offset)
        return builder.select(hard, steep, negative), hard


class _Sums:
    """Running sums of a row's negatives, whose exponentials are relative to `reference`."""

    def __init__(self, e: Emitter, smooth: Any, reweight: _Reweighting, scalars: bool) -> None:
        self._e = e
        self._smooth = e.splat(smooth)
        self._reweight = reweight
        self._scalars = scalars
        self._sums = [cgutils.alloca_once(e.builder, e.vector) for _ in range(3)]

    def clear(self) -> None:
        for total in self._sums:
            self._e.builder.store(self._e.splat(0.0), total)

    def take(self, positive: Any, reference: Any, negative: Any, counted: Any = None) -> Any:
        """Adds some negatives, those that are `counted`; returns their part in the gradient."""
        e, b = self._e, self._e.builder
        score, hard = self._reweight(positive, negative)
        lead = b.fsub(score, reference)
        value = e.exp(b.fmul(self._smooth, lead))
        self._add(0, value, counted)
        if self._scalars:
            self._add(1, e.term(value, lead), counted)
            above = e.term(value, b.fadd(negative, e.splat(1.0)))
            self._add(2, b.select(hard, above, e.splat(0.0)), counted)
        return b.select(hard, b.fmul(self._reweight.t, value), value)

    def totals(self) -> list[Any]:
        return [self._e.builder.load(total) for total in self._sums]

    def _add(self, which: int, value: Any, counted: Any) -> None:
        e, total = self._e, self._sums[which]
        if counted is not None:
            value = e.builder.select(counted, value, e.splat(0.0))
        e.builder.store(e.builder.fadd(e.builder.load(total), value), total)


def _along(e: Emitter, size: Any, sizes: tuple[int, ...], body: Any) -> None:
    """Emits a walk along `size` elements, of which the last may come twice.

    `body` emits some vectors, given where they start and for each the lanes that come for the first
    time, None for all. Where the last vector does not fit, it starts before the first element that
    is left, and may even start before element 0.
    """
    builder = e.builder

    def whole(start: Any, count: int) -> None:
        for v in range(count):
            body(builder.add(start, e.index(v * e.lanes)), None)

    groups(e, size, sizes, whole)
    rest = builder.srem(size, e.index(e.lanes))
    with builder.if_then(builder.icmp_signed("!=", rest, e.index(0))):
        body(builder.sub(size, e.index(e.lanes)), e.last_lanes(rest))


def _values_of(e: Emitter, kind: Any, values: Any, group: Any) -> Any:
    """The matrix of one group."""
    offset = e.builder.mul(group, e.index(NUM_VALUES * e.lanes))
    return e.at(e.data(kind, values), offset)


def _tile_of(e: Emitter, kind: Any, tile: Any, group: Any) -> Any:
    offset = e.builder.mul(group, e.num_rows(kind, tile))
    return e.at(e.data(kind, tile), e.builder.mul(offset, e.index(e.lanes)))


@intrinsic
def largest_score(typingctx, negatives, start, size, positive, t, threshold, sign):
    """The largest of `sign` times each score of a row of `size` negatives, from `start` on.

    Not less than `sign * positive`, and NaN if that is; a NaN among the negatives is passed over.
    """

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, signature.args[0].dtype)
        negatives, start, size, positive, t, threshold, sign = args
        row = e.at(e.data(signature.args[0], negatives), start)
        positive, sign = e.splat(positive), e.splat(sign)
        reweight = _Reweighting(e, t, threshold)
        best = cgutils.alloca_once_value(builder, builder.fmul(sign, positive))

        def raise_best(at, _):
            score, _ = reweight(positive, e.load(e.at(row, at)))
            builder.store(e.larger(builder.fmul(sign, score), builder.load(best)), best)

        _along(e, size, _MAXIMUM_VECTORS, raise_best)
        return e.largest_lane(builder.load(best))

    scalar = negatives.dtype
    index = types.int64
    return scalar(negatives, index, index, scalar, scalar, scalar, scalar), codegen


@intrinsic
def exponentiate_row(
    typingctx, negatives, start, size, positive, reference, smooth, t, threshold, out, at, scalars
):
    """Exponentials of `size` negatives from `start` on, and sums of them.

    At least a vector's lanes of them lie before the end of their row. With c a negative and s its
    score, e = exp(smooth (s - reference)). Returns the sums of e and, with the literal True for
    `scalars`, of e (s - reference) and of e (c + 1) where c is hard. `out`, from `at` on, gets e,
    times t where c is hard.
    """
    if not isinstance(scalars, types.BooleanLiteral):
        return None
    scalar = negatives.dtype
    result = types.UniTuple(scalar, 3)

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, scalar)
        negatives, start, size, positive, reference, smooth, t, threshold, out, at, _ = args
        row = e.at(e.data(signature.args[0], negatives), start)
        out = e.at(e.data(signature.args[8], out), at)
        positive, reference = e.splat(positive), e.splat(reference)
        sums = _Sums(e, smooth, _Reweighting(e, t, threshold), scalars.literal_value)
        sums.clear()

        def add(place, counted):
            part = sums.take(positive, reference, e.load(e.at(row, place)), counted)
            e.store(part, e.at(out, place))

        _along(e, size, _SUM_VECTORS, add)
        totals = [e.lane(e.lane_sums([total]), 0) for total in sums.totals()]
        return context.make_tuple(builder, result, totals)

    index = types.int64
    signature = result(
        negatives, index, index, scalar, scalar, scalar, scalar, scalar, out, index, scalars
    )
    return signature, codegen


@intrinsic
def exponentiate_rows(
    typingctx, negatives, start, width, smooth, t, threshold, sign, values, tile, group, scalars
):
    """The same for as many rows of `width` negatives as a vector has lanes, from `start` on.

    Of `values[group]` POSITIVE is given; REFERENCE, NEGATIVES and, with the literal True for
    `scalars`, LEADS and HARDS are filled. `tile[group, k]` gets what `out` gets above, of the rows'
    negatives k.
    """
    if not isinstance(scalars, types.BooleanLiteral):
        return None
    scalar = negatives.dtype

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, scalar)
        negatives, start, width, smooth, t, threshold, sign, values, tile, group, _ = args
        rows = e.at(e.data(signature.args[0], negatives), start)
        values = _values_of(e, signature.args[7], values, group)
        tile = _tile_of(e, signature.args[8], tile, group)
        positive, sign = e.load(values), e.splat(sign)
        reweight = _Reweighting(e, t, threshold)
        best = cgutils.alloca_once_value(builder, builder.fmul(sign, positive))

        def raise_best(k):
            negative = e.gather(e.at(rows, k), width)
            score, _ = reweight(positive, negative)
            builder.store(e.larger(builder.fmul(sign, score), builder.load(best)), best)
            e.store(negative, e.at(tile, builder.mul(k, e.index(e.lanes))))

        loop(e, width, raise_best)
        reference = builder.fmul(sign, builder.load(best))
        sums = _Sums(e, smooth, reweight, scalars.literal_value)
        sums.clear()

        def add(k):
            place = e.at(tile, builder.mul(k, e.index(e.lanes)))
            e.store(sums.take(positive, reference, e.load(place)), place)

        loop(e, width, add)
        for row, vector in zip(
            (REFERENCE, NEGATIVES, LEADS, HARDS), (reference, *sums.totals()), strict=True
        ):
            e.store(vector, e.at(values, e.index(row * e.lanes)))
        return context.get_dummy_value()

    index = types.int64
    signature = types.void(
        negatives, index, index, scalar, scalar, scalar, scalar, values, tile, index, scalars
    )
    return signature, codegen


@intrinsic
def write_rows(typingctx, tile, values, group, out, start, width):
    """Undoes the layout of `exponentiate_rows`: `out[start:]` gets the rows, each times SCALE."""

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, signature.args[0].dtype)
        tile, values, group, out, start, width = args
        tile = _tile_of(e, signature.args[0], tile, group)
        values = _values_of(e, signature.args[1], values, group)
        scale = e.load(e.at(values, e.index(SCALE * e.lanes)))
        out = e.at(e.data(signature.args[3], out), start)

        def write(k):
            vector = e.load(e.at(tile, builder.mul(k, e.index(e.lanes))))
            e.scatter(builder.fmul(vector, scale), e.at(out, k), width)

        loop(e, width, write)
        return context.get_dummy_value()

    return types.void(tile, values, types.int64, out, types.int64, types.int64), codegen


@intrinsic
def finish_rows(typingctx, values, group, smooth):
    """Fills rows LOSS and INVERSE, 1 / the sum of all of a row's exponentials, of `values`."""

    def codegen(context, builder, signature, args):
        e = Emitter(context, builder, signature.args[0].dtype)
        values = _values_of(e, signature.args[0], args[0], args[1])
        smooth = e.splat(args[2])
        b = builder

        def place(row):
            return e.at(values, e.index(row * e.lanes))

        positive, reference, negatives = (
            e.load(place(row)) for row in (POSITIVE, REFERENCE, NEGATIVES)
        )
        behind = b.fmul(smooth, b.fsub(reference, positive))
        # 1, or the row has a negative of at least 1.
        own = e.exp(b.fsub(e.splat(0.0), behind))
        total = b.fadd(negatives, own)
        inverse = b.fdiv(e.splat(1.0), total)
        # The logarithm of the sum before it was rounded.
        lost = b.fsub(negatives, b.fsub(total, own))
        e.store(b.fadd(behind, e.multiply_add(lost, inverse, e.log(total))), place(LOSS))
        e.store(inverse, place(INVERSE))
        return context.get_dummy_value()

    return types.void(values, types.int64, values.dtype), codegen
