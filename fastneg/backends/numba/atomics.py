# mypy: allow-untyped-defs, allow-untyped-calls
"""What threads inside compiled code need to share work and to compute alike."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def fetch_add(typingctx, array, index, value):
    """Adds to one element of an int64 array as one indivisible step; returns what was there."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.gep(data, [args[1]])
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


@intrinsic
def flush_denormals(typingctx):
    """Makes subnormals count as 0 in this thread; returns what `set_float_mode` takes to undo it.

    TensorFlow's threads flush subnormals and others do not: without it a result would depend on
    which thread computed it.
    """

    def codegen(context, builder, signature, args):
        if "x86" not in builder.module.triple:
            return ir.Constant(ir.IntType(32), 0)
        slot = cgutils.alloca_once(builder, ir.IntType(32))
        _call_with_slot(builder, "llvm.x86.sse.stmxcsr", slot)
        saved = builder.load(slot)
        # Results (bit 15) and operands (bit 6).
        builder.store(builder.or_(saved, ir.Constant(ir.IntType(32), 0x8040)), slot)
        _call_with_slot(builder, "llvm.x86.sse.ldmxcsr", slot)
        return saved

    return types.int32(), codegen


@intrinsic
def set_float_mode(typingctx, mode):
    """Takes back what `flush_denormals` did."""

    def codegen(context, builder, signature, args):
        if "x86" in builder.module.triple:
            slot = cgutils.alloca_once(builder, ir.IntType(32))
            builder.store(args[0], slot)
            _call_with_slot(builder, "llvm.x86.sse.ldmxcsr", slot)
        return context.get_dummy_value()

    return types.void(types.int32), codegen


def _call_with_slot(builder, name, slot):
    pointer = ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [pointer]), name
    )
    builder.call(function, [builder.bitcast(slot, pointer)])
