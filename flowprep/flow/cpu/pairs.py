"""Two neighbours of an array, moved at once: half the loads and stores where four pixels around a position are read."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def copy_pair(typing: Any, source: types.Array, at: types.Integer, target: types.Array, to: types.Integer) -> Any:
    """target[to], target[to + 1] = source[at], source[at + 1], of contiguous rows of one type; nothing is checked."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        size = context.get_abi_sizeof(context.get_data_type(source.dtype))
        both = ir.IntType(16 * size).as_pointer()
        ends = []
        for kind, array, index in zip(signature.args[::2], arguments[::2], arguments[1::2], strict=True):
            data = context.make_array(kind)(context, b, array).data
            ends.append(b.bitcast(b.gep(data, [index]), both))
        b.store(b.load(ends[0], align=size), ends[1], align=size)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp), generate
