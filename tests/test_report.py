"""A report: its numbers are those of the scores, on the page and in the JSON file; what is missing is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from flowprep.cli.report import command
from flowprep.errors import RefusedError, StoreError, UsageError
from flowprep.train.report.names import shown
from flowprep.train.report.tables import wilson
from flowprep.train.scores import Scores
from tests.report_data import CLASSES, HOSTILE, made, numbers_of, read, report, written

# --- numbers ---


def test_the_page_shows_the_numbers_of_the_json_file(tmp_path: Path) -> None:
    streams = [made(name, split=split, seed=split) for name in ("spatial", "temporal") for split in (1, 2)]
    tree = written(tmp_path, [*streams, made("fused, average", split=1, frames=0, crops=0)])
    expected = numbers_of(tree)
    assert all(expected[section] for section in ("accuracy", "recall", "hardest"))
    assert read(tmp_path / "report.html").numbers == expected


def test_numbers_by_their_definitions(tmp_path: Path) -> None:
    first, second = made("spatial", split=1, seed=1), made("spatial", split=2, seed=2, right=0.9)
    (row,) = (tree := written(tmp_path, [first, second]))["rows"]
    pairs = [
        (int(label), int(np.argmax(scores)))
        for item in (first, second)
        for label, scores in zip(item.labels, item.scores, strict=True)
    ]
    for item, measured in zip((pairs[:40], pairs[40:]), row["splits"], strict=True):
        assert measured["right"] == sum(true == taken for true, taken in item)
        assert measured["accuracy"] == measured["right"] / 40
        assert (measured["low"], measured["high"]) == wilson(measured["right"], 40)
    assert row["accuracy"] == pytest.approx(sum(true == taken for true, taken in pairs) / 80)
    assert row["inputs"] == 250

    counts = [[sum(pair == (true, taken) for pair in pairs) for taken in range(7)] for true in range(7)]
    assert tree["confusion"]["counts"] == counts
    classes = {item["name"]: item for item in tree["recall"]["classes"]}
    assert set(classes) == set(CLASSES) - {"yawn"}
    assert tree["recall"]["without_videos"] == 1
    for number, name in enumerate(CLASSES[:-1]):
        assert classes[name]["videos"] == sum(counts[number])
        assert classes[name]["recall"] == [counts[number][number] / sum(counts[number])]
    assert [item["recall"][0] for item in tree["recall"]["classes"]] == sorted(
        (item["recall"][0] for item in classes.values()), reverse=True
    )

    hardest = tree["hardest"]["confusions"]
    times = [count for true, row in enumerate(counts) for taken, count in enumerate(row) if count and true != taken]
    assert [item["times"] for item in hardest] == sorted(times, reverse=True)[:12]
    for item in hardest:
        true, taken = CLASSES.index(item["true"]), CLASSES.index(item["taken_for"])
        assert item["times"] == counts[true][taken]
        source = (first, second)[item["split"] - 1]
        number = source.ids.index(item["video"])
        assert (source.labels[number], source.predicted[number]) == (true, taken)


def test_of_a_confusion_the_surest_mistake_is_shown(tmp_path: Path) -> None:
    first, second = (made(labels=[1, 1, 1], right=0, split=split) for split in (1, 2))
    first.scores[:] = second.scores[:] = 0.01
    first.scores[:, 2], second.scores[:, 2] = (0.6, 0.8, 0.7), (0.5, 0.3, 0.4)  # all are taken for the class 2
    (item,) = report([first, second], tmp_path / "report.html")["hardest"]["confusions"]
    assert (item["times"], item["split"], item["video"]) == (6, 1, first.ids[1])


def test_interval_of_wilson() -> None:
    # 5 of 10 and 0 of 10 are in any table of it; 1.96 standard deviations.
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=5e-5)
    assert wilson(10, 10) == pytest.approx((0.7225, 1), abs=5e-5)
    for right, videos in ((1, 3), (20, 87), (3000, 3783)):  # its ends are as far off as chance reaches from them
        for end in wilson(right, videos):
            assert abs(right / videos - end) == pytest.approx(1.959964 * (end * (1 - end) / videos) ** 0.5)


def test_small_sets_are_called_small(tmp_path: Path) -> None:
    assert written(tmp_path, [made()])["small"]
    assert "small set of videos" in read(tmp_path / "report.html").text
    assert not written(tmp_path, [made(labels=list(range(6)) * 200)])["small"]
    assert "small set of videos" not in read(tmp_path / "report.html").text


def test_fused_scores_are_what_is_shown_of_confusions(tmp_path: Path) -> None:
    streams = [made("spatial", right=0.99), made("temporal", right=0.5)]
    assert written(tmp_path, streams)["confusion"]["of"] == "spatial"
    fused = [made("fused, average", right=0.3), made("fused, svm", right=0.8)]
    assert written(tmp_path, [*streams, *fused])["confusion"]["of"] == "fused, svm"


def test_classes_in_another_order_are_the_same_classes(tmp_path: Path) -> None:
    scores = made("spatial")
    turned = made("temporal").arranged(made().ids, CLASSES[::-1])
    plain, mixed = [written(tmp_path, [scores, other]) for other in (made("temporal"), turned)]
    assert plain == mixed


def test_unlabelled_videos_are_left_out_and_counted(tmp_path: Path) -> None:
    tree = written(tmp_path, [made(labels=[0, 1, 2, -1, -1])])
    assert tree["rows"][0]["splits"][0]["videos"] == 3
    assert tree["rows"][0]["splits"][0]["unlabelled"] == 2
    assert "2 videos without a label left out" in read(tmp_path / "report.html").text


def test_the_same_name_in_a_split_is_numbered(tmp_path: Path) -> None:
    tree = written(tmp_path, [made(seed=seed, split=split) for seed in (1, 2) for split in (1, 2)])
    assert [(row["name"], len(row["splits"])) for row in tree["rows"]] == [("temporal", 2), ("temporal (2)", 2)]


def test_other_parts_than_test_are_no_test(tmp_path: Path) -> None:
    written(tmp_path, [made(part="train")])
    assert "not test videos" in read(tmp_path / "report.html").text


def test_everything_right(tmp_path: Path) -> None:
    assert written(tmp_path, [made(right=1.1)])["hardest"]["confusions"] == []
    assert "Nothing: every video was recognised" in read(tmp_path / "report.html").text


@pytest.mark.parametrize("classes", [1, 2, 12, 13, 60, 61, 110, 111, 400, 401])
def test_the_matrix_is_drawn_up_to_400_classes(tmp_path: Path, classes: int) -> None:
    scores = made(classes=[f"class {number}" for number in range(classes)], labels=[*range(classes)])
    tree = written(tmp_path, [scores])
    page = read(tmp_path / "report.html")
    cells = sum(attributes.get("class") in ("right", "wrong") for attributes in page.of("rect"))
    assert cells == (np.count_nonzero(tree["confusion"]["counts"]) if classes <= 400 else 0)
    assert ("too fine to see" in page.text) == (classes > 400)


# --- what does not belong together, and what cannot be written ---


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "needs scores"),
        ([made(), made("spatial", classes=[*CLASSES[:-1], "sleep"])], "not the same classes.*sleep, yawn"),
        ([made(), made("spatial", part="train")], "'train'.*'test'"),
        ([made(labels=[-1, -1])], "no video has a label"),
        ([made(), made("spatial", labels=[0, 1])], "not the same videos in split 1; only one has: bend/v0006.avi, "),
    ],
)
def test_scores_that_make_no_report(tmp_path: Path, scores: list[Scores], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        report(scores, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give it a name like"):
        report([made()], tmp_path / "scores.npz")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="report"):
        report([made()], tmp_path / "file" / "report.html")
    (tmp_path / "new").mkdir()
    report([made()], tmp_path / "new" / "report.html")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["report.html", "report.json"]


def test_command(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.npz" for name in ("spatial", "temporal")]
    for path in paths:
        made(path.stem).save(path)
    output = tmp_path / "page.html"
    result = CliRunner().invoke(command, [*map(str, paths), "-o", str(output)], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"{output}" in result.output
    assert "temporal: " in result.output
    assert len(json.loads(output.with_suffix(".json").read_text())["rows"]) == 2
    with pytest.raises(UsageError, match="named twice"):
        CliRunner().invoke(command, [str(paths[0])] * 2, catch_exceptions=False)
    with pytest.raises(RefusedError, match=r"none\.npz"):
        CliRunner().invoke(command, [str(tmp_path / "none.npz")], catch_exceptions=False)
    (tmp_path / "taken.json").mkdir()
    for name, words in (("none/page.html", "no such folder"), ("taken.html", r"taken\.json: a folder")):
        with pytest.raises(UsageError, match=words):
            CliRunner().invoke(command, [str(paths[0]), "-o", str(tmp_path / name)], catch_exceptions=False)
    assert not (tmp_path / "taken.html").exists()


# --- hostile names ---


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    ids = tuple(f"{HOSTILE[number % 7]}/\udcff{number}.avi" for number in range(40))
    hostile = HOSTILE[0] + HOSTILE[1]
    scores = made(
        hostile, classes=HOSTILE, ids=ids, dataset=f"/nowhere/{hostile}", checkpoint=f"/{hostile}", net=hostile
    )
    written(tmp_path, [scores])
    page = read(tmp_path / "report.html")
    assert {"script", "iframe", "object", "link", "base", "form", "a"} & {tag for tag, _ in page.elements} == {"link"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    assert HOSTILE[0] in page.text
    assert HOSTILE[4] in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert HOSTILE[3] not in page.text
    assert not set(page.text) & {"\u202e", "\u202c", "\x1b"}
    (policy,) = (item["content"] for item in page.of("meta") if item.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_shown_names() -> None:
    assert shown("plain name") == "plain name"
    assert shown(" two\nlines\t") == "two lines"
    assert shown("\u202eabc\x00\ud800") == "\ufffdabc\ufffd\ufffd"
    assert shown("") == "(no name)"
    for longest in (7, 8, 100):
        cut = shown("a" * 500 + "b" * 500, longest)
        assert len(cut) == longest
        assert (cut[0], cut[-1]) == ("a", "b")
