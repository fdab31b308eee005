"""Totals of a job by hand, and the text a person reads."""

from pathlib import Path
from typing import Any

import pytest

from sttn_ray.catalog.estimate import describe_bytes, describe_estimate, estimate_job, plan_facts
from sttn_ray.catalog.items import single_item
from sttn_ray.catalog.plan import plan_video
from tests.media import make_black_mask, make_video
from tests.unit.test_preview import SETTINGS

JOB = {"frames_per_s": 2.0, "num_processes": 4, "codec": "libx264", "crf": 16}


def todo(video: str = "a.mp4", **changes: Any) -> dict[str, Any]:
    row = {
        "video": video,
        "status": "todo",
        "reason": "",
        "frames": 1000,
        "width": 1920,
        "height": 1080,
        "hole_share": 0.02,
        "hole_frames": 800,
        "segments": 4,
        "source_bytes": 10_000_000,
    }
    return row | changes


def failed(video: str, reason: str) -> dict[str, Any]:
    return {"video": video, "status": "failed", "reason": reason}


def test_facts_of_a_plan(tmp_path: Path):
    video = make_video(tmp_path / "film.mov", num_frames=24, rotation=90)
    (item,) = single_item(str(video), None, "10,12,30,20@0-0.6")
    plan = plan_video(item, SETTINGS)
    facts = plan_facts(plan, range(len(plan.segments)))
    assert facts == {
        "video": str(video),
        "status": "todo",
        "reason": "",
        "frames": 24,
        "width": 64,
        "height": 96,
        "hole_share": plan.hole_share,
        "hole_frames": 15,
        "segments": 3,
        "source_bytes": video.stat().st_size,
    }
    rest = plan_facts(plan, [1, 2])
    assert (rest["frames"], rest["hole_frames"], rest["segments"]) == (14, 5, 2)
    (item,) = single_item(str(video), str(make_black_mask(tmp_path / "black.png", width=64, height=96)), None)
    assert plan_facts(plan_video(item, SETTINGS), [])["status"] == "copied"


def test_totals_by_hand():
    rows = [
        todo(),
        todo("b.mp4", frames=3000, hole_share=0.06, hole_frames=3000, segments=12, source_bytes=2_000_000),
        todo("c.mp4", status="copied", hole_share=0.0, hole_frames=0, source_bytes=7_000_000),
        {"video": "d.mp4", "status": "done"},
        failed("e.mp4", "e.mp4: no such file"),
    ]
    estimate = estimate_job(rows, **JOB)
    assert (estimate.todo, estimate.copied, estimate.done, estimate.failed, estimate.videos) == (2, 1, 1, 1, 5)
    assert (estimate.frames, estimate.hole_frames, estimate.segments) == (4000, 3800, 16)
    assert estimate.hole_share == pytest.approx((0.02 + 3 * 0.06) / 4)
    assert estimate.hours == pytest.approx(3800 / 8 / 3600)
    assert estimate.output_bytes == 7_000_000 + 12_000_000 * 1.7


def test_more_processes_than_segments_do_not_help():
    assert estimate_job([todo(segments=1)], **JOB).hours == pytest.approx(800 / 2 / 3600)


def test_bytes_follow_the_codec():
    assert estimate_job([todo()], **JOB | {"crf": 16 + 7.7}).output_bytes == pytest.approx(8_500_000)
    lossless = estimate_job([todo()], **JOB | {"codec": "ffv1"}).output_bytes
    assert lossless == pytest.approx(1000 * 1920 * 1080 * 0.37)


def test_a_job_of_nothing_takes_nothing():
    for rows in ([], [failed("a.mp4", "no")], [{"video": "a.mp4", "status": "done"}]):
        estimate = estimate_job(rows, **JOB)
        assert (estimate.frames, estimate.hours, estimate.output_bytes, estimate.hole_share) == (0, 0, 0, 0)
        assert "time" not in describe_estimate(rows, estimate)


@pytest.mark.parametrize("wrong", [{"frames_per_s": 0.0}, {"frames_per_s": float("nan")}, {"num_processes": 0}])
def test_wrong_rates_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match="above 0"):
        estimate_job([], **JOB | wrong)


def test_an_unknown_status_is_refused():
    with pytest.raises(ValueError, match="no status 'segment'"):
        estimate_job([todo(status="segment")], **JOB)


def test_the_text():
    rows = [
        todo(),
        todo("c.mp4", status="copied", hole_share=0.0, hole_frames=0, source_bytes=7_000_000),
        {"video": "d.mp4", "status": "done"},
        failed("e.mp4", "e.mp4: no such\n  file"),
    ]
    assert describe_estimate(rows, estimate_job(rows, **JOB)).splitlines() == [
        "video       size  frames  with hole   hole  segments",
        "e.mp4                                                 FAILS: no such file",
        "a.mp4  1920x1080   1,000        800  2.00%         4",
        "c.mp4  1920x1080   1,000          0                   no hole: is copied",
        "d.mp4                                                 done already",
        "",
        "videos   4: 1 to do, 1 without a hole, copied, 1 done already, 1 fail",
        "frames   1,000, 800 of them with a hole (mean of all 2.00% of the picture), in 4 segments",
        "time     about 2 minutes at 2 frames/s with a hole in each of 4 processes",
        "disk     about 24 MB to write",
    ]


def test_without_a_rate_no_time_is_told():
    text = describe_estimate([todo()], estimate_job([todo()], **JOB | {"frames_per_s": None}))
    assert "time     cannot be told before a first segment is measured" in text


def test_a_large_catalog_is_cut_and_those_that_fail_are_seen():
    rows = [todo(f"{n}.mp4", frames=10**6, hole_frames=10**6) for n in range(5000)] + [failed("z.mp4", "x" * 500)]
    text = describe_estimate(rows, estimate_job(rows, **JOB))
    lines = text.splitlines()
    assert lines[1].startswith("z.mp4")
    assert max(map(len, lines)) < 200
    assert "... and 4,981 more" in lines
    assert "days at 2 frames/s" in text
    assert len(lines) == 1 + 20 + 1 + 1 + 4


def test_long_names_keep_their_end():
    rows = [todo("/archive/" + "deep/" * 30 + "film.mp4")]
    line = describe_estimate(rows, estimate_job(rows, **JOB)).splitlines()[1]
    assert line.startswith("...")
    assert "deep/film.mp4  1920x1080" in line


def test_bytes_for_a_person():
    sizes = [0, 999, 1500, 2_340_000, 5_600_000_000, 12_345_000_000_000_000]
    assert [describe_bytes(n) for n in sizes] == ["0 bytes", "999 bytes", "1.5 kB", "2.34 MB", "5.6 GB", "12,345.0 TB"]
