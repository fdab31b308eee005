"""Charts as SVG: what is drawn, read back from the XML."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from sttn_ray.report.chart import MAX_POINTS, line_chart

SVG = "{http://www.w3.org/2000/svg}"
Point = tuple[float, float]


def draw(series: Mapping[str, Sequence[Point]], *, log_y: bool = False) -> ElementTree.Element:
    return ElementTree.fromstring(line_chart(series, title="Loss", x_label="step", y_label="L1", log_y=log_y))


def lines(chart: ElementTree.Element) -> list[list[Point]]:
    """Points of each polyline in pixels, each of them checked to be inside the picture."""
    width, height = (float(chart.attrib[name]) for name in ("width", "height"))
    found = []
    for line in chart.iter(f"{SVG}polyline"):
        pairs = [pair.split(",") for pair in line.attrib["points"].split()]
        found.append([(float(x), float(y)) for x, y in pairs])
        assert all(0 < x < width and 0 < y < height for x, y in found[-1])
    return found


def texts(chart: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in chart.iter(f"{SVG}text")]


def ticks(chart: ElementTree.Element) -> tuple[list[str], list[str]]:
    """Labels of the x axis and of the y axis: numbers in the middle below, and at the end of their box."""
    found: dict[str, list[str]] = {"middle": [], "end": []}
    for text in chart.iter(f"{SVG}text"):
        label = text.text or ""
        if label.lstrip("-").replace(".", "").replace("e+", "").replace("e-", "").isdigit():
            found[text.attrib["text-anchor"]].append(label)
    return found["middle"], found["end"]


def significant(label: str) -> str:
    return label.split("e")[0].lstrip("-").replace(".", "").strip("0")


def test_a_polyline_and_a_legend_entry_per_series():
    chart = draw({"train": [(0, 4), (1, 2), (2, 0)], "validation": [(0, 4), (2, 3)]})
    first, second = lines(chart)
    assert (len(first), len(second)) == (3, 2)
    assert first[0] == second[0]
    assert {"Loss", "step", "L1", "train", "validation"} <= set(texts(chart))
    colors = [line.attrib["stroke"] for line in chart.iter(f"{SVG}polyline")]
    assert len(set(colors)) == 2


def test_points_lie_where_the_ticks_say():
    chart = draw({"a": [(0, 0), (5, 20), (10, 40)]})
    (line,) = lines(chart)
    assert ticks(chart) == (["0", "2", "4", "6", "8", "10"], ["0", "10", "20", "30", "40"])
    where = {text.text: text for text in chart.iter(f"{SVG}text") if text.attrib.get("text-anchor") == "end"}
    assert line[1][1] == pytest.approx(float(where["20"].attrib["y"]) - 4)
    assert line[1][0] == pytest.approx((line[0][0] + line[2][0]) / 2, abs=0.1)
    assert line[0][1] > line[1][1] > line[2][1]  # up is more


def test_text_is_escaped():
    bad = "<b> & \"'"
    svg = line_chart({bad: [(0, 1)]}, title=bad, x_label=bad, y_label=bad)
    assert "<b>" not in svg
    chart = ElementTree.fromstring(svg)
    assert texts(chart).count(bad) == 4
    assert chart.attrib["aria-label"] == bad


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("value", [3.0, 1e-7, 123456.789])
def test_a_constant_is_a_level_line(value: float, log_y: bool):
    chart = draw({"a": [(0, value), (1, value)]}, log_y=log_y)
    ((start, end),) = lines(chart)
    assert start[1] == end[1]
    assert start[0] < end[0]
    low, *_, high = (float(label) for label in ticks(chart)[1])
    assert 0.8 * value < low < high < 1.2 * value


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_constant_zero_or_below_is_a_level_line(value: float):
    ((start, end),) = lines(draw({"a": [(0, value), (1, value)]}))
    assert start[1] == end[1]


@pytest.mark.parametrize("log_y", [False, True])
def test_one_point_is_drawn_as_a_dot(log_y: bool):
    chart = draw({"a": [(7, 0.5)]}, log_y=log_y)
    (((x, y),),) = lines(chart)
    (dot,) = chart.iter(f"{SVG}circle")
    assert (float(dot.attrib["cx"]), float(dot.attrib["cy"])) == (x, y)


@pytest.mark.parametrize("log_y", [False, True])
def test_an_empty_series_stays_in_the_legend(log_y: bool):
    chart = draw({"empty": [], "full": [(0, 1), (1, 2)]}, log_y=log_y)
    assert [len(line) for line in lines(chart)] == [0, 2]
    assert "empty" in texts(chart)
    assert "no values" not in texts(chart)
    assert "no values" in texts(draw({"empty": []}, log_y=log_y))
    assert lines(draw({}, log_y=log_y)) == []


def test_values_that_are_not_finite_are_left_out():
    nan, inf = math.nan, math.inf
    points = [(0, 1), (1, nan), (2, inf), (3, -inf), (nan, 1), (inf, 1), (4, 2)]
    chart = draw({"a": points, "b": [(0, nan)]})
    assert [len(line) for line in lines(chart)] == [2, 0]
    assert "nan" not in "".join(chart.itertext())
    assert lines(chart) == lines(draw({"a": [(0, 1), (4, 2)], "b": []}))


@pytest.mark.parametrize(("count", "drawn"), [(500, 500), (501, 251), (1000, 500), (12345, 494)])
def test_long_series_are_thinned_to_means(count: int, drawn: int):
    (line,) = lines(draw({"a": [(n, n % 2) for n in range(count)]}))
    assert len(line) == drawn <= MAX_POINTS


def test_the_mean_of_equal_runs_is_drawn():
    thinned = draw({"a": [(n, float(n % 2)) for n in range(1000)], "scale": [(0, 0), (1000, 1)]})
    by_hand = draw({"a": [(n + 0.5, 0.5) for n in range(0, 1000, 2)], "scale": [(0, 0), (1000, 1)]})
    assert lines(thinned) == lines(by_hand)
    last_run_is_shorter = lines(draw({"a": [(n, 0.0) for n in range(501)], "scale": [(0, 0), (500, 1)]}))
    assert last_run_is_shorter[0][-1][0] == last_run_is_shorter[1][-1][0]


@pytest.mark.parametrize("scale", [1e-9, 0.003, 0.1, 1, 7, 365, 123457, 1e12])
@pytest.mark.parametrize("offset", [-3.3, 0, 0.77])
def test_ticks_are_round_and_hold_the_values(scale: float, offset: float):
    low, high = scale * offset, scale * (offset + 1)
    for labels in ticks(draw({"a": [(low, low), (high, high)]})):
        assert 3 <= len(labels) <= 8
        assert len(set(labels)) == len(labels)
        numbers = [float(label) for label in labels]
        assert numbers[0] <= low + 1e-9 * scale
        assert numbers[-1] >= high - 1e-9 * scale
        steps = [b - a for a, b in pairwise(numbers)]
        assert steps == pytest.approx([steps[0]] * len(steps))
        assert significant(f"{steps[0]:.3g}") in {"1", "2", "5"}
        assert all(len(significant(label)) <= 3 for label in labels)


def test_ticks_far_from_zero_tell_neighbors_apart():
    _, labels = ticks(draw({"a": [(0, 123456789), (1, 123456792)]}))
    assert labels[0] == "123456789"
    assert len(set(labels)) == len(labels)


def test_a_logarithmic_axis_has_powers_of_ten_at_equal_distances():
    chart = draw({"a": [(0, 1), (1, 10), (2, 100), (3, 1000), (4, 0), (5, -1)]}, log_y=True)
    (line,) = lines(chart)
    assert ticks(chart)[1] == ["1", "10", "100", "1000"]
    heights = [y for _, y in line]
    steps = [a - b for a, b in pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.15)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1e-12, 1e12, ["1e-12", "1e-08", "0.0001", "1", "10000", "1e+08", "1e+12"]),
        (0.04, 0.6, ["0.05", "0.1", "0.2", "0.5"]),
        (3.2, 3.9, ["3.2", "3.4", "3.6", "3.8", "4"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(low: float, high: float, expected: list[str]):
    assert ticks(draw({"a": [(0, low), (1, high)]}, log_y=True))[1] == expected


def test_nine_series_are_told_apart():
    chart = draw({str(n): [(0, n), (1, n)] for n in range(9)})
    looks = {(line.attrib["stroke"], line.attrib["stroke-dasharray"]) for line in chart.iter(f"{SVG}polyline")}
    assert len(looks) == 9
    bottoms = [float(text.attrib["y"]) for text in chart.iter(f"{SVG}text")]
    assert max(bottoms) < float(chart.attrib["height"])
