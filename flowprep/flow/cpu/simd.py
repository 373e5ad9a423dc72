"""A vector of float32 for Numba, as wide as the processor's registers, with the operators of arithmetic.

Numba's loops are left scalar by LLVM (it cannot prove that arrays do not overlap), which costs a factor of five to ten.
Here a kernel says what it wants: ``store(row, x, load(row, x) + tau * divergence)`` moves LANES pixels at a time.

LANES is 16 with AVX-512, 8 with AVX, else 4 (SSE, NEON); the kernels are the same. On a processor without the registers
LLVM splits a vector, so every width computes everywhere: tests run 4, 8 and 16 on any machine (FLOWPREP_LANES).

Vectors take the operators + - * / and unary -, with another vector or with a number, and compare with < and >. A
product and the sum it goes into may be fused into one rounding where the processor can. Positions are offsets in
float32s from the start of a one-dimensional array; nothing checks them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, type_callable

from flowprep.flow.cpu.llvm import (
    FAST,
    INT32,
    IS_X86,
    LANES,
    VECTOR,
    MaskType,
    VectorType,
    address,
    broadcast,
    call,
    concatenated,
    constant,
    mask,
    native_lanes,
    shuffle,
    vector,
)

# Memory


def _loader(aligned: bool) -> Any:
    @intrinsic
    def load(typing: Any, array: types.Array, offset: types.Integer) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            array, offset = arguments
            pointer = address(b, context, signature.args[0], array, offset, VECTOR)
            return b.load(pointer, align=4 * LANES if aligned else 4)

        return vector(array, types.intp), generate

    return load


load = _loader(aligned=True)  # load(array, offset): LANES float32s; the address must be a multiple of 4 LANES bytes
load_anywhere = _loader(aligned=False)  # the same from any address


def _storer(aligned: bool) -> Any:
    @intrinsic
    def store(typing: Any, array: types.Array, offset: types.Integer, value: VectorType) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            array, offset, value = arguments
            pointer = address(b, context, signature.args[0], array, offset, VECTOR)
            b.store(value, pointer, align=4 * LANES if aligned else 4)
            return context.get_dummy_value()

        return types.void(array, types.intp, vector), generate

    return store


store = _storer(aligned=True)  # store(array, offset, value); the address must be a multiple of 4 LANES bytes
store_anywhere = _storer(aligned=False)  # the same to any address


# Numbers and lanes


@intrinsic
def splat(typing: Any, number: types.Number) -> Any:
    """A number in all lanes."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return broadcast(b, context.cast(b, arguments[0], signature.args[0], types.float32))

    return vector(number), generate


@intrinsic
def lane_numbers(typing: Any) -> Any:
    """0, 1, 2, ... LANES - 1."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return constant([float(i) for i in range(LANES)])

    return vector(), generate


def _shuffled(lanes: Callable[[int], Sequence[int]], doc: str) -> Any:
    @intrinsic
    def function(typing: Any, x: VectorType, y: VectorType) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            return shuffle(b, arguments[0], arguments[1], lanes(LANES))

        return vector(vector, vector), generate

    function.__doc__ = doc
    return function


left_neighbours = _shuffled(
    lambda n: range(n - 1, 2 * n - 1),
    "left_neighbours(previous, x): the values at x-1, for the vector x after previous.",
)
right_neighbours = _shuffled(lambda n: range(1, n + 1), "right_neighbours(x, next): the values at x+1.")
even_lanes = _shuffled(lambda n: range(0, 2 * n, 2), "even_lanes(x, y): lanes 0, 2, 4, ... of x, then of y.")
odd_lanes = _shuffled(lambda n: range(1, 2 * n, 2), "odd_lanes(x, y): lanes 1, 3, 5, ... of x, then of y.")
merged_low = _shuffled(
    lambda n: [i // 2 + n * (i % 2) for i in range(n)], "merged_low(x, y): x0 y0 x1 y1 ..., the first half of all."
)
merged_high = _shuffled(
    lambda n: [i // 2 + n * (i % 2) for i in range(n, 2 * n)], "merged_high(x, y): the second half of x0 y0 x1 y1 ..."
)


@intrinsic
def total(typing: Any, x: VectorType) -> Any:
    """The sum of all lanes, a float32; halves are added to each other until one is left."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        x, n = arguments[0], LANES
        while n > 1:
            n //= 2
            x = b.fadd(shuffle(b, x, x, range(n)), shuffle(b, x, x, range(n, 2 * n)))
        return b.extract_element(x, INT32(0))

    return types.float32(vector), generate


# Comparisons


@intrinsic
def where(typing: Any, condition: MaskType, x: VectorType, y: VectorType) -> Any:
    """Lane by lane ``x`` where the condition holds, else ``y``."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return b.select(*arguments)

    return vector(mask, vector, vector), generate


@intrinsic
def first_lanes(typing: Any, x: VectorType, count: types.Integer) -> Any:
    """``x`` with zeros from lane ``count`` on; everything for LANES or more."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        x, count = arguments
        numbers = ir.Constant(ir.VectorType(count.type, LANES), list(range(LANES)))
        return b.select(b.icmp_signed("<", numbers, broadcast(b, count)), x, constant([0.0] * LANES))

    return vector(vector, types.intp), generate


def _extreme(comparison: str) -> Any:
    @intrinsic
    def function(typing: Any, x: VectorType, y: VectorType) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            return b.select(b.fcmp_ordered(comparison, *arguments), *arguments)

        return vector(vector, vector), generate

    return function


minimum, maximum = (
    _extreme("<"),
    _extreme(">"),
)  # of two vectors, lane by lane; of a NaN and y it is y


# Roots and reciprocals


@intrinsic
def square_root(typing: Any, x: VectorType) -> Any:
    """Rounded correctly."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return call(b, f"llvm.sqrt.v{LANES}f32", arguments[0])

    return vector(vector), generate


@intrinsic
def floor(typing: Any, x: VectorType) -> Any:
    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return call(b, f"llvm.floor.v{LANES}f32", arguments[0])

    return vector(vector), generate


@intrinsic
def inverse_root(typing: Any, x: VectorType) -> Any:
    """1/sqrt(x) for x > 0, to a relative error of 4e-4: what the processor estimates (better with AVX-512)."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        x = arguments[0]
        y = _estimate(b, x, "rsqrt")
        if not IS_X86:  # NEON's estimate has 8 bits
            half_x = b.fmul(x, constant([0.5] * LANES), flags=FAST)
            change = b.fmul(half_x, b.fmul(y, y, flags=FAST), flags=FAST)
            y = b.fmul(y, b.fsub(constant([1.5] * LANES), change, flags=FAST), flags=FAST)
        return y

    return vector(vector), generate


@intrinsic
def inverse(typing: Any, x: VectorType) -> Any:
    """1/x to a relative error of 3e-7: an estimate, refined by Newton's method (cheaper than a division)."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        x = arguments[0]
        y = _estimate(b, x, "rcp")
        for _ in range(1 if IS_X86 else 2):
            y = b.fmul(y, b.fsub(constant([2.0] * LANES), b.fmul(x, y, flags=FAST), flags=FAST), flags=FAST)
        return y

    return vector(vector), generate


def _estimate(b: ir.IRBuilder, x: Any, what: str) -> Any:
    """The processor's quick 1/sqrt(x) ("rsqrt") or 1/x ("rcp"); it takes registers, so ``x`` goes there in pieces."""
    width = min(native_lanes(), LANES)
    pieces = [shuffle(b, x, x, range(start, start + width)) for start in range(0, LANES, width)]
    if not IS_X86:
        name = {"rsqrt": "llvm.aarch64.neon.frsqrte.v4f32", "rcp": "llvm.aarch64.neon.frecpe.v4f32"}[what]
        pieces = [call(b, name, piece) for piece in pieces]
    elif width == 16:
        every_lane = ir.Constant(ir.IntType(16), 2**16 - 1)
        name = f"llvm.x86.avx512.{what}14.ps.512"
        pieces = [call(b, name, piece, constant([0.0] * 16), every_lane) for piece in pieces]
    else:
        name = f"llvm.x86.avx.{what}.ps.256" if width == 8 else f"llvm.x86.sse.{what}.ps"
        pieces = [call(b, name, piece) for piece in pieces]
    return concatenated(b, pieces)


# Operators


def _operator(symbol: Any, result: types.Type, generate: Callable[[ir.IRBuilder, Any, Any], Any]) -> None:
    """Let ``symbol`` take two vectors, or a vector and a number, which goes to all lanes."""

    @type_callable(symbol)
    def typer(context: Any) -> Any:
        def result_of(x: types.Type, y: types.Type) -> types.Type | None:
            kinds = (x, y)
            fitting = vector in kinds and all(kind is vector or isinstance(kind, types.Number) for kind in kinds)
            return result if fitting else None

        return result_of

    def lower(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        operands = [
            value if kind is vector else broadcast(b, context.cast(b, value, kind, types.float32))
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        return generate(b, *operands)

    for kinds in ((vector, vector), (vector, types.Number), (types.Number, vector)):
        lower_builtin(symbol, *kinds)(lower)


_operator(operator.add, vector, lambda b, x, y: b.fadd(x, y, flags=FAST))
_operator(operator.sub, vector, lambda b, x, y: b.fsub(x, y, flags=FAST))
_operator(operator.mul, vector, lambda b, x, y: b.fmul(x, y, flags=FAST))
_operator(operator.truediv, vector, lambda b, x, y: b.fdiv(x, y, flags=FAST))
_operator(operator.lt, mask, lambda b, x, y: b.fcmp_ordered("<", x, y))
_operator(operator.gt, mask, lambda b, x, y: b.fcmp_ordered(">", x, y))


@type_callable(operator.neg)
def _type_of_negative(context: Any) -> Any:
    return lambda x: vector if x is vector else None


@lower_builtin(operator.neg, vector)
def _negative(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
    return b.fneg(arguments[0], flags=FAST)
