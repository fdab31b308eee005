"""`pipelines.inpaint` on awkward pictures: damaged, interlaced, of odd sizes, with ten bits; a look before the work."""

import logging
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import inpaint
from sttn_ray.config import load_experiment
from sttn_ray.masks.boxes import draw_boxes, parse_boxes
from sttn_ray.masks.hole import make_hole
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import index_video
from sttn_ray.video.write import write_clip
from tests.media import frame_times, make_damaged_copy, make_video
from tests.unit.test_video_deinterlace import make_interlaced

pytestmark = pytest.mark.usefixtures("cluster")
BOX = "16,12,30,20"


def run(folder: Path, checkpoint: Path, *more: str, is_dry: bool = False) -> int:
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".mp4", ".mkv", ".mov"))
    (folder / "catalog.csv").write_text("video,boxes\n" + "".join(f'{name},"{BOX}"\n' for name in names))
    request = [f"inpaint.catalog={folder}/catalog.csv", f"inpaint.checkpoint={checkpoint}"]
    request += [f"inpaint.output={folder}/out", "inpaint.segment_frames=14", "encode.preset=ultrafast", *more]
    return inpaint.run(load_experiment(request), is_dry=is_dry)


def rows_of(folder: Path) -> dict[str, dict]:
    rows = pq.read_table(folder / "out/manifest.parquet").to_pylist()
    return {Path(row["video"]).name: row for row in rows}


def test_a_damaged_video_may_be_concealed_and_says_so(tmp_path: Path, checkpoint: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", num_frames=40, audio=True)
    make_damaged_copy(whole, tmp_path / "damaged.mp4", start=0.5, stop=0.6)
    assert run(tmp_path, checkpoint, "inpaint.on_damage=conceal") == 0
    rows = rows_of(tmp_path)
    assert (rows["whole.mp4"]["status"], rows["damaged.mp4"]["status"]) == ("done", "degraded")
    assert "damaged frames of the source show the picture before them" in rows["damaged.mp4"]["notes"][-1]
    assert frame_times(tmp_path / "out/damaged.mp4") == frame_times(whole)


def test_an_interlaced_video_is_refused_or_deinterlaced(tmp_path: Path, checkpoint: Path) -> None:
    make_interlaced(tmp_path / "fields.mp4", num_frames=30)
    assert run(tmp_path, checkpoint) == 1
    assert "inpaint.interlaced=deinterlace" in rows_of(tmp_path)["fields.mp4"]["reason"]
    assert run(tmp_path, checkpoint, f"inpaint.output={tmp_path}/out2", "inpaint.interlaced=deinterlace") == 0
    assert frame_times(tmp_path / "out2/fields.mp4") == frame_times(tmp_path / "fields.mp4")
    with av.open(str(tmp_path / "out2/fields.mp4")) as container:
        assert not any(frame.interlaced_frame for frame in container.decode(video=0))


@pytest.mark.parametrize(
    ("pix_fmt", "size"),
    [
        ("yuv420p10le", (96, 64)),
        ("yuv422p10le", (96, 64)),
        ("yuv444p", (95, 63)),
        ("yuv420p", (95, 63)),
        ("yuv411p", (96, 64)),
        ("bgr0", (95, 63)),
        ("gbrp10le", (96, 64)),
    ],
)
def test_every_sample_outside_the_hole_is_the_sources(
    tmp_path: Path, checkpoint: Path, pix_fmt: str, size: tuple[int, int]
) -> None:
    width, height = size
    make_video(tmp_path / "film.mkv", num_frames=16, codec="ffv1", pix_fmt=pix_fmt, width=width, height=height)
    # What this codec cannot hold, and says so in the manifest, is encoded by one that can.
    assert run(tmp_path, checkpoint, "encode.codec=x264-lossless") == 0
    steps = {"yuv420": (2, 2), "yuv422": (2, 1), "yuv411": (4, 1)}.get(pix_fmt[:6], (1, 1))
    mask = draw_boxes(parse_boxes(BOX), width, height, 0.0)
    hole = make_hole(mask, dilation_px=6, feather_px=4, chroma_step=steps).pixels
    before, after = (index_video(str(path)) for path in (tmp_path / "film.mkv", tmp_path / "out/film.mkv"))
    assert before.pix_fmt == after.pix_fmt
    for old, new in zip(decode_range(before, 0, 16), decode_range(after, 0, 16), strict=True):
        a, b = old.to_ndarray(format="gbrp12le"), new.to_ndarray(format="gbrp12le")
        grown = np.pad(hole, 4)
        near = np.lib.stride_tricks.sliding_window_view(grown, (9, 9)).any((2, 3))  # where chroma is interpolated
        np.testing.assert_array_equal(a[~near], b[~near])


def test_a_look_before_the_work_writes_no_output(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_video(tmp_path / "a <b>.mp4", num_frames=40)
    make_video(tmp_path / "c.mp4", num_frames=20, seed=2)
    (tmp_path / "d.mp4").write_text("not a video")
    with caplog.at_level(logging.INFO):
        assert run(tmp_path, checkpoint, is_dry=True) == 1
    assert "videos   3: 2 to do, 1 fail" in caplog.text
    assert "frames   60, 60 of them with a hole" in caplog.text
    assert "frames/s with a hole in" in caplog.text
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, checkpoint, "inpaint.preview=3") == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["preview"]
    page = (tmp_path / "out/preview/index.html").read_text()
    assert page.count("<img") == 6
    assert "a &lt;b&gt;.mp4" in page
    assert "a <b>" not in page
    assert "failed at plan" in page


def test_a_standing_mark_is_found_shown_and_removed(tmp_path: Path, checkpoint: Path) -> None:
    rng = np.random.default_rng(0)
    shots = [cv2.resize(rng.integers(0, 255, (20, 40, 3), np.uint8), (320, 160)) for _ in range(12)]
    pictures = np.stack([shots[n // 8][:, 4 * (n % 8) :][:, :240] for n in range(96)])
    pictures[:, 10:30, 180:225] = (240, 240, 240)
    pictures[:, 15:25, 185:220:4] = (20, 20, 20)
    write_clip(tmp_path / "film.mp4", iter(pictures), fps=24, sound=np.zeros(4 * 48000, np.float32))
    words = [f"inpaint.video={tmp_path}/film.mp4", "inpaint.boxes=auto-logo", f"inpaint.checkpoint={checkpoint}"]
    words += [f"inpaint.output={tmp_path}/out", "encode.preset=ultrafast"]
    assert inpaint.run(load_experiment([*words, "inpaint.preview=1"])) == 0
    assert inpaint.run(load_experiment(words)) == 0
    note = rows_of(tmp_path)["film.mp4"]["notes"][0]
    assert note.startswith("boxes found by auto-logo: ")
    boxes = note.partition(": ")[2]
    assert f"boxes: <code>{boxes}</code>" in (tmp_path / "out/preview/index.html").read_text()
    (box,) = parse_boxes(boxes)
    left, top, right, bottom = box.pixels(240, 160)
    assert left <= 180 <= left + 12
    assert top <= 10 <= top + 12
    assert right - 12 <= 225 <= right
    assert bottom - 12 <= 30 <= bottom

    write_clip(tmp_path / "plain.mp4", iter(pictures[:3]), fps=24, sound=np.zeros(6000, np.float32))
    assert inpaint.run(load_experiment([*words, f"inpaint.video={tmp_path}/plain.mp4"])) == 1
    assert "no standing mark was found: too short to tell" in rows_of(tmp_path)["plain.mp4"]["reason"]
