"""The demo, from nothing to the page."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_demo_writes_the_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.demo", f"demo.output={tmp_path / 'demo'}", "demo.fit_seconds=3"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600, env=os.environ | {"RAY_AUTH_MODE": "disabled"})
    page = (tmp_path / "demo/report/index.html").read_text()
    for name in ("moving object", "logo"):
        assert name in page
    assert len(list((tmp_path / "demo/report").glob("*.png"))) == 18
    rows = pq.read_table(tmp_path / "demo/completed/manifest.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["done", "done"]
    assert [row["frames"] for row in rows] == [60, 60]
