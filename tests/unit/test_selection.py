"""Which videos of a corpus are taken."""

import json
import re
from math import inf
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sttn_ray.corpus import Entry
from sttn_ray.errors import CorpusError
from sttn_ray.selection import Wanted, select_by_manifest, select_listed, select_matching

ENTRIES = [
    Entry("2019/a.mp4", "video"),
    Entry("2019/deep/b.mov", "video"),
    Entry("JPEGImages/bear", "frames"),
    Entry("JPEGImages/cow.zip", "zip"),
    Entry("x[1].mp4", "video"),
]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], [0, 1, 2, 3, 4]),
        (["*.mp4"], [0, 4]),
        (["2019/*"], [0, 1]),
        (["JPEGImages/*", "2019/a.*"], [0, 2, 3]),
        (["*", "*.mp4"], [0, 1, 2, 3, 4]),
        (["x[[]1].mp4"], [4]),
    ],
)
def test_patterns(patterns: list[str], expected: list[int]) -> None:
    assert select_matching(ENTRIES, patterns) == [ENTRIES[number] for number in expected]


def test_a_pattern_that_matches_nothing_is_told() -> None:
    with pytest.raises(CorpusError, match=r"no video matches \*\.MP4, 2020/\*;"):
        select_matching(ENTRIES, ["*.MP4", "*.mp4", "2020/*"])


def test_without_lists_all_are_taken(tmp_path: Path) -> None:
    assert select_listed(ENTRIES, str(tmp_path)) == [Wanted(entry) for entry in ENTRIES]


def test_published_lists(tmp_path: Path) -> None:
    write(tmp_path / "train.json", json.dumps({"bear": 82, "horse": 25}))
    write(tmp_path / "test.json", json.dumps(["cow"]))
    found = select_listed(ENTRIES, str(tmp_path))
    assert found[:2] == [Wanted(ENTRIES[2], split="train"), Wanted(ENTRIES[3], split="validation")]
    (missing,) = found[2:]
    assert (missing.entry.path, missing.split) == ("horse", "train")
    assert "stands in train.json or test.json, and is not below" in missing.fault


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train.json": "{"}, "train.json: cannot be read as a list of videos"),
        ({"train.json": "3"}, "train.json: expected names of videos"),
        ({"train.json": "[1]"}, "train.json: expected names of videos"),
        ({"test.json": "{}"}, "test.json: expected names of videos"),
        ({"train.json": '["bear"]', "test.json": '["bear"]'}, "bear stands in train.json and in test.json"),
        ({"train.json": "[" * 100000}, "train.json: cannot be read as a list of videos"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    for name, text in lists.items():
        write(tmp_path / name, text)
    with pytest.raises(CorpusError, match=message):
        select_listed(ENTRIES, str(tmp_path))


def test_a_manifest_names_videos_and_parts(tmp_path: Path) -> None:
    manifest = write(
        tmp_path / "m.csv",
        "path,start_s,end_s,split\n"
        "JPEGImages/cow.zip,,,validation\n"
        "2019/a.mp4,10,20,\n"
        "./2019/a.mp4,0,2.5,\n"
        "2019/deep/b.mov,0,,\n",
    )
    assert select_by_manifest(ENTRIES, manifest) == [
        Wanted(ENTRIES[3], (), "validation"),
        Wanted(ENTRIES[0], ((0.0, 2.5), (10.0, 20.0))),
        Wanted(ENTRIES[1]),
    ]


def test_manifests_of_other_kinds(tmp_path: Path) -> None:
    lines = write(tmp_path / "m.jsonl", '{"path": "2019/a.mp4", "start_s": 1.5}\n{"path": "JPEGImages/bear"}\n')
    table = str(tmp_path / "m.parquet")
    pq.write_table(pa.table({"path": ["2019/a.mp4", "JPEGImages/bear"], "start_s": [1.5, None]}), table)
    expected = [Wanted(ENTRIES[0], ((1.5, inf),)), Wanted(ENTRIES[2])]
    assert select_by_manifest(ENTRIES, lines) == expected
    assert select_by_manifest(ENTRIES, table) == expected


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (["gone.mp4,,,"], "gone.mp4: stands in .*m.csv, and is not below corpus.root"),
        (["../a.mp4,,,"], r"\.\./a.mp4: stands in .*, and is not below corpus.root"),
        (["2019/a.mp4,,,test"], "its split in .*m.csv is 'test'; expected one of train, validation"),
        (["2019/a.mp4,0,1,train", "2019/a.mp4,1,2,validation"], "is 'train', 'validation'"),
        (["2019/a.mp4,5,5,"], "start_s=5 and end_s=5 are no part of a video"),
        (["2019/a.mp4,-1,5,"], "start_s=-1 and end_s=5"),
        (["2019/a.mp4,nan,,"], "start_s=nan"),
        (["2019/a.mp4,now,,"], "could not convert string to float"),
        (["2019/a.mp4,0,5,", "2019/a.mp4,4,6,"], "overlap"),
        (["2019/a.mp4,,,", "2019/a.mp4,,,"], "overlap"),
    ],
)
def test_a_row_that_cannot_be_used_is_a_fault_of_its_own(tmp_path: Path, rows: list[str], fault: str) -> None:
    manifest = write(tmp_path / "m.csv", "\n".join(["path,start_s,end_s,split", *rows, "JPEGImages/bear,,,"]))
    wrong, right = select_by_manifest(ENTRIES, manifest)
    assert right == Wanted(ENTRIES[2])
    assert re.search(fault, wrong.fault)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.txt", "", "a manifest is a file ending in .csv, .jsonl, .parquet"),
        ("m.csv", "", "holds no rows"),
        ("m.csv", "video\na.mp4\n", "unknown columns video; expected end_s, path, split, start_s"),
        ("m.csv", "start_s\n1\n", "has no column 'path'"),
        ("m.jsonl", "[]\n", "line 1 is not an object"),
        ("m.parquet", "text", "cannot be read as a manifest"),
    ],
)
def test_manifests_that_cannot_be_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        select_by_manifest(ENTRIES, write(tmp_path / name, text))
