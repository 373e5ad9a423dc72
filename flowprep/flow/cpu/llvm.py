"""The vector type of simd.py for Numba, and LLVM's building blocks for functions that take it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import models, register_model


def native_lanes() -> int:
    """float32s in one register of this processor."""
    features = llvmlite.binding.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        return 16
    return 8 if features.get("avx") else 4


LANES = int(os.environ.get("FLOWPREP_LANES") or native_lanes())  # the variable is for tests
if LANES not in (4, 8, 16):
    raise ImportError(f"FLOWPREP_LANES={LANES}: vectors have 4, 8 or 16 lanes")

IS_X86 = platform.machine() in ("x86_64", "AMD64")

FLOAT, INT32 = ir.FloatType(), ir.IntType(32)
VECTOR = ir.VectorType(FLOAT, LANES)
MASK = ir.VectorType(ir.IntType(1), LANES)
# Signed zeros do not matter, x/y may be x*(1/y), a*b+c may be fused. NaN and the order of sums keep their meaning.
FAST = ("nsz", "arcp", "contract", "afn")


class VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


class MaskType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"bool1x{LANES}")


vector, mask = VectorType(), MaskType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, VECTOR)


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, MASK)


# Building blocks; ``b`` is the IRBuilder of the function being compiled.


def constant(values: Sequence[float]) -> ir.Constant:
    return ir.Constant(ir.VectorType(FLOAT, len(values)), list(values))


def shuffle(b: ir.IRBuilder, x: Any, y: Any, lanes: Sequence[int]) -> Any:
    """Lanes of ``x`` (numbered from 0) and of ``y`` (numbered on) in the order given."""
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(INT32, len(lanes)), list(lanes)))


def broadcast(b: ir.IRBuilder, number: Any, lanes: int = LANES) -> Any:
    """``number`` (any LLVM number type) in all lanes."""
    nothing = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    return shuffle(b, b.insert_element(nothing, number, INT32(0)), nothing, [0] * lanes)


def concatenated(b: ir.IRBuilder, vectors: list[Any]) -> Any:
    """One vector of all lanes; as many vectors as a power of two."""
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [shuffle(b, low, high, range(2 * low.type.count)) for low, high in pairs]
    return vectors[0]


def call(b: ir.IRBuilder, name: str, *arguments: Any) -> Any:
    """LLVM's intrinsic function ``name`` for vectors of the arguments' type."""
    kind = arguments[0].type
    function = ir.FunctionType(kind, [argument.type for argument in arguments])
    declared = b.module.globals.get(name) or ir.Function(b.module, function, name)
    return b.call(declared, arguments)


def address(b: ir.IRBuilder, context: Any, kind: types.Array, array: Any, offset: Any, target: Any) -> Any:
    """Pointer to a ``target`` at ``offset`` float32s into an array."""
    data = context.make_array(kind)(context, b, array).data
    return b.bitcast(b.gep(data, [offset]), ir.PointerType(target))
