"""The .flo and KITTI formats: bytes as specified, values back, damaged files refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from flowprep.errors import RefusedError, StoreError, UsageError
from flowprep.flow.files import read_flo, read_kitti, write_flo, write_kitti

sizes = array_shapes(min_dims=2, max_dims=2, max_side=7).map(lambda shape: (2, *shape))
in_folder = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def png(pixels: list[list[tuple[int, int, int]]], bits: int = 16, size: tuple[int, int] | None = None) -> bytes:
    """A PNG file made by hand, so that the reader is not tested with its own writer."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    width, height = size or (len(pixels[0]), len(pixels))
    code = ">3H" if bits == 16 else ">3B"
    rows = b"".join(b"\0" + b"".join(struct.pack(code, *pixel) for pixel in row) for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_flo_bytes_are_those_of_the_specification(tmp_path: Path) -> None:
    flow = np.array([[[1, 2, 3]], [[-1, -2, -3]]], np.float32)  # u above v; one row of three pixels
    write_flo(tmp_path / "a.flo", flow)
    expected = b"PIEH" + struct.pack("<ii6f", 3, 1, 1, -1, 2, -2, 3, -3)
    assert (tmp_path / "a.flo").read_bytes() == expected


@in_folder
@given(flow=sizes.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(width=32))))
def test_flo_gives_back_every_float(tmp_path: Path, flow: np.ndarray) -> None:
    write_flo(tmp_path / "a.flo", flow)
    back = read_flo(tmp_path / "a.flo")
    assert back.dtype == np.float32 and back.flags.c_contiguous and back.flags.writeable
    np.testing.assert_array_equal(back, flow)


def test_flo_of_the_benchmark_is_read(data: Path) -> None:
    flow = read_flo(data / "middlebury" / "RubberWhale" / "flow10.flo")
    assert flow.shape == (2, 388, 584)
    unknown = np.abs(flow) > 1e9
    assert 0 < unknown.mean() < 0.05 and np.abs(flow[~unknown]).max() < 10


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "too short"),
        (b"PIEH\1\0", "too short"),
        (b"RIFF" + bytes(20), "not a .flo"),
        (b"PIEH" + struct.pack("<ii", 0, 5), "0x5"),
        (b"PIEH" + struct.pack("<ii", -3, 5), "-3x5"),
        (b"PIEH" + struct.pack("<ii", 2**31 - 1, 2**31 - 1), "2147483647x2147483647"),
        (b"PIEH" + struct.pack("<ii", 99_999, 99_999), "truncated"),  # 80 GB: must not be allocated
        (b"PIEH" + struct.pack("<ii", 2, 1) + bytes(15), "truncated"),
        (b"PIEH" + struct.pack("<ii", 2, 1) + bytes(17), "damaged"),
    ],
)
def test_a_malformed_flo_is_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "broken.flo"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="broken.flo") as caught:
        read_flo(path)
    assert says in str(caught.value)


def test_kitti_is_read_as_the_development_kit_defines_it(tmp_path: Path) -> None:
    row = [(32768, 32768, 1), (32768 + 64, 32768 - 128, 1), (0, 0, 0), (0, 65535, 1)]
    (tmp_path / "a.png").write_bytes(png([row]))
    flow, valid = read_kitti(tmp_path / "a.png")
    assert flow.dtype == np.float32 and flow.shape == (2, 1, 4)
    assert valid.tolist() == [[True, True, False, True]]
    np.testing.assert_array_equal(flow[0], [[0, 1, np.nan, -512]])
    np.testing.assert_array_equal(flow[1], [[0, -2, np.nan, 511.984375]])


@in_folder
@given(flow=sizes.flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(-512, 511, width=32))))
def test_kitti_gives_back_values_within_half_a_step(tmp_path: Path, flow: np.ndarray) -> None:
    write_kitti(tmp_path / "a.png", flow)
    back, valid = read_kitti(tmp_path / "a.png")
    assert valid.all()
    assert np.abs(back - flow).max() <= 1 / 128


def test_kitti_leaves_out_what_is_unknown_or_not_valid(tmp_path: Path) -> None:
    flow = np.array([[[1, np.nan, 3]], [[1, 2, 1.7e9]]], np.float32)
    write_kitti(tmp_path / "a.png", flow)
    assert read_kitti(tmp_path / "a.png")[1].tolist() == [[True, False, False]]
    write_kitti(tmp_path / "a.png", np.full((2, 1, 3), 5.0), valid=np.array([[0, 1, 0]]))
    back, valid = read_kitti(tmp_path / "a.png")
    assert valid.tolist() == [[False, True, False]]
    assert back[:, 0, 1].tolist() == [5, 5] and np.isnan(back[:, ~valid]).all()


def test_kitti_refuses_flow_that_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"a\.png.*\.flo"):
        write_kitti(tmp_path / "a.png", np.full((2, 1, 3), 512.0))
    with pytest.raises(RefusedError):  # a caller's mask may name a pixel valid that is not
        write_kitti(tmp_path / "a.png", np.full((2, 1, 3), np.nan), valid=np.ones((1, 3)))
    assert not (tmp_path / "a.png").exists()


WHOLE = png([[(1, 2, 1)] * 9] * 9)
DAMAGED = bytearray(WHOLE)
DAMAGED[48] ^= 0xFF


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a PNG"),
        (WHOLE[:20], "not a PNG"),
        (b"P6 4 4 255 " + bytes(48), "not a PNG"),
        (png([[(1, 2, 3)]], bits=8), "16 bits"),
        (png([[(1, 2, 1)]], size=(100_000, 100_000)), "100000x100000"),
        (WHOLE[:-14], "truncated"),
        (bytes(DAMAGED), "damaged"),
    ],
)
def test_a_malformed_kitti_file_is_refused_by_name(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="broken.png") as caught:
        read_kitti(path)
    assert says in str(caught.value)


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    for read in (read_flo, read_kitti):
        with pytest.raises(UsageError, match="nowhere"):
            read(tmp_path / "nowhere")
    for write in (write_flo, write_kitti):
        with pytest.raises(StoreError, match="nowhere"):
            write(tmp_path / "nowhere" / "a", np.zeros((2, 4, 4)))


def test_only_one_field_fits_in_a_file(tmp_path: Path) -> None:
    for shape in ((4, 4), (3, 4, 4), (1, 2, 4, 4), (2, 0, 4)):
        for write in (write_flo, write_kitti):
            with pytest.raises(ValueError, match="expected flow of shape"):
                write(tmp_path / "a", np.zeros(shape))
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(2, 4, 4\)"):
        write_kitti(tmp_path / "a", np.zeros((2, 4, 4)), valid=np.ones((3, 3)))
