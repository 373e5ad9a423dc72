"""From rows to columns and from planes to pixels: copies that put float32s into another order."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flowprep.flow.cpu.llvm import LANES, VECTOR, address, shuffle, vector


@intrinsic
def transpose(
    typing: Any,
    source: types.Array,
    first: types.Integer,
    row: types.Integer,
    target: types.Array,
    to: types.Integer,
    target_row: types.Integer,
) -> Any:
    """Copy LANES x LANES float32s and transpose them: row i, at first + i * row, becomes column i of what lies at
    ``to``."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, first, row, target, to, target_row = arguments
        rows = []
        for _ in range(LANES):
            rows.append(b.load(address(b, context, signature.args[0], source, first, VECTOR), align=4))
            first = b.add(first, row)
        # Interleaving the first half of the rows with the second moves each element one binary digit closer.
        low = [i // 2 + LANES * (i % 2) for i in range(LANES)]
        high = [i // 2 + LANES * (i % 2) for i in range(LANES, 2 * LANES)]
        for _ in range(LANES.bit_length() - 1):
            pairs = list(zip(rows[: LANES // 2], rows[LANES // 2 :], strict=True))
            rows = [shuffle(b, x, y, lanes) for x, y in pairs for lanes in (low, high)]
        for value in rows:
            b.store(value, address(b, context, signature.args[3], target, to, VECTOR), align=4)
            to = b.add(to, target_row)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), generate


def _pixel_storer(channels: int) -> Any:
    @intrinsic
    def store_pixels(typing: Any, image: types.Array, offset: types.Integer, values: Any) -> Any:
        """LANES pixels of ``channels`` channels each, from one vector a channel."""

        def generate(context: Any, b: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            image, offset, values = arguments
            joined = [b.extract_value(values, i) for i in range(channels)]
            # Merging the first half of the vectors with the second, again and again, puts channels in their order.
            while len(joined) > 1:
                half, n = len(joined) // 2, joined[0].type.count
                lanes = [lane for i in range(n) for lane in (i, n + i)]
                joined = [shuffle(b, joined[i], joined[i + half], lanes) for i in range(half)]
            for k in range(channels):
                part = shuffle(b, joined[0], joined[0], range(k * LANES, (k + 1) * LANES))
                pointer = address(
                    b, context, signature.args[0], image, b.add(offset, ir.IntType(64)(k * LANES)), VECTOR
                )
                b.store(part, pointer, align=4)
            return context.get_dummy_value()

        return types.void(image, types.intp, types.UniTuple(vector, channels)), generate

    return store_pixels


store_pixels_4, store_pixels_8 = _pixel_storer(4), _pixel_storer(8)
