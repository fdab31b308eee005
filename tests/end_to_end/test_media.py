"""Real videos, ordinary and awkward, each done right or refused with a reason.

    pytest -m slow tests/end_to_end/test_media.py --media DIR

`benchmarks.media` tells what is compared.
"""

from pathlib import Path

import pytest
import ray

from benchmarks.media import run


@pytest.mark.slow
def test_every_video_is_done_right_or_refused(media: Path, tmp_path: Path) -> None:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        rows = run(media, tmp_path)
    finally:
        ray.shutdown()
    assert [row for row in rows if not row["is_right"]] == []
    assert any(row["status"] == "done" for row in rows)
