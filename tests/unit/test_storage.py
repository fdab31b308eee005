import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sttn_ray.errors import StorageError
from sttn_ray.storage import published, read_record, write_record

DYING_WRITER = """
import os, sys
from pathlib import Path
from sttn_ray.storage import published

with published(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half")
    os._exit(9)  # as by kill -9: nothing is cleaned up
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_published_file_appears_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "a.bin"
    with published(path) as temporary:
        temporary.write_bytes(b"first half")
        assert not path.exists()
        assert temporary.parent == path.parent  # else the last step were no rename
        with open(temporary, "ab") as file:
            file.write(b", second half")
    assert path.read_bytes() == b"first half, second half"
    assert names(path.parent) == ["a.bin"]


def test_published_file_replaces_another(tmp_path: Path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old and longer")
    with published(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old and longer"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), StorageError("no")])
def test_failure_leaves_no_trace_and_keeps_what_was_there(tmp_path: Path, error: BaseException):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with published(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_writer_that_dies_leaves_no_file_under_the_name(tmp_path: Path):
    path = tmp_path / "a.bin"
    subprocess.run([sys.executable, "-c", DYING_WRITER, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert not path.exists()
    (left,) = names(tmp_path)
    assert left.startswith(".a.bin.")
    assert left.endswith(".tmp")
    write_record(path, {"a": 1})
    assert read_record(path) == {"a": 1}


def test_two_writers_at_once_use_different_temporary_files(tmp_path: Path):
    path = tmp_path / "a.bin"
    with published(path) as first, published(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the one that ended last
    assert names(tmp_path) == ["a.bin"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(StorageError, match=r"a\.bin: cannot be written"), published(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"x")
    assert names(tmp_path) == ["a.bin"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(StorageError, match=r"a\.bin: cannot be written"), published(tmp_path / "a.bin"):
        pass
    assert names(tmp_path) == []


def test_published_file_has_the_usual_permissions(tmp_path: Path):
    (tmp_path / "plain").touch()
    write_record(tmp_path / "a.json", {})
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_records_come_back(tmp_path: Path):
    record = {
        "status": "done",
        "pts": [1, 2, 3],
        "notes": ["\u00e4"],
        "share": 0.25,
        "none": None,
        "nested": {"a": True},
    }
    write_record(tmp_path / "deep" / "a.json", record)
    assert read_record(tmp_path / "deep" / "a.json") == record


def test_equal_records_are_equal_bytes(tmp_path: Path):
    write_record(tmp_path / "a.json", {"a": 1, "b": 2})
    write_record(tmp_path / "b.json", {"b": 2, "a": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_no_record_is_none(tmp_path: Path):
    assert read_record(tmp_path / "a.json") is None
    assert read_record(tmp_path / "no folder" / "a.json") is None


@pytest.mark.parametrize("text", ["", '{"a": 1', "[1]", "null", "3"])
def test_a_file_that_is_no_record_is_an_error(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StorageError, match=r"a\.json: .*record.*; delete it"):
        read_record(tmp_path / "a.json")


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_a_folder_of_another_file_system_among_the_outputs(tmp_path: Path) -> None:
    """No file can be renamed across."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        (tmp_path / "out").symlink_to(other)
        with published(tmp_path / "out/a/film.mp4", temporary_dir=tmp_path / "work") as temporary:
            temporary.write_bytes(b"whole")
        assert (tmp_path / "out/a/film.mp4").read_bytes() == b"whole"
        assert [path.name for path in Path(other).rglob("*") if path.is_file()] == ["film.mp4"]
