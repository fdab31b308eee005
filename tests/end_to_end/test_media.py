"""Real videos, ordinary and awkward, each done right or refused with a reason.

    pytest -m slow tests/end_to_end/test_media.py --media DIR

DIR is searched for videos; each gets a box. A small network with random weights serves: what is checked is what must
hold whatever the network paints.
"""

import csv
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray

from pipelines import inpaint
from sttn_ray.config import load_experiment
from sttn_ray.masks.hole import make_hole
from sttn_ray.masks.read import boxes_source, read_masks
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from sttn_ray.video.assemble import packet_hashes
from sttn_ray.video.color import color_format, frame_planes
from sttn_ray.video.index import index_video

SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts"}
BOX = "10%,10%,30%,20%"


@pytest.mark.slow
def test_every_video_is_done_right_or_refused(media: Path, tmp_path: Path) -> None:
    save_generator(
        tmp_path / "tiny.pt",
        Generator(GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)),
    )
    videos = sorted(p for p in media.rglob("*") if p.suffix in SUFFIXES)
    with open(tmp_path / "catalog.csv", "w", newline="") as file:
        csv.writer(file).writerows([["video", "boxes"], *([str(p), BOX] for p in videos)])
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        inpaint.run(
            load_experiment(
                [
                    f"inpaint.catalog={tmp_path / 'catalog.csv'}",
                    f"inpaint.output={tmp_path / 'out'}",
                    f"inpaint.checkpoint={tmp_path / 'tiny.pt'}",
                    "encode.codec=ffv1",
                ]
            )
        )
    finally:
        ray.shutdown()
    rows = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    assert len(rows) == len(videos)
    for row in rows:
        assert not row["is_unexpected"], row["reason"]
        if row["status"] == "done":
            check_output(Path(row["video"]), tmp_path / "out" / row["output"])
        else:
            assert row["status"] == "failed"
            assert Path(row["video"]).name in row["reason"]


def check_output(source: Path, output: Path) -> None:
    """Same frames at the same times, sound packet by packet, untouched outside the hole, changed inside."""
    before, after = index_video(str(source)), index_video(str(output))
    tick = max(before.time_base, after.time_base)
    assert before.num_frames == after.num_frames
    for a, b in zip(before.pts, after.pts, strict=True):
        assert abs(a * before.time_base - b * after.time_base) <= (tick / 2 if output.suffix == ".mkv" else 0)
    audio = [s.index for s in before.others if s.kind == "audio"]
    copied = [s.index for s in after.others if s.kind == "audio"]
    assert packet_hashes(str(source), audio) == packet_hashes(str(output), copied)
    color = color_format(before.pix_fmt, *before.color[:2])
    (mask,) = read_masks(boxes_source(BOX), before, 0, 1)
    hole = make_hole(mask, dilation_px=6, feather_px=4, chroma_step=color.chroma_step).pixels
    step_x, step_y = color.chroma_step
    with av.open(str(source)) as first, av.open(str(output)) as second:
        wanted = (f for f in first.decode(first.streams[before.stream]) if f.pts >= before.pts[0])
        for a, b in zip(wanted, second.decode(video=0), strict=True):
            planes = zip(frame_planes(a, color), frame_planes(b, color), strict=True)
            for number, (old, new) in enumerate(planes):
                inside = hole if number == 0 else hole[::step_y, ::step_x]
                np.testing.assert_array_equal(old[~inside], new[~inside])
                assert number > 0 or (old[inside] != new[inside]).any()
