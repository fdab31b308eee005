"""What the driver of a bulk run makes of outcomes while they come in."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines import inpaint_outcomes
from pipelines.inpaint_outcomes import collect, current_outcomes, keep_manifest
from sttn_ray.catalog.items import Item
from sttn_ray.catalog.manifest import manifest_row, pack_outcomes, read_manifest, write_manifest
from sttn_ray.errors import VideoError, failed_outcome

ITEMS = [Item(video=f"/films/{n}.mp4", mask=None, boxes="1,2,3,4", output=str(n)) for n in range(4)]
DONE = {"status": "done", "output": "0.mp4", "frames": 10, "seconds": 2.0}
FAILED = failed_outcome("plan", VideoError("it is damaged"))


def rows(*outcomes: dict[int, dict[str, Any]]) -> list[dict[str, str]]:
    return [{"outcomes": pack_outcomes(some) if some else ""} for some in outcomes]


def statuses(output_dir: Path) -> list[str]:
    return [row["status"] for row in pq.read_table(output_dir / "manifest.parquet").to_pylist()]


def test_failures_are_told_as_they_come_and_the_manifest_stands_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inpaint_outcomes, "MANIFEST_INTERVAL_S", 0.0)
    outcomes: dict[int, dict[str, Any]] = {}
    told: list[str] = []
    seen: list[list[str]] = []

    def arriving() -> Iterator[dict[str, str]]:
        for row in rows({0: DONE}, {}, {2: FAILED}, {2: DONE}):
            yield row
            seen.append([*told, *statuses(tmp_path)])

    def keep() -> None:
        keep_manifest(tmp_path, ITEMS, outcomes)

    assert collect(arriving(), ITEMS, outcomes, 1.0, tell=told.append, keep=keep) is None
    reason = "failed at plan: /films/2.mp4: it is damaged"
    assert seen == [
        ["done", "pending", "pending", "pending"],
        ["done", "pending", "pending", "pending"],
        [reason, "done", "pending", "failed", "pending"],
        [reason, "done", "pending", "failed", "pending"],
    ]


def collected(fraction: float, num_items: int, *failed: int) -> tuple[str | None, int]:
    """Why a job of which some videos fail is stopped, and how many outcomes it had then."""
    outcomes: dict[int, dict[str, Any]] = {}
    items = [replace(ITEMS[0], output=str(n)) for n in range(num_items)]
    arriving = iter(rows(*({n: FAILED if n in failed else DONE} for n in range(num_items))))
    stopped = collect(arriving, items, outcomes, fraction, tell=lambda _: None, keep=lambda: None)
    return stopped, len(outcomes)


def test_too_many_failures_stop_the_job() -> None:
    stopped, num_known = collected(0.3, 40, *range(2, 20))
    assert stopped is not None
    assert stopped.startswith("13 of 40 videos failed, more than inpaint.max_error_fraction=0.3 allows")
    assert num_known == 15


def test_a_small_catalog_is_tried_in_full_and_none_may_fail_where_that_is_said() -> None:
    assert collected(0.3, 12, *range(10)) == (None, 12)
    stopped, num_known = collected(0.3, 12, *range(11))
    assert stopped is not None
    assert num_known == 11
    stopped, num_known = collected(0, 12, 4)
    assert stopped is not None
    assert num_known == 5


def test_a_job_that_is_at_its_end_is_not_stopped() -> None:
    assert collected(0.3, 11, *range(11)) == (None, 11)
    assert collected(0, 3, 2) == (None, 3)
    assert collected(1, 40, *range(40)) == (None, 40)


def test_what_was_known_before_stays_known(tmp_path: Path) -> None:
    write_manifest(tmp_path, [manifest_row(ITEMS[1], DONE | {"output": "1.mp4"}), manifest_row(ITEMS[3], FAILED)])
    keep_manifest(tmp_path, ITEMS, {0: DONE, 3: DONE | {"output": "3.mp4"}})
    assert statuses(tmp_path) == ["done", "done", "pending", "done"]
    assert [row["output"] for row in read_manifest(tmp_path)] == ["0.mp4", "1.mp4", None, "3.mp4"]


def test_a_manifest_that_cannot_be_read_is_written_anew(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == []
    (tmp_path / "manifest.parquet").write_bytes(b"no table")
    keep_manifest(tmp_path, ITEMS, {0: DONE})
    assert statuses(tmp_path)[0] == "done"


def test_a_damaged_manifest_is_written_anew_whatever_pyarrow_makes_of_it(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, [manifest_row(item, DONE) for item in ITEMS])
    whole = path.read_bytes()
    for place in range(4, len(whole), 7):
        path.write_bytes(whole[:place] + b"\xff\x80" + whole[place + 2 :])
        assert len(read_manifest(tmp_path)) in (0, len(ITEMS))
    keep_manifest(tmp_path, ITEMS, {0: DONE})
    assert statuses(tmp_path)[0] == "done"


def test_a_manifest_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "out").write_text("a file")
    keep_manifest(tmp_path / "out", ITEMS, {0: DONE})
    assert "the manifest of what is done so far was not written" in caplog.text


def test_a_row_that_cannot_be_used_is_no_reason_to_start_a_cluster(tmp_path: Path) -> None:
    items = [Item(video="a.mp4", mask=None, boxes=None, output="a", fault="line 2: no mask and no boxes")]
    (outcome,) = current_outcomes(items, tmp_path, "settings").values()
    assert (outcome["status"], outcome["step"]) == ("failed", "plan")
    assert outcome["reason"] == "line 2: no mask and no boxes"
    assert list(tmp_path.iterdir()) == []
