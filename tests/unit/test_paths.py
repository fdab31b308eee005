"""Files on a disk and in a store are read alike; the store is moto's server."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import s3fs

from sttn_ray.errors import ConfigError, CorpusError, StorageError
from sttn_ray.images import image_files, image_names
from sttn_ray.paths import (
    ALL,
    abort_uploads,
    as_path,
    below,
    is_file,
    is_folder,
    open_binary,
    read_files,
    remove_file,
    stamps,
    use_endpoint,
    walk,
)
from sttn_ray.rows import read_rows
from sttn_ray.storage import file_sha256, published, read_record, write_record
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import index_video
from tests.media import frame_hash, frame_hashes, make_images, make_pictures, make_video, zip_folder
from tests.processes import STALLED_S
from tests.store import FaultyProxy, client, contents, free_port, upload

NAMES = ["a.mp4", "b/c d/[1].png", "b/c d/2.png", "b/é?#&+%20.mp4", "b/.hidden/x.mp4", ".x.mp4", "z/deep/er/y.zip"]


@pytest.mark.parametrize(
    "path", ["gs://bucket/key", "http://host/film.mp4", "s3:///key", "s3://", "s3://[x", "s3://[x/a"]
)
def test_other_schemes_are_refused(path: str):
    with pytest.raises(ConfigError, match="expected a local path or s3://bucket/key"):
        as_path(path)


def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://[x")
    with pytest.raises(ConfigError, match=r"AWS_ENDPOINT_URL_S3: expected http"):
        use_endpoint(None)


def test_a_store_is_walked_like_a_folder(tmp_path: Path, store: str, bucket: str):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    upload(store, tmp_path, f"{bucket}/corpus")
    client(store).pipe_file(f"{bucket}/corpus/marker/", b"")  # how some tools make a folder
    client(store).pipe_file(f"{bucket}/corpus-of-another/x.mp4", b"x")
    found = sorted(walk(f"{bucket}/corpus"))
    assert found == sorted(walk(str(tmp_path)))
    assert len(found) == len(NAMES) - 2
    for folder, name in found:
        path = below(f"{bucket}/corpus", folder) / name
        assert path.read_bytes() == (tmp_path / folder / name).read_bytes()
        assert stamps(path)[0][1] == (tmp_path / folder / name).stat().st_size


def test_a_walk_takes_many_pages(store: str, bucket: str):
    client(store).pipe({f"{bucket}/many/{number}.png": b"x" for number in range(1005)})
    assert len(list(walk(f"{bucket}/many"))) == 1005


def test_a_missing_bucket_is_a_missing_folder(store: str):
    with pytest.raises(FileNotFoundError):
        list(walk("s3://no-such-bucket/videos"))


def test_a_replaced_object_has_another_stamp_and_is_not_read_on(store: str, bucket: str):
    path = f"{bucket}/film.mp4"
    client(store).pipe_file(path, b"a" * 3_000_000)
    before = stamps(path)
    assert stamps(path) == before
    with open_binary(path) as file:
        assert file.read(10) == b"a" * 10
        client(store).pipe_file(path, b"b" * 3_000_000)
        file.seek(2_500_000)
        with pytest.raises(OSError, match="no longer exists"):
            file.read(10)
    assert stamps(path) != before


def test_files_of_a_folder_come_in_order(tmp_path: Path, store: str, bucket: str):
    names = [f"[{number}]*.png" for number in range(70)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([number]) * (200 if number == 40 else 9))
    upload(store, tmp_path, f"{bucket}/frames")
    found = list(read_files(as_path(f"{bucket}/frames"), names, 100))
    assert found == list(read_files(tmp_path, names, 100))
    assert [name for name, data in found if data is None] == [names[40]]
    with pytest.raises(FileNotFoundError):
        list(read_files(as_path(f"{bucket}/frames"), ["none.png"], 100))


def test_hash_of_a_large_object(store: str, bucket: str):
    data = np.random.default_rng(0).bytes(2 * ALL + 12345)
    client(store).pipe_file(f"{bucket}/large", data)
    assert file_sha256(f"{bucket}/large") == hashlib.sha256(data).hexdigest()


def test_an_upload_is_whole_or_not_there(store: str, bucket: str):
    path = as_path(f"{bucket}/out/a.bin")
    with published(path) as temporary:
        temporary.write_bytes(b"first")
        assert contents(store, bucket) == {}
    assert contents(store, bucket) == {"out/a.bin": b"first"}
    assert not temporary.exists()

    def fail() -> None:
        with published(path) as temporary:
            temporary.write_bytes(b"half of the sec")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert contents(store, bucket) == {"out/a.bin": b"first"}


def test_an_upload_that_fails_is_told(store: str):
    with (
        pytest.raises(StorageError, match=r"s3://no-such-bucket/a.bin: cannot be written"),
        published(as_path("s3://no-such-bucket/a.bin")) as temporary,
    ):
        temporary.write_bytes(b"x")


@pytest.fixture
def away(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port at which no store answers yet, to which `s3://` paths lead."""
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    yield port
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_is_away_for_a_while_is_waited_for(store: str, bucket: str, away: int):
    proxies = []

    def come_back() -> None:
        proxies.append(FaultyProxy(store, {}, seed=0, port=away))
        proxies[0].__enter__()

    timer = threading.Timer(8, come_back)
    timer.start()
    write_record(as_path(f"{bucket}/a.json"), {"a": 1})
    timer.join()
    assert read_record(as_path(f"{bucket}/a.json")) == {"a": 1}
    proxies[0].__exit__()
    assert contents(store, bucket) == {"a.json": b'{"a": 1}'}


@pytest.mark.parametrize("fault", ["stall", "pause"])
def test_a_read_that_gets_stuck_is_tried_again(
    tmp_path: Path, store: str, bucket: str, monkeypatch: pytest.MonkeyPatch, fault: str
):
    video = make_video(tmp_path / "a.mp4", num_frames=50, audio=True)
    upload(store, tmp_path, bucket)
    with stuck(store, fault, monkeypatch) as proxy:
        index = index_video(f"{bucket}/a.mp4")
        assert index.sha256 == file_sha256(video)
        assert [frame_hash(frame) for frame in decode_range(index, 20, 50)] == frame_hashes(video)[20:]
    assert proxy.counts[fault] == 2


def test_an_upload_that_gets_stuck_is_tried_again(store: str, bucket: str, monkeypatch: pytest.MonkeyPatch):
    data = np.random.default_rng(0).bytes(2**20)
    with stuck(store, "stall", monkeypatch) as proxy, published(as_path(f"{bucket}/a.mp4")) as temporary:
        temporary.write_bytes(data)
    assert contents(store, bucket) == {"a.mp4": data}
    assert proxy.counts["stall"] == 2


@contextmanager
def stuck(store: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A store to which `s3://` paths lead, whose first two answers take far longer than a client waits."""
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 2)  # a test has no 15 s
    start_s = time.monotonic()
    with FaultyProxy(store, {fault: 1}, seed=0, stall_s=STALLED_S, max_faults=2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()
    assert time.monotonic() - start_s < STALLED_S


def test_records(store: str, bucket: str):
    path = as_path(f"{bucket}/state/a.json")
    assert read_record(path) is None
    write_record(path, {"a": [1, "é"]})
    assert read_record(path) == {"a": [1, "é"]}
    client(store).pipe_file(str(path), b"{")
    with pytest.raises(StorageError, match="cannot be read as a record"):
        read_record(path)


@pytest.mark.parametrize("name", ["closed.mp4", "open.mkv", "stream.ts"])
def test_a_video_is_the_same_from_a_store(tmp_path: Path, store: str, bucket: str, name: str):
    video = make_video(tmp_path / name, num_frames=50, open_gop=name == "open.mkv")
    upload(store, tmp_path, bucket)
    local, remote = index_video(str(video)), index_video(f"{bucket}/{name}")
    assert {**remote.as_dict(), "path": ""} == {**local.as_dict(), "path": ""}
    for start, stop in ((0, 3), (11, 14), (29, 50)):
        frames = [frame_hash(frame) for frame in decode_range(remote, start, stop)]
        assert frames == [frame_hash(frame) for frame in decode_range(local, start, stop)]


def test_folders_and_zips_are_the_same_from_a_store(tmp_path: Path, store: str, bucket: str):
    folder = make_images(tmp_path / "walk", make_pictures(12))
    zip_folder(folder, tmp_path / "walk.zip")
    upload(store, tmp_path, bucket)
    for name in ("walk", "walk.zip"):
        names = image_names(f"{bucket}/{name}", CorpusError)
        assert names == image_names(str(tmp_path / name), CorpusError)
        remote = [data for _, data in image_files(f"{bucket}/{name}", names, CorpusError)]
        assert remote == [data for _, data in image_files(str(tmp_path / name), names, CorpusError)]
    with pytest.raises(CorpusError, match="is not a zip file"):
        image_names(f"{bucket}/none.zip", CorpusError)


@pytest.mark.parametrize(("name", "text"), [("m.csv", "path,split\na.mp4,train\n"), ("m.jsonl", '{"path": "a.mp4"}\n')])
def test_a_manifest_in_a_store(store: str, bucket: str, name: str, text: str):
    client(store).pipe_file(f"{bucket}/{name}", text.encode())
    rows = read_rows(f"{bucket}/{name}", "manifest", CorpusError, columns={"path", "split"}, required="path")
    assert [row["path"] for row in rows] == ["a.mp4"]
    with pytest.raises(CorpusError, match="no such manifest"):
        read_rows(f"{bucket}/none-{name}", "manifest", CorpusError, columns={"path"}, required="path")


def test_what_may_not_be_read_is_told(tmp_path: Path):
    folder = tmp_path / "folder.json"
    folder.mkdir()
    with pytest.raises(StorageError, match=r"folder.json: cannot be read \(Is a directory\)"):
        read_record(folder)


def test_a_store_that_refuses_is_no_missing_file(store: str, bucket: str, monkeypatch: pytest.MonkeyPatch):
    client(store).pipe_file(f"{bucket}/secret.mp4", b"x")
    with FaultyProxy(store, {}, seed=0, denied="secret.mp4") as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        assert not is_file(f"{bucket}/none.mp4")
        with pytest.raises(StorageError, match=r"secret\.mp4: cannot be read"):
            is_file(f"{bucket}/secret.mp4")
        with pytest.raises(StorageError, match=r"secret\.mp4: cannot be read"):
            index_video(f"{bucket}/secret.mp4")
    s3fs.S3FileSystem.clear_instance_cache()


def test_kinds_of_paths(tmp_path: Path, store: str, bucket: str):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.txt").write_text("x")
    upload(store, tmp_path, bucket)
    for root in (str(tmp_path), bucket):
        assert (is_file(f"{root}/a/b.txt"), is_folder(f"{root}/a/b.txt")) == (True, False)
        assert (is_file(f"{root}/a"), is_folder(f"{root}/a")) == (False, True)
        assert (is_file(f"{root}/none"), is_folder(f"{root}/none")) == (False, False)


def test_an_address_with_a_password_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://me:secret@host")
    with pytest.raises(ConfigError, match="holds a password") as raised:
        use_endpoint(None)
    assert "secret" not in str(raised.value)


def test_uploads_that_were_begun_long_ago_are_given_up(store: str, bucket: str) -> None:
    fs = client(store)
    name = bucket.removeprefix("s3://")
    for key in ("out/a.mp4", "other/b.mp4"):
        fs.call_s3("create_multipart_upload", Bucket=name, Key=key)

    def begun() -> list[str]:
        return [upload["Key"] for upload in fs.call_s3("list_multipart_uploads", Bucket=name).get("Uploads", ())]

    # This store gives all uploads one date, years ago.
    abort_uploads(as_path(f"{bucket}/out"), older_than_s=1e9)
    assert sorted(begun()) == ["other/b.mp4", "out/a.mp4"]
    abort_uploads(as_path(f"{bucket}/out"))
    assert begun() == ["other/b.mp4"]
    abort_uploads(Path("out"))


def test_a_name_is_no_pattern_where_a_file_is_deleted(store: str, bucket: str) -> None:
    fs = client(store)
    for name in ("run[1]/a.json", "run1/a.json"):
        fs.pipe_file(f"{bucket}/{name}", b"1")
    remove_file(as_path(f"{bucket}/run[1]/a.json"))
    remove_file(as_path(f"{bucket}/absent.json"))
    assert set(contents(store, bucket)) == {"run1/a.json"}


def test_the_stamp_of_a_file_takes_one_request(store: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        client(store).pipe_file(f"{bucket}/folder/{number}", bytes(number + 1))
    with FaultyProxy(store, {}, seed=0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        ((name, size, etag),) = stamps(f"{bucket}/folder/1")
        assert (name, size) == (f"{bucket}/folder/1", 2)
        assert etag
        assert proxy.counts.total() == 1
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store)
    assert [row[1] for row in stamps(f"{bucket}/folder")] == [1, 2, 3]
