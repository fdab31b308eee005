"""`pipelines.inpaint` on what is hostile or hopeless: each is a row of the manifest, soon, and nothing else suffers."""

import os
import signal
import struct
import zipfile
import zlib
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import inpaint
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from sttn_ray.storage import read_record
from tests.media import make_video
from tests.processes import Program, files_in, kill_ray_process, start, wait_until

BOX = "16,12,30,20"


def request(output: Path | str, checkpoint: Path | str, *words: str) -> list[str]:
    return [f"inpaint.output={output}", f"inpaint.checkpoint={checkpoint}", "encode.preset=ultrafast", *words]


def begin(output: Path | str, checkpoint: Path | str, *words: str) -> Program:
    """The program as a process, with a Ray of its own."""
    return start("pipelines.inpaint", *request(output, checkpoint, *words))


def run(output: Path, checkpoint: Path, *words: str) -> int:
    """The program in this process, on the tests' Ray."""
    return inpaint.main(request(output, checkpoint, *words))


def manifest(output: Path) -> dict[str, dict[str, object]]:
    return {row["video"]: row for row in pq.read_table(output / "manifest.parquet").to_pylist()}


def huge_png(width: int, height: int) -> bytes:
    """A PNG of one color that claims a size, a few hundred bytes long."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.usefixtures("cluster")
def test_hostile_input_is_a_row_each_and_nothing_is_written_outside(tmp_path: Path, checkpoint: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    make_video(films / "good.mp4", num_frames=12)
    strange = films / 'it\'s "odd"\nname <b>.mp4'
    make_video(strange, num_frames=12)
    (films / "still.png").write_bytes(huge_png(60000, 60000))
    Image.new("RGB", (96, 64)).save(films / "small.jpg")
    (films / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ngood.mp4\n")
    with zipfile.ZipFile(films / "climbing.zip", "w") as archive:
        archive.writestr("../../escaped.png", huge_png(96, 64))
    (films / "huge.png").write_bytes(huge_png(60000, 60000))
    claims = (films / "good.mp4").read_bytes()
    # A sample table that claims 10^9 frames.
    place = claims.index(b"stsz") + 12
    (films / "claims.mp4").write_bytes(claims[:place] + struct.pack(">I", 10**9) + claims[place + 4 :])
    make_sound(films / "sound.m4a")
    (films / "empty.mp4").write_bytes(b"")
    rows = [
        ("good.mp4", "", BOX, ""),
        (strange.name, "", BOX, ""),
        ("still.png", "", BOX, ""),
        ("small.jpg", "", BOX, ""),
        ("list.m3u8", "", BOX, ""),
        ("good.mp4", "climbing.zip", "", "zip"),
        ("good.mp4", "huge.png", "", "huge"),
        ("good.mp4", "", BOX, "../outside"),
        ("good.mp4", "", BOX, "/tmp/outside"),
        ("good.mp4", "", BOX, "_sttn/outside"),
        ("claims.mp4", "", BOX, ""),
        ("sound.m4a", "", BOX, ""),
        ("empty.mp4", "", BOX, ""),
        ("absent.mp4", "", BOX, ""),
        ("gs://bucket/a.mp4", "", BOX, "elsewhere"),
        ("good.mp4", "", "1,2,3", "words"),
    ]
    table = {name: [row[n] for row in rows] for n, name in enumerate(("video", "mask", "boxes", "output"))}
    pq.write_table(pa.table(table), films / "catalog.parquet")
    before = {path for path in tmp_path.rglob("*") if "out" not in path.relative_to(tmp_path).parts}
    # Most of it fails, and all is to be tried.
    words = (f"inpaint.catalog={films / 'catalog.parquet'}", "inpaint.max_error_fraction=1")
    assert run(tmp_path / "out", checkpoint, *words) == 1
    found = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    statuses = [row["status"] for row in found]
    assert statuses == ["done", "done"] + ["failed"] * 14, list(
        zip(statuses, (r["reason"] for r in found), strict=True)
    )
    assert not any(row["is_unexpected"] for row in found), [r["reason"] for r in found if r["is_unexpected"]]
    assert {path for path in tmp_path.rglob("*") if "out" not in path.relative_to(tmp_path).parts} == before
    assert not Path("/tmp/outside.mp4").exists()
    outputs = {p.name for p in (tmp_path / "out").iterdir()}
    assert outputs == {"_sttn", "manifest.parquet", "good.mp4", strange.name}


def make_sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.slow
def test_a_video_whose_process_dies_three_times_is_quarantined(tmp_path: Path) -> None:
    slow = tmp_path / "slow.pt"
    save_generator(slow, Generator(GeneratorConfig(channels=64, num_blocks=4, width=240, height=144, mask_keys=True)))
    make_video(tmp_path / "film.mp4", num_frames=200)
    words = (f"inpaint.video={tmp_path / 'film.mp4'}", f"inpaint.boxes={BOX}")
    quarantined = begin(tmp_path / "out", slow, *words)

    def tries() -> int:
        notes = list((tmp_path / "out").glob("_sttn/items/*/attempts-complete-00000.json"))
        return len((read_record(notes[0]) or {"nodes": []})["nodes"]) if notes else 0

    for deaths in range(3):
        wait_until(lambda deaths=deaths: tries() == deaths + 1, f"attempt {deaths + 1}", program=quarantined)
        kill_ray_process(quarantined.pid, "Completer")
    assert quarantined.finish(tmp_path / "out") == 1, quarantined.said()
    (row,) = manifest(tmp_path / "out").values()
    assert row["status"] == "quarantined"
    assert row["step"] == "complete"
    assert "died 3 times" in str(row["reason"])
    # Not again by the same command; but for a source that was replaced.
    again = begin(tmp_path / "out", slow, *words)
    assert again.finish(tmp_path / "out") == 1
    assert "quarantined at complete" in again.said()
    make_video(tmp_path / "film.mp4", num_frames=8)
    again = begin(tmp_path / "out", slow, *words)
    assert again.finish(tmp_path / "out") == 0, again.said()


@pytest.mark.usefixtures("cluster")
def test_too_many_failures_stop_the_job_with_a_table(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = []
    for number in range(16):
        (tmp_path / f"{number}.mp4").write_text("not a video")
        rows.append(f'{number}.mp4,"{BOX}"')
    (tmp_path / "catalog.csv").write_text("video,boxes\n" + "\n".join(rows) + "\n")
    words = (f"inpaint.catalog={tmp_path / 'catalog.csv'}", "inpaint.max_error_fraction=0.2")
    assert run(tmp_path / "out", checkpoint, *words) == 1
    assert "11 of 16 videos failed, more than inpaint.max_error_fraction=0.2 allows" in caplog.text
    assert "11 at plan, VideoError, as in: " in caplog.text
    counts = [row["status"] for row in manifest(tmp_path / "out").values()]
    assert counts.count("failed") == 11
    assert counts.count("pending") == 5


@pytest.mark.usefixtures("cluster")
def test_a_run_out_of_hours_ends_and_the_same_command_goes_on(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        make_video(tmp_path / f"{number}.mp4", num_frames=12, seed=number)
    (tmp_path / "catalog.csv").write_text("video,boxes\n" + "".join(f'{n}.mp4,"{BOX}"\n' for n in range(3)))
    words = (f"inpaint.catalog={tmp_path / 'catalog.csv'}",)
    caplog.set_level("INFO")
    assert run(tmp_path / "out", checkpoint, *words, "inpaint.max_hours=0.000001") == 1
    assert "3 pending" in caplog.text
    assert all("inpaint.max_hours" in str(row["reason"]) for row in manifest(tmp_path / "out").values())
    assert run(tmp_path / "out", checkpoint, *words) == 0


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")]
)
def test_an_interrupted_job_leaves_a_manifest_and_goes_on(
    tmp_path: Path, checkpoint: Path, number: int, status: int, word: str
) -> None:
    make_video(tmp_path / "short.mp4", num_frames=12)
    make_video(tmp_path / "long.mp4", num_frames=300)
    (tmp_path / "catalog.csv").write_text("video,boxes\n" + "".join(f'{n}.mp4,"{BOX}"\n' for n in ("short", "long")))
    words = (f"inpaint.catalog={tmp_path / 'catalog.csv'}", "inpaint.segment_frames=12", "run.log_interval_s=1")
    # Ignored where a shell has started the tests in the background, and then by all their programs.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupted = begin(tmp_path / "out", checkpoint, *words)
    signal.signal(signal.SIGINT, before)
    wait_until(
        lambda: interrupted.said().count("videos 1/2 done") >= 2,  # a second later the driver knows it, too
        "a line that tells of a video",
        program=interrupted,
        moves=files_in(tmp_path / "out"),
    )
    # A terminal sends it to all that the program has started, what stops a container to the program alone.
    interrupted.interrupt() if number == signal.SIGINT else os.kill(interrupted.pid, number)
    assert interrupted.finish(tmp_path / "out") == status, interrupted.said()
    assert interrupted.said().endswith(f"{word}; the same command goes on from here\n")
    assert "***" not in interrupted.said()  # of C++'s stack
    assert "Traceback" not in interrupted.said()
    told = {Path(video).name: row["status"] for video, row in manifest(tmp_path / "out").items()}
    assert told == {"short.mp4": "done", "long.mp4": "pending"}
    assert run(tmp_path / "out", checkpoint, *words) == 0
    assert {row["status"] for row in manifest(tmp_path / "out").values()} == {"done"}


@pytest.mark.slow
def test_two_drivers_on_one_output_make_one_result(tmp_path: Path, checkpoint: Path) -> None:
    for number in range(3):
        make_video(tmp_path / f"{number}.mp4", num_frames=60, seed=number, audio=True)
    (tmp_path / "catalog.csv").write_text("video,boxes\n" + "".join(f'{n}.mp4,"{BOX}"\n' for n in range(3)))
    words = (f"inpaint.catalog={tmp_path / 'catalog.csv'}", "inpaint.segment_frames=12")
    alone = begin(tmp_path / "alone", checkpoint, *words)
    assert alone.finish(tmp_path / "alone") == 0, alone.said()
    for driver in [begin(tmp_path / "out", checkpoint, *words) for _ in range(2)]:
        assert driver.finish(tmp_path / "out") == 0, driver.said()
    for number in range(3):
        assert (tmp_path / f"out/{number}.mp4").read_bytes() == (tmp_path / f"alone/{number}.mp4").read_bytes()
    assert {row["status"] for row in manifest(tmp_path / "out").values()} == {"done"}
    left = [p for p in (tmp_path / "out/_sttn/items").rglob("*") if p.is_file() and p.name != "outcome.json"]
    assert left == []
