"""Metrics by their names: what the code defines is what the dashboard shows."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from pipelines import gauges

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "configs/grafana/sttn_ray_inpaint.json"
# As Ray 2.60 exports them, looked up on its /metrics page.
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


class FakeMetric:
    def __init__(self) -> None:
        self.calls: list[tuple[str, float, dict[str, str] | None]] = []

    def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
        assert value > 0  # Ray refuses others
        self.calls.append(("inc", value, tags))

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        self.calls.append(("set", value, tags))

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        self.calls.append(("observe", value, tags))


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeMetric]:
    made = {name: FakeMetric() for name in gauges.METRICS}
    monkeypatch.setattr(gauges, "_metric", made.__getitem__)
    return made


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def exported_names() -> dict[str, str]:
    """Names on the page that Prometheus reads, and the metrics' own."""
    return {f"ray_{name}{s}": name for name, metric in gauges.METRICS.items() for s in SUFFIXES[metric.kind]}


def test_every_metric_of_the_dashboard_is_defined_and_every_defined_one_is_shown():
    used = set(re.findall(r"\bray_\w+", " ".join(expressions())))
    exported = exported_names()
    assert used - set(exported) == set()
    assert {exported[name] for name in used} == set(gauges.METRICS)


def test_the_variables_ask_for_defined_metrics():
    variables = dashboard()["templating"]["list"]
    asked = set(re.findall(r"\bray_\w+", " ".join(v.get("definition", "") for v in variables)))
    assert asked
    assert asked <= set(exported_names())


def test_tags_of_the_dashboard_are_defined_ones():
    text = " ".join(expressions())
    tags = {tag for metric in gauges.METRICS.values() for tag in metric.tag_keys}
    filtered = set(re.findall(r"[{,](\w+)=", text))
    grouped = {tag for group in re.findall(r"by \(([^)]*)\)", text) for tag in re.split(r",\s*", group)}
    assert filtered | grouped <= tags | {gauges.JOB_TAG, "SessionName", "NodeAddress", "le"}
    values = dict.fromkeys(get_args(gauges.FrameStep), "step") | dict.fromkeys(gauges.STATUSES, "status")
    for tag, value in re.findall(r'(step|status)="(\w+)"', text):
        assert values[value] == tag


def test_panels_are_numbered_and_do_not_overlap():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len(taken) == 24 * (max(y for _, y in taken) + 1)  # nor leave a gap


def test_metrics_get_what_they_take(metrics: dict[str, FakeMetric]):
    gauges.count_frames("planned", 250)
    gauges.count_frames("completed", 0)
    gauges.count_bytes("written", 1000)
    gauges.count_bytes("read", 0)
    assert metrics["sttn_frames"].calls == [("inc", 250, {"step": "planned"})]
    assert metrics["sttn_bytes"].calls == [("inc", 1000, {"direction": "written"})]


def test_a_status_that_no_video_has_any_more_is_zero(metrics: dict[str, FakeMetric]):
    gauges.show_videos({"failed": 1})
    gauges.show_videos({"done": 1, "planned": 7})
    last = metrics["sttn_videos"].calls[len(gauges.STATUSES) :]
    assert last == [("set", int(status == "done"), {"status": status}) for status in gauges.STATUSES]


def test_a_block_that_fails_is_timed_and_no_longer_busy(metrics: dict[str, FakeMetric]):
    with pytest.raises(RuntimeError, match="broken"), gauges.timed("complete"), gauges.busy():
        raise RuntimeError("broken")
    ((kind, seconds, tags),) = metrics["sttn_step_seconds"].calls
    assert (kind, tags) == ("observe", {"step": "complete"})
    assert 0 <= seconds < 5
    assert [value for _, value, _ in metrics["sttn_busy_completers"].calls] == [1, 0]


def test_metrics_can_be_used_where_there_is_no_ray():
    program = (
        "import sys; from pipelines import gauges\n"
        "gauges.count_frames('planned', 1); gauges.show_videos({}); gauges.count_bytes('read', 1)\n"
        "with gauges.timed('plan'), gauges.busy(): pass\n"
        "assert gauges._metric.cache_info().currsize == len(gauges.METRICS)\n"
        "assert gauges._metric('sttn_frames').info['default_tags'] == {'JobId': ''}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
