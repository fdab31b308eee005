"""The demo, from nothing to the page."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.processes import start


@pytest.mark.slow
def test_demo_writes_the_page(tmp_path: Path) -> None:
    words = [f"demo.output={tmp_path / 'demo'}", "train.num_steps=6", "train.checkpoint_interval=3"]
    demo = start("pipelines.demo", *words, RAY_AUTH_MODE="disabled")
    assert demo.finish(tmp_path) == 0, demo.said()[-3000:]
    page = (tmp_path / "demo/report/index.html").read_text()
    for text in ("Telea", "temporal median", "Training samples", "<svg", "mask given as video"):
        assert text in page
    # Three frames of each of four clips, as before, mask and after; two sheets.
    assert len(list((tmp_path / "demo/report").glob("*.png"))) == 4 * 3 * 3 + 2
    rows = pq.read_table(tmp_path / "demo/completed-6/manifest.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["done"] * 4
    assert [row["frames"] for row in rows] == [60] * 4
