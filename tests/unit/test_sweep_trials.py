"""What is known of the trials of a sweep: records, table, and page."""

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from sttn_ray.errors import TrialError
from sttn_ray.sweep.charts import Mark, make_scale, parallel_coordinates, scatter
from sttn_ray.sweep.page import write_sweep_page
from sttn_ray.sweep.space import Dimension
from sttn_ray.sweep.trials import (
    Trial,
    add_report,
    begin_generation,
    best_trial,
    describe,
    failed,
    going_on,
    last_step,
    leave_out,
    lineage,
    new_trial,
    read_trials,
    rungs,
    write_table,
    write_trial,
)

SVG = "{http://www.w3.org/2000/svg}"
KEY, WORD = "train.hole_weight", "train.adversarial_loss"
DIMENSIONS = [Dimension(KEY, "loguniform", (0.1, 10)), Dimension(WORD, "choice", ("hinge", "lsgan"))]


def trained(number: int, objectives: list[float], *, num_steps: int = 30) -> Trial:
    """A trial that was validated every ten steps."""
    values = {KEY: 0.5 * (number + 1), WORD: ("hinge", "lsgan")[number % 2]}
    trial = begin_generation(new_trial(number, values), values, None, numbered=False)
    for place, objective in enumerate(objectives, 1):
        metrics = {"hole_psnr": objective, "ssim": 0.5}
        trial = add_report(trial, step=10 * place, objective=objective, metrics=metrics, seconds=2, num_steps=num_steps)
    return trial


@pytest.fixture
def trials() -> list[Trial]:
    stopped = {**trained(1, [15.0]), "status": "stopped"}
    broken = failed(trained(2, [30.0]), TrialError("the gradient of step 12 is not finite"))
    return [
        trained(0, [16.0, 18.0, 17.5]),
        stopped,
        broken,
        trained(3, [16.0, 19.0]),
        new_trial(4, {KEY: 1, WORD: "x"}),
    ]


def test_what_someone_else_put_among_the_trials_is_passed_over(tmp_path: Path):
    write_trial(tmp_path, new_trial(0, {}))
    for name in ("trial-000-copy", "trial-000 (1)", "old/trial-000"):
        shutil.copytree(tmp_path / "trials/trial-000", tmp_path / "trials" / name)
    assert read_trials(tmp_path) == [new_trial(0, {})]


def test_when_trials_are_judged():
    assert rungs("asha", interval=100, reduction_factor=3, num_steps=1000) == [100, 300, 900, 1000]
    assert rungs("asha", interval=10, reduction_factor=2, num_steps=40) == [10, 20, 40]
    assert rungs("pbt", interval=10, reduction_factor=3, num_steps=35) == [10, 20, 30, 35]
    assert rungs("fifo", interval=10, reduction_factor=3, num_steps=35) == [35]


def test_a_trial_goes_through_its_states():
    trial = trained(0, [])
    assert (trial["status"], last_step(trial)) == ("waiting", 0)
    assert [trained(0, [1.0] * n)["status"] for n in (1, 2, 3)] == ["running", "running", "done"]
    assert last_step(trained(0, [1.0, 2.0])) == 20
    broken = failed(trained(0, [1.0]), TrialError("no number"))
    assert going_on(broken, num_steps=30) == trained(0, [1.0])
    assert going_on(trained(0, [1.0, 2.0, 3.0]), num_steps=30)["status"] == "done"


def test_a_generation_goes_on_where_another_trial_was():
    trial = trained(0, [1.0, 2.0])
    origin = {"trial": "trial-007", "folder": "trials/trial-007/generation-00", "step": 10, "asked_step": 10}
    taken = begin_generation(trial, {KEY: 3.0, WORD: "hinge"}, origin, numbered=True)
    assert last_step(taken) == 10
    assert taken["generations"][-1]["folder"] == "trials/trial-000/generation-01"
    assert taken["values"][KEY] == 3.0
    assert lineage(taken) == [
        "from the beginning: train.hole_weight=0.5 train.adversarial_loss=hinge",
        "from step 10 of trial-007: train.hole_weight=3.0 train.adversarial_loss=hinge",
    ]
    again = add_report(taken, step=20, objective=5.0, metrics={}, seconds=1, num_steps=30)
    assert last_step(again) == 20
    assert [report["generation"] for report in again["reports"]] == [0, 0, 1]


def test_a_training_that_was_given_up_counts_no_more(tmp_path: Path):
    """It got further, and was better, but nothing of it is left to be the best."""
    origin = {"trial": "trial-001", "folder": "trials/trial-001/generation-00", "step": 10, "asked_step": 10}
    ahead = begin_generation(trained(0, [5.0, 9.0]), {KEY: 3.0, WORD: "hinge"}, origin, numbered=True)
    assert best_trial([ahead, trained(1, [2.0])]) == trained(1, [2.0])
    assert best_trial([ahead]) is None
    (row,) = pq.read_table(write_table(tmp_path, [ahead], [KEY])).to_pylist()
    assert (row["step"], row["objective"], row["is_best"]) == (10, None, False)
    own = add_report(ahead, step=20, objective=4.0, metrics={}, seconds=1, num_steps=30)
    assert best_trial([own, trained(1, [2.0, 3.0])]) == own
    page = write_sweep_page(tmp_path, [own], DIMENSIONS, metric="hole_psnr", num_trials=1, num_steps=30)
    assert "The best is trial-000, 4 at step 20." in page.read_text()


def test_trials_that_have_not_begun_are_left_out_where_fewer_are_wanted(tmp_path: Path, trials: list[Trial]):
    for trial in [*trials, {**new_trial(1000, {KEY: 1}), "status": "running"}]:
        write_trial(tmp_path, trial)
    leave_out(tmp_path, 5)
    assert len(read_trials(tmp_path)) == 6
    leave_out(tmp_path, 2)
    # In the order of their numbers.
    assert [trial["trial"] for trial in read_trials(tmp_path)] == [*(f"trial-00{n}" for n in range(4)), "trial-1000"]


def test_the_best_is_the_best_of_those_that_were_trained_furthest(trials: list[Trial]):
    assert best_trial(trials) == trials[0]
    # It lost after others were stopped, which had been worse by then.
    assert best_trial([{**trained(1, [16.0]), "status": "stopped"}, trained(0, [17.0, 16.5, 15.0])]) == trained(
        0, [17.0, 16.5, 15.0]
    )
    assert best_trial([trained(0, [1.0, 2.0, 3.0]), trained(1, [1.0, 2.0, 4.0])]) == trained(1, [1.0, 2.0, 4.0])
    assert best_trial([new_trial(0, {})]) is None
    assert best_trial([failed(trained(0, [1.0]), TrialError("x"))]) is None
    assert best_trial([]) is None


def test_records_and_table(tmp_path: Path, trials: list[Trial]):
    assert read_trials(tmp_path) == []
    for trial in trials:
        write_trial(tmp_path, trial)
    assert read_trials(tmp_path) == trials
    rows = pq.read_table(write_table(tmp_path, read_trials(tmp_path), [KEY, WORD])).to_pylist()
    assert [row["status"] for row in rows] == ["done", "stopped", "failed", "running", "waiting"]
    assert [row["is_best"] for row in rows] == [True, False, False, False, False]
    assert [row["step"] for row in rows] == [30, 10, 10, 20, 0]
    assert (rows[0]["objective"], rows[0]["hole_psnr"], rows[0]["seconds"]) == (17.5, 17.5, 6)
    assert (rows[0][KEY], rows[1][WORD]) == (0.5, "lsgan")
    assert sorted(rows[1]["overrides"]) == ["train.adversarial_loss=lsgan", "train.hole_weight=1.0"]
    assert (rows[2]["error"], rows[2]["reason"]) == ("TrialError", "the gradient of step 12 is not finite")
    assert rows[4]["objective"] is None


def test_an_empty_table_is_written(tmp_path: Path):
    assert pq.read_table(write_table(tmp_path, [], [KEY])).num_rows == 0


def test_a_sweep_is_told_as_a_table(trials: list[Trial]):
    text = describe(trials, num_trials=8, num_steps=30, keys=[KEY, WORD], num_rows=3)
    first, head, *rows = text.splitlines()
    assert first == "sweep: 1 running, 1 done, 1 stopped, 1 failed, 4 waiting | best 17.500: trial-000"
    assert head.split() == ["trial", "status", "step", "objective", "hole_weight", "adversarial_loss"]
    assert [row.split()[0] for row in rows] == ["trial-003", "trial-000", "trial-001", "and"]
    assert rows[0].split()[1:4] == ["running", "20/30", "19.000"]
    assert rows[-1].strip() == "and 2 more"


@pytest.mark.parametrize(
    ("num_trials", "title"),
    [
        (0, "The trials over their steps"),
        (1, "The trial over its steps"),
        (4, "The trials over their steps"),
        (7, "The trials over their steps"),
        (9, "The best 7 of 9 trials over their steps"),
    ],
)
def test_the_page_says_how_many_trials_a_chart_has(tmp_path: Path, num_trials: int, title: str):
    trials = [trained(number, [float(number)]) for number in range(num_trials)]
    trials.append(new_trial(num_trials, {KEY: 1, WORD: "hinge"}))
    page = write_sweep_page(tmp_path, trials, DIMENSIONS, metric="hole_psnr", num_trials=num_trials + 1, num_steps=30)
    assert title in page.read_text()
    assert ("1 trial: " in page.read_text()) == (num_trials == 0)


def test_the_page_shows_every_trial(tmp_path: Path, trials: list[Trial]):
    trials[4]["values"][WORD] = "hinge"
    page = write_sweep_page(tmp_path, trials, DIMENSIONS, metric="hole_psnr", num_trials=7, num_steps=30)
    text = page.read_text()
    assert page == tmp_path / "report/index.html"
    assert all(trial["trial"] in text for trial in trials)
    assert "7 trials: 1 running, 1 done, 1 stopped, 1 failed, 3 waiting." in text
    assert "trial-000 (best)" in text
    assert "the gradient of step 12 is not finite" in text
    assert text.count("<svg") == 4
    assert "<script" not in text


def marks() -> list[Mark]:
    return [
        Mark("a", {KEY: 0.1, WORD: "hinge"}, 10.0, is_whole=True, is_best=False, has_failed=False),
        Mark("b", {KEY: 1.0, WORD: "lsgan"}, 12.0, is_whole=False, is_best=False, has_failed=False),
        Mark("c", {KEY: 10.0, WORD: "hinge"}, 14.0, is_whole=True, is_best=True, has_failed=False),
        Mark("d", {KEY: 5.0, WORD: "lsgan"}, 30.0, is_whole=False, is_best=False, has_failed=True),
        Mark("e", {KEY: 5.0, WORD: "hinge"}, None, is_whole=False, is_best=False, has_failed=False),
    ]


def test_a_line_for_each_trial_over_all_axes():
    scales = {KEY: make_scale([0.1, 1, 10, 5], is_log=True), WORD: make_scale(["hinge", "lsgan"], is_log=False)}
    chart = ElementTree.fromstring(parallel_coordinates(marks(), scales, objective="hole_psnr"))
    lines = list(chart.iter(f"{SVG}polyline"))
    ends = {(line[0].text or "").partition(":")[0]: line for line in lines}
    points = {name: line.attrib["points"].split() for name, line in ends.items()}
    # What failed, or has no value yet, ends before the objective.
    assert {name: len(found) for name, found in points.items()} == {"a": 3, "b": 3, "c": 3, "d": 2, "e": 2}
    heights = [float(points[name][0].split(",")[1]) for name in "abc"]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)  # logarithmic, upward
    assert lines[-1] is ends["c"]  # on top
    assert ends["d"].attrib["stroke-dasharray"] != "none"
    assert len({ends[name].attrib["stroke"] for name in "abcd"}) == 4
    texts = [text.text for text in chart.iter(f"{SVG}text")]
    assert {"hole_weight", "adversarial_loss", "hole_psnr", "hinge", "lsgan"} <= set(texts)
    width, height = (float(chart.attrib[name]) for name in ("width", "height"))
    assert all(
        0 < x < width and 0 < y < height
        for found in points.values()
        for x, y in (map(float, point.split(",")) for point in found)
    )


def test_a_circle_for_each_trial_with_a_value():
    chart = ElementTree.fromstring(
        scatter(marks(), KEY, make_scale([0.1, 1, 10, 5], is_log=True), objective="hole_psnr")
    )
    circles = {(circle[0].text or "").partition(":")[0]: circle for circle in chart.iter(f"{SVG}circle")}
    assert set(circles) == {"a", "b", "c"}
    assert circles["b"].attrib["fill"] == "#fff" != circles["a"].attrib["fill"]
    assert float(circles["c"].attrib["cy"]) < float(circles["b"].attrib["cy"]) < float(circles["a"].attrib["cy"])


def test_pictures_without_a_value_are_drawn_too():
    nothing = [Mark("a", {KEY: 1.0}, None, is_whole=False, is_best=False, has_failed=True)]
    scale = make_scale([1.0], is_log=True)
    for chart in (
        scatter(nothing, KEY, scale, objective="psnr"),
        parallel_coordinates(nothing, {KEY: scale}, objective="psnr"),
    ):
        assert ElementTree.fromstring(chart).tag == f"{SVG}svg"
