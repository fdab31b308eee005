"""Catalogs: what their rows ask for, and which rows cannot be done."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sttn_ray.catalog.items import OUTPUT_SUFFIXES, Item, _named, read_catalog, refuse_overwriting, single_item
from sttn_ray.errors import CatalogError, ConfigError
from sttn_ray.paths import absolute
from sttn_ray.video.container import _MUXERS


def write_catalog(path: Path, rows: list[dict[str, Any]]) -> str:
    """The same rows in the form that the suffix says."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".csv":
        lines = [",".join(f'"{row.get(name) or ""}"' for name in columns) for row in rows]
        path.write_text("\n".join([",".join(columns), *lines, ""]), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist([{n: row.get(n) for n in columns} for row in rows]), path)
    return str(path)


def catalog_fault(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(CatalogError) as raised:
        read_catalog(str(path))
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_catalogs_of_all_kinds_say_the_same(tmp_path: Path, suffix: str):
    rows = [
        {"video": "films/day 1.mp4", "mask": "masks/1.png"},
        {"video": "films/sub/ni\u00f1o.mov", "boxes": "1,2,3,4@0-5;5,6,7,8"},
        {"video": "films/c.mkv", "mask": "/elsewhere/m.zip", "output": "renamed/c.mp4"},
    ]
    items = read_catalog(write_catalog(tmp_path / f"list{suffix}", rows))
    assert items == [
        Item(
            video=str(tmp_path / "films/day 1.mp4"),
            mask=str(tmp_path / "masks/1.png"),
            boxes=None,
            output="films/day 1",
        ),
        Item(
            video=str(tmp_path / "films/sub/ni\u00f1o.mov"),
            mask=None,
            boxes="1,2,3,4@0-5;5,6,7,8",
            output="films/sub/ni\u00f1o",
        ),
        Item(video=str(tmp_path / "films/c.mkv"), mask="/elsewhere/m.zip", boxes=None, output="renamed/c"),
    ]


def test_paths_are_the_catalogs_not_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lists").mkdir()
    write_catalog(tmp_path / "lists" / "a.csv", [{"video": "../films/a.mp4", "mask": "m.png"}])
    monkeypatch.chdir(tmp_path)
    (item,) = read_catalog("lists/a.csv")
    assert item.video == str(tmp_path / "films/a.mp4")
    assert item.mask == str(tmp_path / "lists/m.png")


def test_single_item_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (item,) = single_item("films/a.b.mp4", None, "1,2,3,4")
    assert item == Item(video=str(tmp_path / "films/a.b.mp4"), mask=None, boxes="1,2,3,4", output="a.b")


def test_outputs_mirror_the_videos_whatever_the_other_rows_are(tmp_path: Path):
    names = ("a/1.mp4", "b/c/1.mov", str(tmp_path / "d.mkv"), "/elsewhere/films/1.mp4")
    rows = [{"video": name, "mask": "m.png"} for name in names]
    items = read_catalog(write_catalog(tmp_path / "a.csv", rows))
    assert [item.output for item in items] == ["a/1", "b/c/1", "d", "elsewhere/films/1"]


def test_an_output_never_takes_the_place_of_its_source(tmp_path: Path):
    (item,) = single_item(str(tmp_path / "film.mp4"), str(tmp_path / "masks/film.mkv"), None)
    refuse_overwriting([item], str(tmp_path / "out"))
    for folder in (tmp_path, tmp_path / "masks"):
        with pytest.raises(ConfigError, match="would be overwritten by an output"):
            refuse_overwriting([item], str(folder))


def test_an_output_takes_the_place_of_files_of_its_suffix_alone(tmp_path: Path):
    rows = [{"video": "raw/film.mp4", "mask": f"videos/film{suffix}", "output": "film"} for suffix in (".png", "")]
    rows.append({"video": "raw/other.avi", "mask": "videos/film.avi", "output": "third"})
    refuse_overwriting(_named(rows, str(tmp_path)), str(tmp_path / "videos"))
    for video, mask in (("film.mp4", "film.MKV"), ("film.avi", "film.avi")):  # encoded, and copied as it is
        items = _named([{"video": f"raw/{video}", "mask": f"videos/{mask}", "output": "film"}], str(tmp_path))
        with pytest.raises(ConfigError, match=f"{mask}: would be overwritten by an output"):
            refuse_overwriting(items, str(tmp_path / "videos"))


def test_the_suffixes_of_outputs_are_those_of_containers():
    assert set(_MUXERS) == OUTPUT_SUFFIXES


def test_an_output_never_takes_the_place_of_what_a_link_leads_to(tmp_path: Path):
    for name in ("real", "links"):
        (tmp_path / name).mkdir()
    (tmp_path / "real/film.mp4").touch()
    (tmp_path / "links/film.mp4").symlink_to(tmp_path / "real/film.mp4")
    (tmp_path / "also").symlink_to(tmp_path / "real")
    (item,) = single_item(str(tmp_path / "links/film.mp4"), None, "1,2,3,4")
    refuse_overwriting([item], str(tmp_path / "out"))
    for folder in ("real", "links", "also"):
        with pytest.raises(ConfigError, match="would be overwritten by an output"):
            refuse_overwriting([item], str(tmp_path / folder))


def test_the_manifest_never_takes_the_place_of_the_catalog(tmp_path: Path):
    catalog = write_catalog(tmp_path / "manifest.parquet", [{"video": "a.mp4", "boxes": "1,2,3,4"}])
    refuse_overwriting([], str(tmp_path / "out"), catalog)
    with pytest.raises(ConfigError, match="would be overwritten by the manifest"):
        refuse_overwriting([], str(tmp_path), catalog)
    with pytest.raises(ConfigError, match="would be overwritten by the manifest"):
        refuse_overwriting([], "s3://archive/out", "s3://archive/out/manifest.parquet")


def test_a_copy_never_takes_the_place_of_the_catalog_or_the_checkpoint(tmp_path: Path):
    for name in ("list.csv", "sttn.pth"):
        row = {"video": f"films/x{Path(name).suffix}", "mask": "m.png", "output": Path(name).stem}
        items = _named([row], str(tmp_path))
        other = {"catalog" if name == "list.csv" else "checkpoint": str(tmp_path / name)}
        refuse_overwriting(items, str(tmp_path / "out"), **other)
        with pytest.raises(ConfigError, match=f"{name}: would be overwritten by an output"):
            refuse_overwriting(items, str(tmp_path), **other)


def test_a_catalog_in_a_store_may_name_videos_on_a_disk():
    row = {"video": "/mnt/films/a.mp4", "mask": "masks/a.png"}
    (item,) = _named([row], "s3://archive/lists")
    assert (item.video, item.mask) == ("/mnt/films/a.mp4", "s3://archive/lists/masks/a.png")
    assert item.output == "mnt/films/a"


@pytest.mark.parametrize("output", ["s3://archive", "s3://archive/"])
def test_an_output_never_takes_the_place_of_its_source_in_a_bucket(output: str):
    (item,) = single_item("s3://archive/film.mp4", None, "1,2,3,4")
    refuse_overwriting([item], f"{output.rstrip('/')}/out")
    with pytest.raises(ConfigError, match="would be overwritten by an output"):
        refuse_overwriting([item], str(absolute(output)))


def test_names_that_no_manifest_can_hold_are_faults(tmp_path: Path):
    lines = ['{"video": "a\\u0000.mp4", "boxes": "1,2,3,4"}', '{"video": "b\\ud800.mp4", "boxes": "1,2,3,4"}']
    (tmp_path / "c.jsonl").write_text("\n".join([*lines, '{"video": "c.mp4", "boxes": "1,2,3,4"}']) + "\n")
    items = read_catalog(str(tmp_path / "c.jsonl"))
    assert [item.fault is None for item in items] == [False, False, True]
    refuse_overwriting(items, str(tmp_path / "out"))
    for item in items:
        item.video.encode()


def test_only_video_suffixes_are_cut_from_output_names(tmp_path: Path):
    names = {"Mr. Smith": "Mr. Smith", "S01.E01": "S01.E01", "clip.MP4": "clip"}
    rows = [{"video": f"{n}.mp4", "mask": "m.png", "output": name} for n, name in enumerate(names)]
    assert [i.output for i in read_catalog(write_catalog(tmp_path / "a.csv", rows))] == list(names.values())


def test_byte_order_mark_and_spaces(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfvideo,mask\r\n a.mp4 , m.png \r\n")
    (item,) = read_catalog(str(tmp_path / "a.csv"))
    assert item.video == str(tmp_path / "a.mp4")
    assert item.fault is None


@pytest.mark.parametrize("output", ["../x.mp4", "/etc/x.mp4", "a/../../x.mp4", "..", "manifest.parquet/x", "_sttn/x"])
def test_outputs_that_leave_the_folder_are_faults(tmp_path: Path, output: str):
    rows = [{"video": "a.mp4", "mask": "m.png", "output": output}, {"video": "b.mp4", "mask": "m.png"}]
    bad, good = read_catalog(write_catalog(tmp_path / "a.jsonl", rows))
    assert (
        bad.fault
        == f"{tmp_path}/a.mp4: its output {output!r} is not a path below the output folder, or one of our own there"
    )
    assert good.fault is None


@pytest.mark.parametrize(
    ("video", "output"),
    [
        ("x.parquet", "manifest"),
        ("x.PARQUET", "Manifest"),
        ("manifest.parquet", ""),
        ("a.mp4", "_STTN/a"),
        ("_sttn", ""),
    ],
)
def test_copies_named_as_our_own_files_are_faults(tmp_path: Path, video: str, output: str):
    row = {"video": video, "mask": "m.png", "output": output}
    (item,) = read_catalog(write_catalog(tmp_path / "a.jsonl", [row]))
    assert "or one of our own there" in (item.fault or "")
    (item,) = read_catalog(write_catalog(tmp_path / "a.jsonl", [row | {"video": "a.mp4", "output": "manifest"}]))
    assert item.fault is None


def test_all_outputs_that_collide_are_told_before_anything_runs(tmp_path: Path):
    names = ("a.mp4", "a.mkv", "a.flv", "b.mp4", "d.mp4")
    rows = [{"video": name, "mask": "m.png"} for name in names] + [{"video": "c.mp4", "mask": "m", "output": "b"}]
    catalog = write_catalog(tmp_path / "list.csv", rows)
    with pytest.raises(CatalogError) as raised:
        read_catalog(catalog)
    assert str(raised.value).splitlines() == [
        f"{catalog}: 3 rows would write a: {tmp_path}/a.mp4, {tmp_path}/a.mkv, {tmp_path}/a.flv",
        f"{catalog}: 2 rows would write b: {tmp_path}/b.mp4, {tmp_path}/c.mp4",
        "an output's suffix is that of its container: give all but one of each another name in the column 'output' "
        f"(as a-flv for {tmp_path}/a.flv); rows without one there keep theirs",
    ]
    rows[1]["output"], rows[2]["output"], rows[5]["output"] = "a-mkv", "a-flv", "c"
    items = read_catalog(write_catalog(tmp_path / "list.csv", rows))
    assert [item.output for item in items] == ["a", "a-mkv", "a-flv", "b", "d", "c"]
    assert [item.fault for item in items] == [None] * 6


def test_a_faulty_row_does_not_take_a_name(tmp_path: Path):
    rows = [{"video": "a.mp4", "mask": ""}, {"video": "a.mov", "mask": "m.png"}]
    bad, good = read_catalog(write_catalog(tmp_path / "a.csv", rows))
    assert bad.fault == f"{tmp_path}/a.mp4: give a mask or boxes"
    assert (good.output, good.fault) == ("a", None)


def test_paths_of_a_catalog_in_a_store_may_climb():
    rows = [{"video": "../films/a.mp4", "mask": "./m//a.png"}, {"video": "../../../b.mp4", "boxes": "1,2,3,4"}]
    first, second = _named(rows, "s3://archive/lists/new")
    assert (first.video, first.mask) == ("s3://archive/lists/films/a.mp4", "s3://archive/lists/new/m/a.png")
    assert (first.output, first.fault) == ("archive/lists/films/a", None)
    assert second.video == "s3://archive/b.mp4"  # not out of its bucket


def test_rows_without_what_is_needed_are_faults(tmp_path: Path):
    rows = [
        {"video": "a.mp4", "mask": "m.png", "boxes": "1,2,3,4"},
        {"video": "b.mp4", "mask": "", "boxes": ""},
        {"video": "", "mask": "m.png", "boxes": ""},
        {"video": "d.mp4", "mask": "m.png", "boxes": ""},
    ]
    items = read_catalog(write_catalog(tmp_path / "a.csv", rows))
    assert [item.fault for item in items] == [
        f"{tmp_path}/a.mp4: give a mask or boxes, not both",
        f"{tmp_path}/b.mp4: give a mask or boxes",
        "the row names no video",
        None,
    ]


def test_unknown_columns_are_named(tmp_path: Path):
    fault = catalog_fault(tmp_path / "a.csv", "video,msk,fps\na.mp4,m.png,25\n")
    assert "unknown columns fps, msk; expected boxes, mask, output, video" in fault


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.csv", "", "holds no rows"),
        ("a.csv", "video,mask\n", "holds no rows"),
        ("a.csv", "mask\nm.png\n", "has no column 'video'"),
        ("a.csv", "video,mask\na.mp4\n", "line 2 has another number of fields"),
        ("a.csv", "video,mask\na.mp4,m.png\nb.mp4,m.png,x\n", "line 3 has another number of fields"),
        ("a.jsonl", '{"video": "a.mp4"}\n\n[1]\n', "line 3 is not an object"),
        ("a.jsonl", '{"video": "a.mp4"\n', "cannot be read as a catalog"),
        ("a.jsonl", '{"video": "a.mp4"}\n\n{"video": a.mp4}\n', "line 3 is not JSON: Expecting value at column 11"),
        ("a.jsonl", '[{"video": "a.mp4"}]', "line 1 is not an object; expected one a line"),
        ("a.jsonl", '{"video": "a.mp4", "video": "b.mp4"}', "line 1: video is said several times"),
        ("a.jsonl", '{"video": ["a.mp4"]}', "line 1: video is a list"),
        ("a.jsonl", '{"video": ' + "[" * 5000 + "]" * 5000 + "}", "line 1 is nested too deeply"),
        ("a.jsonl", '{"video": "a.mp4"}\n{"video": ' + "9" * 5000 + "}", "line 2: Exceeds the limit"),
        ("a.csv", "video,mask,mask\na.mp4,m.png,n.png\n", "several columns are named mask; keep one"),
        (
            "a.csv",
            "a.mp4,m.png\nb.mp4,m.png\n",
            "unknown columns a.mp4, m.png; expected boxes, mask, output, video; if",
        ),
        ("a.csv", "video,boxes\na.mp4,10,20,300,80\n", "(5, not 2); a field that holds , must stand in double quotes"),
        ("a.csv", "video;boxes\na.mp4;1,2,3,4;5,6,7,8\n", "a field that holds ; must stand in double quotes"),
        ("a.csv", 'video,mask\na.mp4,m.png\nb.mp4,"m.png\nc.mp4,m.png\n', "a quote that opens in line 3 is not closed"),
        ("a.csv", "video,mask,\na.mp4,m.png,\nb.mp4,m.png,x\n", "line 3 has another number of fields"),
        ("a.csv", "video,,mask\na.mp4,x,m.png\n", "line 2: 'x' stands in a column without a name"),
        ("a.csv", "PK\3\4workbook", "it is a workbook, not text; save it as 'CSV UTF-8'"),
        ("a.parquet", "no parquet", "cannot be read as a catalog"),
        ("a.txt", "video\n", "a catalog is a file ending in .csv, .jsonl, .parquet"),
    ],
)
def test_catalogs_that_are_none(tmp_path: Path, name: str, text: str, fault: str):
    assert fault in catalog_fault(tmp_path / name, text)


def test_missing_catalog_and_other_encoding(tmp_path: Path):
    with pytest.raises(CatalogError, match=r"none\.csv: no such catalog"):
        read_catalog(str(tmp_path / "none.csv"))
    (tmp_path / "a.csv").write_bytes("video,mask\na.mp4,m.png\nd\u00e9j\u00e0.mp4,m.png\n".encode("cp1252"))
    with pytest.raises(
        CatalogError, match=r"a\.csv: cannot .* line 3 is not UTF-8 \(byte 0xe9\), .*Windows-1252"
    ) as told:
        read_catalog(str(tmp_path / "a.csv"))
    advice = re.search(r"iconv -f (\S+) -t (\S+) IN\.csv", str(told.value))
    text = (tmp_path / "a.csv").read_bytes().decode(advice[1])
    (tmp_path / "a.csv").write_bytes(text.encode(advice[2]))
    assert read_catalog(str(tmp_path / "a.csv"))[1].video == str(tmp_path / "d\u00e9j\u00e0.mp4")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_catalogs_as_spreadsheets_write_them(tmp_path: Path, encoding: str, delimiter: str, end: str):
    rows = [
        ("Video ", " MASK", "boxes", ""),
        ("films/\u00fc 1.mp4", "m.png", "", ""),
        ("", "", "", ""),
        ("b.mp4", "", '"1,2,3,4;5,6,7,8"', ""),
    ]
    lines = [delimiter.join(row) for row in rows]
    for text in (lines, [f"sep={delimiter}", *lines], [*lines, ""]):
        (tmp_path / "a.csv").write_bytes(end.join(text).encode(encoding))
        first, second = read_catalog(str(tmp_path / "a.csv"))
        assert (first.video, first.mask) == (str(tmp_path / "films/\u00fc 1.mp4"), str(tmp_path / "m.png"))
        assert (second.video, second.boxes) == (str(tmp_path / "b.mp4"), "1,2,3,4;5,6,7,8")
        assert (first.fault, second.fault) == (None, None)


def test_json_lines_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"video": "a.mp4", "mask": "m.png"}\r\n'.encode())
    assert [item.video for item in read_catalog(str(tmp_path / "a.jsonl"))] == [str(tmp_path / "a.mp4")]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_blanks_of_a_name_count_where_the_file_has_them(tmp_path: Path, suffix: str):
    for name in ("a.mp4 ", "a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    rows = [{"video": name, "mask": "m.png "} for name in ("a.mp4 ", "a.mp4", "b.mp4 ")]
    items = read_catalog(write_catalog(tmp_path / f"list{suffix}", rows))
    assert [item.video for item in items] == [str(tmp_path / name) for name in ("a.mp4 ", "a.mp4", "b.mp4")]
    assert items[0].mask == str(tmp_path / "m.png")


def test_large_and_odd_parquet_catalogs_are_refused_soon(tmp_path: Path):
    def fault(table: pa.Table, **options: Any) -> str:
        pq.write_table(table, tmp_path / "a.parquet", **options)
        assert (tmp_path / "a.parquet").stat().st_size < 10**6
        with pytest.raises(CatalogError) as raised:
            read_catalog(str(tmp_path / "a.parquet"))
        return str(raised.value)

    many = pa.table({"video": pa.DictionaryArray.from_arrays(np.zeros(1_000_001, np.int8), ["a.mp4"])})
    assert "has more than 1000000 rows; split it" in fault(many)
    long = pa.table({"video": pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int8), ["a" * 70_000])})
    assert "its column video holds a text of more than 65536 bytes" in fault(long)
    often = pa.table({"video": pa.DictionaryArray.from_arrays(np.zeros(10_000, np.int8), ["a" * 60_000])})
    assert "holds more than 268435456 bytes; split it" in fault(often)
    assert "its column video holds list<" in fault(pa.table({"video": [["a.mp4"]]}))
    twins = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["video", "video"])
    assert "several columns are named video" in fault(twins)
