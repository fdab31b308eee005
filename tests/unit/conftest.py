"""A video with a mask, and its segments."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import Plan, plan_video
from sttn_ray.catalog.records import ItemDir
from tests.media import make_video
from tests.plans import SETTINGS, do_segment


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("films") / "film.mp4", num_frames=24, audio=True)


@pytest.fixture
def item(film: Path, tmp_path: Path) -> Item:
    """A video and a mask that a test may replace."""
    video = tmp_path / "films" / "film.mp4"
    video.parent.mkdir()
    video.write_bytes(film.read_bytes())
    mask = np.zeros((64, 96), np.uint8)
    mask[20:30, 30:50] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return Item(video=str(video), mask=str(tmp_path / "mask.png"), boxes=None, output="day/film")


@pytest.fixture
def work(item: Item, tmp_path: Path) -> tuple[ItemDir, Plan]:
    """A planned video with all its segments encoded."""
    item_dir, plan = ItemDir(tmp_path / "out", item.output), plan_video(item, SETTINGS)
    item_dir.write_plan(plan)
    for number in range(len(plan.segments)):
        do_segment(item_dir, plan, number)
    return item_dir, plan
