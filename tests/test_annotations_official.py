"""The official lists of UCF-101, HMDB-51 and Kinetics, with the traps that each release holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from flowprep.annotations import Source, read_source
from flowprep.errors import UsageError
from flowprep.types import Video

UCF = {
    "classInd.txt": "1 YoYo\r\n2 HandstandPushups\r\n",
    "trainlist01.txt": "YoYo/v_YoYo_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n",
    "testlist01.txt": "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n",
}
HMDB = {
    "wave_test_split1.txt": "a_wave.avi 1 \r\n#b_wave.avi 0 \r\n",
    "wave_test_split2.txt": "a_wave.avi 2 \r\n#b_wave.avi 0 \r\n",
}
KINETICS = {
    "k_train.csv": "label,youtube_id,time_start,time_end,split,is_cc\n"
    "massaging person's head,-A_bcdefgh1,5,15,train,0\nskiing (not slalom),__cdefghij2,0.0,10.0,train,0\n",
    "k_val.csv": 'label,youtube_id,time_start,time_end,split\n"air drumming",abcdefghij3,123456,123466,validate\n',
    "k_test.csv": "youtube_id,time_start,time_end\nabcdefghij4,1,11\n",
}


def touch(root: Path, *paths: str) -> Path:
    """Files of five bytes."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"12345")
    return root


def by_id(source: Source) -> dict[str, Video]:
    ids = [video.id for video in source.videos]
    assert ids == sorted(set(ids)), "ids are unique and sorted"
    return {video.id: video for video in source.videos}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def lists(tmp_path: Path, files: dict[str, str]) -> Path:
    """A folder with these list files."""
    folder = tmp_path / "lists"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return folder


def test_ucf101_official_lists(root: Path, data: Path) -> None:
    source = read_source(root, data / "splits/ucf101")
    assert source.layout == "ucf101" and len(by_id(source)) == 13_320
    assert len({video.label for video in source.videos}) == 101
    for split, (train, test) in enumerate([(9537, 3783), (9586, 3734), (9624, 3696)]):
        assert Counter(video.splits[split] for video in source.videos) == {"train": train, "test": test}
    assert {video.size for video in source.videos} == {-1} and not any(video.refused for video in source.videos)


def test_hmdb51_official_lists(root: Path, data: Path) -> None:
    source = read_source(root, data / "splits/hmdb51")
    assert source.layout == "hmdb51" and len(by_id(source)) == 6766
    assert len({video.label for video in source.videos}) == 51
    for split in range(3):
        per_class = Counter((video.label, video.splits[split]) for video in source.videos if video.splits[split])
        assert len(per_class) == 102
        assert all(count == {"train": 70, "test": 30}[part] for (_, part), count in per_class.items())
    assert any(video.id.startswith("clap/#") for video in source.videos), "names that begin with # are no comments"


@pytest.mark.parametrize("layout", ["ucf101", "hmdb51"])
def test_official_lists_read_the_same_with_either_line_end(root: Path, tmp_path: Path, data: Path, layout: str) -> None:
    original, changed = data / "splits" / layout, tmp_path / "crlf"
    changed.mkdir()
    for file in original.glob("*.txt"):
        text = "\r\n".join(line.rstrip() for line in file.read_text().splitlines())
        (changed / file.name).write_bytes(text.encode() + b" \r\n")
    assert read_source(root, changed) == read_source(root, original)


def test_real_clips_are_found_by_their_lists(data: Path) -> None:
    ucf = read_source(data / "ucf10/videos", data / "splits/ucf101")
    assert sum(video.size > 0 for video in ucf.videos) == 86
    assert ucf.ignored == ("Rowing/UCF-101_Rowing_g16_c03.avi",), "the lists do not name this one"
    hmdb = read_source(data / "hmdb51/videos", data / "splits/hmdb51")
    assert {video.label for video in hmdb.videos if video.size > 0} == {"wave"}


@pytest.mark.parametrize("folder", ["HandstandPushups/", "handstandpushups/", ""])
@pytest.mark.parametrize("name", ["v_HandStandPushups_g01_c01.avi", "v_HandstandPushups_g01_c01.avi"])
def test_ucf101_files_are_found_in_either_spelling_and_place(
    root: Path, tmp_path: Path, folder: str, name: str
) -> None:
    touch(root, folder + name, "readme.txt", "unlisted.avi")
    source = read_source(root, lists(tmp_path, UCF))
    assert by_id(source)[folder + name] == Video(folder + name, "HandstandPushups", ("test", "", ""), 5)
    assert len(source.videos) == 3
    assert source.ignored == ("readme.txt", "unlisted.avi")


def test_ucf101_exact_spelling_comes_first(root: Path, tmp_path: Path) -> None:
    touch(root, "YoYo/v_YoYo_g08_c01.avi", "YoYo/V_YOYO_G08_C01.avi", "v_YoYo_g08_c01.avi")
    source = read_source(root, lists(tmp_path, UCF))
    assert [video.id for video in source.videos if video.size == 5] == ["YoYo/v_YoYo_g08_c01.avi"]


def test_class_folder_on_another_disk_is_refused_not_missing(root: Path, tmp_path: Path) -> None:
    touch(tmp_path / "other", "v_YoYo_g08_c01.avi")
    (root / "YoYo").symlink_to(tmp_path / "other")
    found = by_id(read_source(root, lists(tmp_path, UCF)))
    assert "link leaves" in found["YoYo/v_YoYo_g08_c01.avi"].refused


@pytest.mark.parametrize("folder", ["wave/", ""])
def test_hmdb51_marks_and_places(root: Path, tmp_path: Path, folder: str) -> None:
    touch(root, f"{folder}a_wave.avi", f"{folder}#b_wave.avi")
    found = by_id(read_source(root, lists(tmp_path, HMDB)))
    assert found == {
        f"{folder}a_wave.avi": Video(f"{folder}a_wave.avi", "wave", ("train", "test", ""), 5),
        f"{folder}#b_wave.avi": Video(f"{folder}#b_wave.avi", "wave", ("", "", ""), 5),
    }


HEAD = "-A_bcdefgh1_000005_000015"


@pytest.mark.parametrize(
    "path",
    [
        f"massaging person's head/{HEAD}.mp4",
        f"massaging_person's_head/{HEAD}.mp4",
        f"massaging_persons_head/{HEAD}.webm",
        f"train/massaging_persons_head/{HEAD}.MKV",
        f"train/{HEAD}.mp4",
        f"train_256/part_0/{HEAD}.mp4",
        f"{HEAD}.mp4",
        "-A_bcdefgh1.mp4",
    ],
)
def test_kinetics_clips_are_found_wherever_downloaders_put_them(root: Path, tmp_path: Path, path: str) -> None:
    touch(root, path)
    found = by_id(read_source(root, lists(tmp_path, KINETICS)))
    label = "massaging person's head"
    assert found.pop(path) == Video(path, label, ("train", "", ""), 5)
    skiing, drumming = "skiing (not slalom)", "air drumming"
    assert found == {
        video.id: video
        for video in (
            Video(f"{skiing}/__cdefghij2_000000_000010.mp4", skiing, ("train", "", "")),
            Video(f"{drumming}/abcdefghij3_123456_123466.mp4", drumming, ("val", "", "")),
            Video("abcdefghij4_000001_000011.mp4", "", ("test", "", "")),
        )
    }


def test_kinetics_of_several_files_the_one_of_class_and_part(root: Path, tmp_path: Path) -> None:
    places = ["air_drumming", "train/air_drumming", "val/aaa_class", "val/air_drumming"]
    touch(root, *(f"{place}/abcdefghij3_123456_123466.{suffix}" for place in places for suffix in ("avi", "mp4")))
    source = read_source(root, lists(tmp_path, KINETICS))
    assert [video.id for video in source.videos if video.size == 5] == [
        "val/air_drumming/abcdefghij3_123456_123466.mp4"
    ]
    assert len(source.ignored) == 7


def test_kinetics_several_clips_of_one_id(root: Path, tmp_path: Path) -> None:
    touch(root, "abc.mp4", "abc_000010_000020.mp4")
    table = "label,youtube_id,time_start,time_end,split\nx,abc,10,20,train\nx,abc,30,40,train\ny,abc,10,20,train\n"
    found = by_id(read_source(root, lists(tmp_path, {"train.csv": table})))
    assert found["abc_000010_000020.mp4"].size == 5
    assert found["x/abc_000030_000040.mp4"].size == -1, "abc.mp4 does not say which of its clips it is"
    assert "line 2 names the same video" in found["abc_000010_000020.mp4 (2)"].refused


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({**UCF, "testlist01.txt": UCF["trainlist01.txt"]}, r"testlist01.txt, line 1: .*named before.*trainlist01.txt"),
        ({**UCF, "trainlist02.txt": ""}, "testlist02.txt is missing"),
        ({**UCF, "classInd.txt": "1 YoYo"}, r"trainlist01.txt, line 2: 'HandstandPushups' is not a class"),
        ({**UCF, "classInd.txt": "YoYo"}, "line 1: 'YoYo' is not a class's number and name"),
        ({**UCF, "trainlist01.txt": "", "testlist01.txt": ""}, "name no video"),
        ({**HMDB, "wave_test_split1.txt": "a.avi 3 \r\n"}, "line 1: 'a.avi 3' does not end in"),
        ({**HMDB, "run_test_split1.txt": "a_run.avi 1"}, "run_test_split2.txt is missing"),
        ({**HMDB, "wave_test_split1.txt": "a.avi 1\na.avi 2"}, "line 2: .*line 1"),
        ({"x.csv": "youtube_id,time_start,time_end\nabc,one,2\n"}, "line 2: time_start and time_end must be"),
        ({"x.csv": "youtube_id,time_start,time_end\nabc,inf,2\n"}, "line 2: time_start and time_end must be"),
        ({"x.csv": "youtube_id,time_start,time_end,split\nabc,1,2,odd\n"}, "line 2: 'odd' is not a part"),
        ({"readme.txt": "none"}, r"Looked for: classInd\.txt.*CLASS_test_split1\.txt.*youtube_id"),
        ({**UCF, **HMDB}, "several data sets.*ucf101, hmdb51"),
    ],
)
def test_official_list_errors_say_where(root: Path, tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_source(root, lists(tmp_path, files))
