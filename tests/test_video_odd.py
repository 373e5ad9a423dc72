"""A hundred odd, old and broken files, each with the verdict that it deserves, and the counts of real data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from flowprep.config import StorageConfig
from flowprep.errors import Verdict, VideoError
from flowprep.video import probe
from tests.clips import Reading

# Verdict, decoded frames, width x height (of what got as far as a whole first frame), name below the folder above it.
#
# The smallest valid file of each type has no frame in it, or one of a few pixels. A still picture in a container of
# videos (AVIF) is a video of one frame. Encrypted streams here are headers alone. The headers of the HMDB-51 clips
# count one frame more than there is.
TABLE = """
odd-videos/minimal
    undecodable       0  -         AudioVideoInterleave.avi
    undecodable       0  -         FlashVideo.flv
    no_video          0  -         Mpeg4.mp4
    undecodable       0  -         WindowsMediaVideo.wmv
    no_video          0  -         mp4-with-audio.mp4
    too_small         0  -         webm.webm
    undecodable       0  -         zero-bytes.mp4
odd-videos/moviepy
    too_small         0  -         -video-with-dash-.mp4
    ok               24  1280x720  big_buck_bunny_432_433.webm
    too_small         0  -         bitmap.mp4
    ok               74  1280x720  no_duration.webm
    ok              150  200x200   transparent.webm
    ok              280  640x360   video_with_failing_audio.mp4
odd-videos/decord
    corrupt_frames   49  1280x720  corrupted.mp4
    ok                4  50x50     unordered.mov
    ok                3  568x320   video_0.mov
    ok                3  568x320   video_180.mov
    ok                3  320x568   video_270.mov
    ok                3  320x568   video_90.mov
odd-videos/opencv
    ok              125  672x384   big_buck_bunny.mpg
    ok               30  176x144   cinepak.avi
    ok               30  176x144   divx.avi
    ok               30  176x144   huffyuv.avi
    ok               30  176x144   indeo.avi
    ok               30  176x144   mpeg4.mp4
    too_short         1  176x144   qcif_RGBA.avi
    too_short         1  176x144   qcif_Y8.avi
    too_short         1  176x144   qcif_YUY2.avi
    too_short         1  176x144   qcif_YVU9.avi
    ok               60  190x240   sample_sorenson.mov
    ok               30  176x144   wmv9.avi
odd-videos/mp4parse/mp4parse/tests
    too_small         0  -         1x1-black-alpha-50pct-premultiplied.avif
    too_short         1  640x480   alpha_video_avif_major_avis_compatible.avif
    too_short         1  640x480   alpha_video_fixed.avif
    too_short         1  640x480   alpha_video_no_avis.avif
    no_video          0  -         amr_nb_1f.3gp
    no_video          0  -         amr_wb_1f.3gp
    too_short         1  100x100   av1C-missing-essential.avif
    ok                2  100x100   avis_with_no_ptim_no_iloc.avif
    ok                2  100x100   avis_with_pitm_no_iloc.avif
    too_short         1  100x100   bad-ipma-flags.avif
    too_short         1  100x100   bad-ipma-version.avif
    too_short         1  176x144   bbb_sunflower_QCIF_30fps_h263_noaudio_1f.3gp
    too_short         1  176x144   bbb_sunflower_QCIF_30fps_mp4v_noaudio_1f.mp4
    no_video          0  -         bipbop-cenc-audioinit.mp4
    undecodable       0  -         bipbop_480wp_1001kbps-cenc-video-key1-init.mp4
    no_video          0  -         bipbop_cbcs_audio_init.mp4
    undecodable       0  -         bipbop_cbcs_video_init.mp4
    too_small         0  -         clap-basic-1_3x3-to-1x1.avif
    too_small         0  -         clap-missing-essential.avif
    too_short         1  640x480   corrupt/alpha_video_moov_is_moop.avif
    no_video          0  -         corrupt/bug-1655846.avif
    undecodable       0  -         corrupt/bug-1661347.avif
    undecodable       0  -         corrupt/clusterfuzz-testcase-minimized-avif-4914209301856256.avif
    undecodable       0  -         corrupt/hdlr-not-first.avif
    too_short         1  100x100   corrupt/hdlr-not-pict.avif
    undecodable       0  -         corrupt/imir-before-clap.avif
    too_small         0  -         corrupt/invalid-avif-colr-multiple-nclx.avif
    too_small         0  -         corrupt/invalid-avif-colr-multiple-prof.avif
    too_small         0  -         corrupt/invalid-avif-colr-multiple-rICC.avif
    undecodable       0  -         corrupt/invalid-transformation-order.avif
    too_short         1  2048x2048 corrupt/ipma-duplicate-item_id.avif
    too_short         1  2048x2048 corrupt/ipma-duplicate-version-and-flags.avif
    undecodable       0  -         corrupt/ipma-invalid-property-index.avif
    too_small         0  -         corrupt/no-alpha-av1C.avif
    too_small         0  -         corrupt/no-alpha-ispe.avif
    too_small         0  -         corrupt/no-av1C.avif
    too_small         0  -         corrupt/no-ftyp.avif
    undecodable       0  -         corrupt/no-hdlr.avif
    too_small         0  -         corrupt/no-ispe.avif
    too_small         0  -         corrupt/no-pitm.avif
    too_short         1  100x100   corrupt/no-pixi-for-alpha.avif
    too_short         1  100x100   corrupt/no-pixi.avif
    undecodable       0  -         corrupt/transformation-before-ispe.avif
    too_short         1  640x480   h264_white_frame_sar_16_9.mp4
    too_small         0  -         hdlr-nonzero-reserved.avif
    too_short         1  640x480   hevc_white_frame.mp4
    undecodable       0  -         imir-missing-essential.avif
    too_small         0  -         invalid-avif-hdlr-name-multiple-nul.avif
    undecodable       0  -         invalid_userdata.mp4
    undecodable       0  -         irot-missing-essential.avif
    too_short         1  128x128   loop_forever.avif
    too_short         1  128x128   loop_none.avif
    too_small         0  -         lsel-layer-id-ffff.avif
    too_short         1  320x240   metadata.mp4
    too_short         1  320x240   metadata_gnre.mp4
    too_short         1  320x240   minimal.mp4
    undecodable       0  -         multiple-extents.avif
    too_short         1  100x100   no-mif1.avif
    no_video          0  -         sine-3s-xhe-aac-44khz-mono.mp4
    undecodable       0  -         test_case_1185230.mp4
    too_short         1  64x64     tiny_av1.mp4
    too_small         0  -         unknown_mdat.avif
    undecodable       0  -         unknown_mdat_in_oversized_meta.avif
    too_small         0  -         valid-alpha.avif
    too_small         0  -         valid-avif-colr-nclx-and-prof-and-rICC.avif
    too_small         0  -         valid-avif-colr-nclx-and-prof.avif
    too_small         0  -         valid-avif-colr-nclx-and-rICC.avif
    too_small         0  -         valid-avif-colr-nclx.avif
    too_small         0  -         valid-avif-colr-prof-and-rICC.avif
    too_small         0  -         valid-avif-colr-prof.avif
    too_small         0  -         valid-avif-colr-rICC.avif
    too_small         0  -         valid.avif
    too_short         1  32x32     valid_with_garbage_byte.avif
    too_short         1  32x32     valid_with_garbage_overread.avif
    too_small         0  -         video_colr_nclx_and_icc.mp4
    too_small         0  -         video_colr_nclx_two_colr.mp4
    undecodable       0  -         wide_box_size_0.avif
hmdb51/videos
    ok               72  560x240   RATRACE_wave_f_nm_np1_fr_goo_37.avi
    ok               74  320x240   SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi
    ok               48  432x240   TrumanShow_wave_f_nm_np1_fr_med_26.avi
    ok               83  320x240   hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi
kinetics-like
    ok              303  340x256   R6llTwEh07w.mp4
    ok              332  340x256   SOX5yA1l24A.mp4
    ok              327  340x256   WUzgd7C1pWA.mp4
"""


class Row(NamedTuple):
    """One line of the table."""

    verdict: str
    frames: int
    size: str
    path: str


def rows() -> Iterator[Row]:
    folder = ""
    for line in TABLE.strip().splitlines():
        if line.startswith(" "):
            verdict, frames, size, name = line.split(maxsplit=3)
            yield Row(verdict, int(frames), size, f"{folder}/{name}")
        else:
            folder = line


def test_the_table_has_every_file(data):
    listed = [row.path for row in rows()]
    found = [
        path.relative_to(data).as_posix()
        for folder in ("odd-videos", "hmdb51/videos", "kinetics-like")
        for path in (data / folder).rglob("*")
        if path.is_file()
    ]
    assert sorted(listed) == sorted(found)


def probed(path: Path) -> str:
    """Width and height that the header and the first frame give, or the verdict that stood in the way."""
    try:
        found = probe(path)
    except VideoError as error:
        return error.verdict
    return f"{found.width}x{found.height}"


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.path)
def test_odd_videos(data, row):
    found = Reading(data / row.path, storage=StorageConfig(rgb=False))
    assert found.verdict == row.verdict, found
    assert found.report.frames_decoded == row.frames
    if row.size != "-":
        assert probed(data / row.path) == f"{found.report.width}x{found.report.height}" == row.size
    if found.verdict is Verdict.OK:
        assert len(found.grey) == row.frames and not found.reason
    else:
        assert found.reason
        assert "x" in probed(data / row.path) or probed(data / row.path) == row.verdict


def ucf(data: Path) -> list[tuple[Path, int]]:
    """Every UCF-101 clip with the number of frames that the manifest has counted."""
    lines = (data / "ucf10/manifest.tsv").read_text().splitlines()
    columns = lines[0].split("\t")
    values = [dict(zip(columns, line.split("\t"), strict=True)) for line in lines[1:]]
    return [(data / "ucf10/videos" / row["path"], int(row["frames"])) for row in values]


@pytest.mark.parametrize("number", range(0, 80, 8))
def test_ucf101_sample(data, number):
    path, frames = ucf(data)[number]
    found = Reading(path)
    assert found.verdict is Verdict.OK, found
    assert found.report.frames_decoded == len(found.grey) == frames
    assert found.grey.shape[1:] == (240, 320)


@pytest.mark.system
def test_ucf101_whole(data):
    clips = ucf(data)
    assert len(clips) == 87
    for path, frames in clips:
        found = Reading(path)
        assert found.verdict is Verdict.OK and found.report.frames_decoded == frames, (path, found)
    for path in (data / "ucf10/extra").iterdir():
        assert Reading(path).verdict is Verdict.OK
