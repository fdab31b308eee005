"""`pipelines.inpaint` on a real local cluster, with real videos."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import inpaint, inpaint_chain
from sttn_ray.catalog.records import ItemDir
from sttn_ray.config import load_experiment
from sttn_ray.errors import ConfigError
from sttn_ray.masks.boxes import draw_boxes, parse_boxes
from sttn_ray.masks.hole import make_hole
from tests.end_to_end.test_kills import watched_records
from tests.media import audio_packet_hash, frame_times, make_black_mask, make_damaged_copy, make_video
from tests.processes import ROOT, Program, files_in, kill_ray_process, start, wait_until

BOX = "16,12,30,20"


def planes(path: Path) -> list[list[np.ndarray]]:
    with av.open(str(path)) as container:
        return [
            [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width].copy() for p in frame.planes]
            for frame in container.decode(video=0)
        ]


def run(*words: str) -> int:
    return inpaint.run(load_experiment(words))


@pytest.mark.usefixtures("cluster")
def test_a_catalog_is_done_and_what_is_bad_is_a_row(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = tmp_path / "films"
    films.mkdir()
    make_video(films / "sound.mp4", num_frames=36, audio=True)
    make_video(films / "matroska.mkv", num_frames=20)
    make_video(films / "turned.mp4", num_frames=12, rotation=90)
    make_video(films / "plain.mp4", num_frames=12, seed=3)
    whole = make_video(tmp_path / "whole.mp4", num_frames=40)
    make_damaged_copy(whole, films / "damaged.mp4", start=0.5, stop=0.7)
    (films / "words.mp4").write_text("not a video")
    make_black_mask(tmp_path / "black.png")
    rows = [f'films/{p.name},,"{BOX}"' for p in sorted(films.iterdir()) if p.name != "plain.mp4"]
    rows += ["films/plain.mp4,black.png,", f'films/absent.mp4,,"{BOX}"']
    (tmp_path / "catalog.csv").write_text("video,mask,boxes\n" + "\n".join(rows) + "\n")
    words = (
        f"inpaint.catalog={tmp_path / 'catalog.csv'}",
        f"inpaint.output={tmp_path / 'out'}",
        f"inpaint.checkpoint={checkpoint}",
        "inpaint.segment_frames=14",
        "encode.codec=x264-lossless",
        "encode.preset=ultrafast",
    )
    assert run(*words) == 1
    manifest = {Path(r["video"]).name: r for r in pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()}
    assert {name: r["status"] for name, r in manifest.items()} == {
        "sound.mp4": "done",
        "matroska.mkv": "done",
        "turned.mp4": "done",
        "plain.mp4": "copied",
        "damaged.mp4": "failed",
        "words.mp4": "failed",
        "absent.mp4": "failed",
    }
    assert not any(r["is_unexpected"] for r in manifest.values())
    assert "damaged" in manifest["damaged.mp4"]["reason"]
    assert not (tmp_path / "out/films/damaged.mp4").exists()
    assert (tmp_path / "out/films/plain.mp4").read_bytes() == (films / "plain.mp4").read_bytes()

    for name in ("sound.mp4", "matroska.mkv", "turned.mp4"):
        assert frame_times(tmp_path / "out/films" / name) == frame_times(films / name)
    assert audio_packet_hash(tmp_path / "out/films/sound.mp4") == audio_packet_hash(films / "sound.mp4")

    mask = draw_boxes(parse_boxes(BOX), 96, 64, 0.0)
    hole = make_hole(mask, dilation_px=6, feather_px=4, chroma_step=(2, 2)).pixels
    for before, after in zip(planes(films / "sound.mp4"), planes(tmp_path / "out/films/sound.mp4"), strict=True):
        np.testing.assert_array_equal(before[0][~hole], after[0][~hole])
        np.testing.assert_array_equal(before[1][~hole[::2, ::2]], after[1][~hole[::2, ::2]])
        assert (before[0][mask] != after[0][mask]).mean() > 0.5

    # The same request again does nothing that is done, and tries what failed.
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/films").iterdir()}
    assert run(*words) == 1
    again = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/films").iterdir()}
    assert again == times

    # A mended source is done by the next run, and only it; also where many videos are planned in one task.
    monkeypatch.setattr(inpaint_chain, "MAX_SINGLE_ITEMS", 1)
    (films / "damaged.mp4").write_bytes(whole.read_bytes())
    (films / "words.mp4").write_bytes(whole.read_bytes())
    assert run(*words) == 1
    manifest = {Path(r["video"]).name: r for r in pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()}
    assert manifest["damaged.mp4"]["status"] == manifest["words.mp4"]["status"] == "done"
    assert manifest["absent.mp4"]["status"] == "failed"
    assert (tmp_path / "out/films/sound.mp4").stat().st_mtime_ns == times[tmp_path / "out/films/sound.mp4"]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_video_can_be_seen_long_before_the_job_ends(tmp_path: Path, checkpoint: Path) -> None:
    make_video(tmp_path / "short.mp4", num_frames=12)
    make_video(tmp_path / "long.mp4", num_frames=300)
    (tmp_path / "catalog.csv").write_text(f'video,boxes\nshort.mp4,"{BOX}"\nlong.mp4,"{BOX}"\n')
    output = tmp_path / "out"
    with watched_records(output) as seen:
        assert run(f"inpaint.catalog={tmp_path / 'catalog.csv'}", *made_in_tens(output, checkpoint)) == 0
    # What is written of the video once its output is there.
    published_ns = (ItemDir(output, "short").path / "outcome.json").stat().st_mtime_ns
    num_later = sum(written_ns > published_ns for written_ns, _ in seen.values())
    assert num_later > 15, f"{num_later} of 30 segments of the other video"


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_hours_that_end_in_the_middle_cost_no_segment(tmp_path: Path, checkpoint: Path) -> None:
    video = make_video(tmp_path / "film.mp4", num_frames=300, audio=True)
    request = (f"inpaint.video={video}", f"inpaint.boxes={BOX}")
    undisturbed = tmp_path / "undisturbed"
    with watched_records(undisturbed) as seen:
        assert run(*request, *made_in_tens(undisturbed, checkpoint)) == 0
    begun_ns = (undisturbed / "_sttn/run.json").stat().st_mtime_ns
    max_s = (min(written_ns for written_ns, _ in seen.values()) - begun_ns) / 1e9
    for number in range(20):  # how fast a machine is changes from run to run
        output = tmp_path / f"out-{number}"
        with watched_records(output) as seen:
            status = run(*request, *made_in_tens(output, checkpoint), f"inpaint.max_hours={max_s / 3600}")
            if status == 1 and 0 < len(seen) < 30:
                (row,) = pq.read_table(output / "manifest.parquet").to_pylist()
                assert row["status"] == "pending"
                assert not (output / "film.mp4").exists()
                assert run(*request, *made_in_tens(output, checkpoint)) == 0
                break
        max_s *= 0.6 if seen else 1.2
    else:
        pytest.fail("the hours never ended in the middle of the work")
    assert (output / "film.mp4").read_bytes() == (undisturbed / "film.mp4").read_bytes()


def made_in_tens(output: Path, checkpoint: Path) -> list[str]:
    """Where and how; frames in tens make many segments."""
    return [
        f"inpaint.output={output}",
        f"inpaint.checkpoint={checkpoint}",
        "inpaint.segment_frames=10",
        "encode.preset=ultrafast",
    ]


@pytest.mark.usefixtures("cluster")
def test_other_settings_on_the_same_output_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    make_video(tmp_path / "film.mp4", num_frames=12)
    words = (
        f"inpaint.video={tmp_path / 'film.mp4'}",
        f"inpaint.boxes={BOX}",
        f"inpaint.output={tmp_path / 'out'}",
        f"inpaint.checkpoint={checkpoint}",
        "encode.preset=ultrafast",
    )
    assert run(*words) == 0
    with pytest.raises(ConfigError, match="crf was 16, now 20"):
        run(*words, "encode.crf=20")


def test_a_wrong_request_exits_with_2_and_all_faults() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.inpaint", "inpaint.video=a.mp4", "inpaint.video_=b", "encode.crf=99"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "inpaint.video_: no such setting; did you mean inpaint.video?" in done.stderr
    assert "encode.crf=99" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_killed_driver_and_killed_process_give_the_same_bytes(tmp_path: Path, checkpoint: Path) -> None:
    make_video(tmp_path / "film.mp4", num_frames=150, audio=True)
    request = [f"inpaint.video={tmp_path / 'film.mp4'}", f"inpaint.boxes={BOX}", "inpaint.segment_frames=10"]
    request += [f"inpaint.checkpoint={checkpoint}"]
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert run(*request, f"inpaint.output={undisturbed}") == 0

    # With a Ray of its own, as most people run it.
    killed = start("pipelines.inpaint", *request, f"inpaint.output={disturbed}")
    first = wait_for_segments(disturbed, 2, killed)
    killed.kill()
    recorded = {p: p.stat().st_mtime_ns for p in first}

    def kill() -> None:
        wait_for_segments(disturbed, len(recorded) + 2)
        # What was recorded before the kill was not done again.
        assert {p: p.stat().st_mtime_ns for p in recorded} == recorded
        kill_ray_process(os.getpid(), "Completer")
        assert not (disturbed / "film.mp4").exists(), "the film was done before a process was killed; make it longer"

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        assert run(*request, f"inpaint.output={disturbed}") == 0
        killing.result()
    assert (disturbed / "film.mp4").read_bytes() == (undisturbed / "film.mp4").read_bytes()


def wait_for_segments(output: Path, count: int, program: Program | None = None) -> list[Path]:
    """The records that exist once there are at least `count`."""
    found: list[Path] = []

    def are_there() -> bool:
        found[:] = output.glob("_sttn/items/*/segment-*.json")
        return len(found) >= count

    wait_until(are_there, f"{count} recorded segments", program=program, moves=files_in(output))
    return found
