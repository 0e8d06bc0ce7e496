# mypy: allow-untyped-defs, allow-untyped-calls
"""What threads inside compiled code need to share work."""

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
