"""Previews: the grid against the picture's pixels, which frames are shown, and the page."""

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.catalog.complete import complete_segment
from sttn_ray.catalog.items import single_item
from sttn_ray.catalog.plan import Plan, plan_video
from sttn_ray.catalog.preview import displayed_frame, make_preview, preview_frames
from sttn_ray.completion.engine import Engine
from sttn_ray.completion.schedule import Schedule
from sttn_ray.errors import StorageError
from sttn_ray.masks.read import boxes_source, mask_source
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.report import preview
from sttn_ray.report.preview import draw_preview, preview_page, write_picture
from sttn_ray.video.index import index_video
from tests import plans
from tests.media import make_images, make_video

SETTINGS = replace(plans.SETTINGS, schedule=Schedule(num_references=1), dilation_px=2, feather_px=1)
BOX = "16,12,30,20"


@lru_cache
def make_engine() -> Engine:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True))
    return Engine(generator, device="cpu", precision="fp32", schedule=SETTINGS.schedule)


def make_plan(path: Path, boxes: str = BOX, **options: Any) -> Plan:
    video = make_video(path, **{"num_frames": 24, **options})
    (item,) = single_item(str(video), None, boxes)
    return plan_video(item, SETTINGS)


def gray(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


def box_mask(height: int, width: int, left: int, top: int, across: int, down: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[top : top + down, left : left + across] = True
    return mask


# Drawing


@pytest.mark.parametrize(
    ("width", "height", "scale", "step"),
    [(3840, 2160, 0.25, 200), (1920, 1080, 0.5, 100), (960, 540, 1, 50), (240, 160, 4, 20), (96, 64, 8, 10)],
)
def test_grid_lines_stand_on_the_pixels_that_labels_name(width: int, height: int, scale: float, step: int):
    drawn = draw_preview(gray(height, width), np.zeros((height, width), bool), None)
    left, top = preview._LABELS_LEFT, preview._LABELS_TOP + preview._TITLE
    # One below the top line, one right of the left line.
    along = drawn[top + 1, left : left + round(width * scale), 0]
    down = drawn[top : top + round(height * scale), left + 1, 0]
    assert np.flatnonzero(along != 90).tolist() == [int(x * scale) for x in range(0, width, step)]
    assert np.flatnonzero(down != 90).tolist() == [int(y * scale) for y in range(0, height, step)]


@pytest.mark.parametrize("ground", [0, 100, 120, 255])
def test_grid_lines_show_on_any_ground(ground: int):
    picture = np.full((540, 960, 3), ground, np.uint8)
    drawn = draw_preview(picture, np.zeros((540, 960), bool), None)
    line = drawn[preview._TITLE + preview._LABELS_TOP + 1, preview._LABELS_LEFT + 50]
    assert abs(int(line[0]) - ground) > 20


def test_hole_is_marked_where_it_is_and_nowhere_else():
    mask = box_mask(540, 960, 300, 210, 400, 160)
    before = gray(540, 960)
    drawn = draw_preview(before, mask, None).astype(int)
    panel_height = 540 + preview._TITLE + preview._LABELS_TOP + preview._GAP
    top, left = panel_height + preview._TITLE + preview._LABELS_TOP, preview._LABELS_LEFT
    shown = drawn[top : top + 540, left : left + 960]
    is_colored = np.ptp(shown, axis=2) > 0
    np.testing.assert_array_equal(is_colored, mask)
    assert (before == 90).all()  # what was given is not drawn on


def test_a_hole_of_one_pixel_shows_in_a_large_picture():
    drawn = draw_preview(gray(2160, 3840), box_mask(2160, 3840, 1110, 930, 1, 1), None).astype(int)
    assert (np.ptp(drawn, axis=2) > 60).any()


def test_wide_frames_stand_below_each_other_and_high_ones_side_by_side():
    mask = box_mask(1080, 1920, 0, 0, 1920, 540)
    wide = draw_preview(gray(1080, 1920), mask, gray(1080, 1920))
    high = draw_preview(gray(1920, 1080), mask.T, gray(1920, 1080))
    assert wide.shape[1] < 1100
    assert wide.shape[0] > 3 * 540
    assert high.shape[0] < 1100
    assert high.shape[1] > 3 * 540
    assert draw_preview(gray(1080, 1920), mask, None).shape[0] * 3 == wide.shape[0] * 2


def test_a_small_hole_is_drawn_once_more_and_larger():
    height, width = 1080, 1920
    after = gray(height, width)
    after[80:100, 1700:1780] = (0, 255, 0)
    without = draw_preview(gray(height, width), np.zeros((height, width), bool), gray(height, width))
    drawn = draw_preview(gray(height, width), box_mask(height, width, 1700, 80, 80, 20), after)
    assert drawn.shape[1] > without.shape[1] + 300
    detail = drawn[:, without.shape[1] :]
    num_green = (detail == (0, 255, 0)).all(2).sum()
    # 600 pixels for twice 80, and no line over them; its rim is mixed.
    assert num_green == pytest.approx(80 * 20 * 3.75**2, rel=0.08)


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (3000, 2), (17, 33)])
def test_frames_of_odd_sizes_are_drawn(size: tuple[int, int]):
    picture = gray(*size)
    drawn = draw_preview(picture, np.ones(size, bool), picture)
    assert drawn.dtype == np.uint8
    assert drawn.ndim == 3


def test_frames_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"\(64, 96, 3\), mask \(64, 95\)"):
        draw_preview(gray(64, 96), np.zeros((64, 95), bool), None)
    with pytest.raises(ValueError, match="one size"):
        draw_preview(gray(64, 96), np.zeros((64, 96), bool), gray(64, 97))


# Which frames


def test_frames_are_spread_over_those_with_a_hole(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "film.mp4", num_frames=60)))
    assert preview_frames(index, boxes_source(BOX), num_frames=3) == [10, 30, 50]
    assert preview_frames(index, boxes_source(f"{BOX}@0.8-1.2"), num_frames=2) == [22, 27]
    # The larger box counts where both are shown.
    assert preview_frames(index, boxes_source(f"{BOX};0,0,50,50@2-2.04"), num_frames=2) == [15, 50]
    assert preview_frames(index, boxes_source(f"{BOX}@0.4-0.48"), num_frames=5) == [10, 11]


def test_a_film_without_a_hole_shows_frames_all_the_same(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "film.mp4", num_frames=60)))
    assert preview_frames(index, boxes_source(f"{BOX}@50-60"), num_frames=3) == [10, 30, 50]


def test_the_largest_of_changing_masks_is_shown(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "film.mp4", num_frames=12)))
    masks = [box_mask(64, 96, 10, 10, 10 + (n in (4, 9)), 10) * np.uint8(255) for n in range(12)]
    source = mask_source(str(make_images(tmp_path / "masks", masks)))
    assert preview_frames(index, source, num_frames=2) == [4, 9]


# Completed frames


def test_a_preview_shows_what_the_whole_segment_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = make_plan(tmp_path / "film.mp4")
    engine = make_engine()
    drawn: list[tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.uint8]]] = []
    pasted: list[bytes] = []
    monkeypatch.setattr("sttn_ray.catalog.preview.draw_preview", lambda *pictures: drawn.append(pictures))
    monkeypatch.setattr(
        "sttn_ray.catalog.preview.complete_segment",
        lambda *arguments: pasted.extend(complete_segment(*arguments)) or pasted[-1:],
    )
    make_preview(plan, engine, SETTINGS, [13])
    assert pasted == list(complete_segment(plan, 1, engine, SETTINGS, lambda frames: None))[3:4]
    ((before, hole, after),) = drawn
    assert hole[12:32, 16:46].all()
    assert (before[hole] != after[hole]).any(1).mean() > 0.5
    # A bilinearly enlarged chroma sample reaches a pixel or two beyond the hole.
    beyond = box_mask(64, 96, 16 - 6, 12 - 6, 30 + 12, 20 + 12)
    np.testing.assert_array_equal(before[~beyond], after[~beyond])


def test_without_a_network_there_are_two_panels_a_frame(tmp_path: Path):
    plan = make_plan(tmp_path / "film.mp4", num_frames=12)
    two = make_preview(plan, None, SETTINGS, [2, 6])
    (three,) = make_preview(plan, make_engine(), SETTINGS, [6])
    assert len(two) == 2
    assert two[0].shape == two[1].shape
    assert two[0].shape[0] * 3 == three.shape[0] * 2


def test_a_frame_without_a_hole_is_shown_as_it_is(tmp_path: Path):
    plan = make_plan(tmp_path / "film.mp4", f"{BOX}@0-0.2", num_frames=12)
    engine = make_engine()
    (drawn,) = make_preview(plan, engine, SETTINGS, [9])
    height = drawn.shape[0] // 3
    np.testing.assert_array_equal(drawn[40:height], drawn[2 * height + 40 :])


def test_turned_videos_are_shown_as_a_player_does(tmp_path: Path):
    plan = make_plan(tmp_path / "film.mov", "2,50,10,12", num_frames=6, rotation=90)
    picture = displayed_frame(plan.index, 0)
    assert picture.shape == (96, 64, 3)
    # The coded picture's bright corner, upper left, comes to the lower left by a turn counterclockwise.
    assert picture[-12:, :12].mean() > 240
    assert picture[:12, :12].mean() < 240
    (drawn,) = make_preview(plan, None, replace(SETTINGS, dilation_px=0, feather_px=0), [0])
    red = np.ptp(drawn.astype(int), axis=2) > 60
    assert red.any()


# The page


def test_page_escapes_names_and_tells_faults(tmp_path: Path):
    name = 'a <b> & "c" #1?.mp4'
    (tmp_path / "preview").mkdir()
    write_picture(tmp_path / "preview" / f"{name}.jpg", gray(20, 30))
    rows = [
        {
            "video": f"/films/{name}",
            "boxes": "1,2,3,4@0-5",
            "mask": None,
            "output": name,
            "width": 96,
            "height": 64,
            "frames": 24,
            "hole_share": 0.0123,
            "notes": ["not copied: <x>"],
            "pictures": [{"frame": 12, "time_s": 0.48, "file": f"preview/{name}.jpg"}],
        },
        {"video": "b.mp4", "mask": "m.png", "status": "failed", "step": "plan", "reason": "b.mp4: no <such> file"},
        {"video": "odd\udcff.mp4", "boxes": BOX, "hole_share": 0.0},
    ]
    preview_page(tmp_path / "preview.html", rows)
    page = (tmp_path / "preview.html").read_text()
    assert "a &lt;b&gt; &amp; &quot;c&quot; #1?.mp4" in page
    assert "<b>" not in page
    assert "<x>" not in page
    assert "1,2,3,4@0-5" in page
    assert "hole 1.23% of the film" in page
    assert "no hole: will be copied" in page
    assert "failed at plan: b.mp4: no &lt;such&gt; file" in page
    assert "3 videos, 1 failed." in page
    (source,) = re.findall('src="([^"]*)"', page)
    assert source == "preview/a%20%3Cb%3E%20%26%20%22c%22%20%231%3F.mp4.jpg"


def test_pictures_and_page_go_to_an_object_store(bucket: str):
    from sttn_ray.paths import as_path

    write_picture(as_path(f"{bucket}/out/preview/0.jpg"), gray(20, 30))
    preview_page(as_path(f"{bucket}/out/preview.html"), [])
    with as_path(f"{bucket}/out/preview/0.jpg").open("rb") as file:
        assert Image.open(file).size == (30, 20)
    assert as_path(f"{bucket}/out/preview.html").read_text().startswith("<!doctype html>")


def test_a_picture_that_cannot_be_written_is_our_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write_picture(tmp_path / "file" / "0.jpg", gray(20, 30))
