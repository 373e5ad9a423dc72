"""Values between pixels: images with their derivatives beside them, sampled at LANES positions at once.

A sampled image holds C channels of a pixel side by side (grey level, derivatives, zeros up to C = 4 or 8), with a
border of BORDER pixels around it. So the T x T pixels around a position are T loads of T C float32s, one each row:

    sum over rows of weight_y[k] * row k          T C lanes: (pixel 0: channels) (pixel 1: channels) ...
    times weight_x[j] in the lanes of pixel j,
    and the T groups of C lanes added up          C lanes: the sampled channels of one position

and the C channels of LANES positions are transposed into C vectors.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flowprep.flow.cpu.compiling import inline
from flowprep.flow.cpu.llvm import FAST, FLOAT, INT32, LANES, VectorType, broadcast, concatenated, shuffle, vector
from flowprep.flow.cpu.simd import maximum, minimum, splat

BORDER = 4  # pixels around a sampled image


def _sampler(taps: int, channels: int, wanted: int) -> Any:
    """sample(image, row, x, y, wx, wy) -> ``wanted`` vectors of channels.

    x, y: vectors of whole numbers, the first of the ``taps`` x ``taps`` pixels in the bordered image; wx, wy: tuples of
    ``taps`` vectors of weights; row: float32s from one row of ``image`` to the next.
    """
    weights = types.UniTuple(vector, taps)
    result = types.UniTuple(vector, wanted)

    @intrinsic
    def sample(
        typing: Any, image: types.Array, row: types.Integer, x: VectorType, y: VectorType, wx: Any, wy: Any
    ) -> Any:
        def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            image, row, x, y, wx, wy = arguments
            wx = [b.extract_value(wx, i) for i in range(taps)]
            wy = [b.extract_value(wy, i) for i in range(taps)]
            data = context.make_array(signature.args[0])(context, b, image).data
            x, y = (b.fptosi(v, ir.VectorType(INT32, LANES)) for v in (x, y))
            lines = broadcast(b, b.trunc(row, INT32))
            starts = b.add(b.mul(y, lines), b.mul(x, ir.Constant(ir.VectorType(INT32, LANES), [channels] * LANES)))
            line = ir.VectorType(FLOAT, taps * channels)
            positions = []
            for lane in range(LANES):
                at = b.sext(b.extract_element(starts, INT32(lane)), ir.IntType(64))
                value = None
                for k in range(taps):
                    pointer = b.bitcast(b.gep(data, [at]), ir.PointerType(line))
                    pixels = b.load(pointer, align=16)
                    weight = shuffle(b, wy[k], wy[k], [lane] * (taps * channels))
                    term = b.fmul(pixels, weight, flags=FAST)
                    value = term if value is None else b.fadd(value, term, flags=FAST)
                    at = b.add(at, row)
                pairs = [
                    shuffle(b, wx[j], wx[j + 1], [lane] * channels + [LANES + lane] * channels)
                    for j in range(0, taps, 2)
                ]
                value = b.fmul(value, concatenated(b, pairs), flags=FAST)
                size = taps * channels
                while size > channels:
                    size //= 2
                    value = b.fadd(
                        shuffle(b, value, value, range(size)),
                        shuffle(b, value, value, range(size, 2 * size)),
                        flags=FAST,
                    )
                positions.append(value)
            return context.make_tuple(b, result, _transposed(b, positions, channels)[:wanted])

        return result(image, types.intp, vector, vector, weights, weights), generate

    return sample


def _transposed(b: ir.IRBuilder, positions: list[Any], channels: int) -> list[Any]:
    """``channels`` vectors of LANES values from LANES vectors of ``channels`` values.

    Four channels at a time, by the transposition of 4 x 4 blocks that registers of 128 bits have instructions for; a
    wider vector holds several such blocks, of the positions i, i + 4, i + 8, ...
    """

    def by_fours(pattern: list[int]) -> list[int]:
        """A pattern of two blocks' lanes (0 to 3 and 4 to 7), for all blocks of a vector."""
        return [lane % 4 + LANES * (lane // 4) + 4 * block for block in range(LANES // 4) for lane in pattern]

    result = []
    for first in range(0, channels, 4):
        fours = [shuffle(b, value, value, range(first, first + 4)) for value in positions]
        p, q, r, s = (concatenated(b, fours[i::4]) for i in range(4))
        low_pq, high_pq = shuffle(b, p, q, by_fours([0, 4, 1, 5])), shuffle(b, p, q, by_fours([2, 6, 3, 7]))
        low_rs, high_rs = shuffle(b, r, s, by_fours([0, 4, 1, 5])), shuffle(b, r, s, by_fours([2, 6, 3, 7]))
        for x, y in ((low_pq, low_rs), (high_pq, high_rs)):
            result += [shuffle(b, x, y, by_fours([0, 1, 4, 5])), shuffle(b, x, y, by_fours([2, 3, 6, 7]))]
    return result


cubic_4 = _sampler(taps=4, channels=4, wanted=3)
bilinear_8 = _sampler(taps=2, channels=8, wanted=6)
cubic_8 = _sampler(taps=4, channels=8, wanted=6)


@inline
def cubic_weights(t, a):
    """Weights of the pixels at -1, 0, 1, 2 for a position ``t`` in [0, 1), by cubic convolution (Keys 1981)."""
    s = 1.0 - t
    before = a * t * (s * s)
    after = a * s * (t * t)
    here = ((a + 2.0) * t - (a + 3.0)) * (t * t) + 1.0
    return before, here, 1.0 - before - here - after, after


@inline
def first_pixel(base, size, taps):
    """Where the ``taps`` pixels around floor(position) = ``base`` begin, counted in the bordered image.

    Positions far outside get pixels of the border alone.
    """
    first = base + (BORDER + 1.0 - taps / 2)
    return maximum(minimum(first, splat(size + 2 * BORDER - taps)), splat(0))
