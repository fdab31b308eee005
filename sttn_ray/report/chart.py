"""Lines over an axis, as a picture that stands in a page: SVG without scripts, styles or files from elsewhere."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 500  # of a series: nearly one a pixel
_WIDTH, _PLOT_HEIGHT, _TOP, _RIGHT, _BELOW, _LEGEND_ROW = 720, 280, 40, 24, 56, 20  # pixels
# Okabe and Ito's, which color-blind people tell apart too, without the yellow that is faint on white.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#222222", "#56b4e9", "#e69f00")
_DASHES = ("none", "7 4", "2 3")  # for the second and third time that the colors are used

_Numbers = TypeVar("_Numbers", float, NDArray[np.float64])


class _Axis(NamedTuple):
    """What an axis spans, and its ticks as places and labels. Of a logarithmic one, low, high and places are log10."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def share(self, values: _Numbers) -> _Numbers:
        """How far along the axis, 0 to 1."""
        return (values - self.low) / (self.high - self.low)


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
) -> str:
    """An svg element with one line per series and a legend below.

    Args:
        series: points (x, y) by name, in the order in which the line joins them. Those not finite are left out, and
            with log_y those at or below 0. Of more than 500 points the means of equal runs are drawn.
        log_y: the y axis is logarithmic.
    """
    lines = {name: _thinned(points, log_y=log_y) for name, points in series.items()}
    everything = np.concatenate([np.empty((0, 2)), *lines.values()])
    x_axis = _linear_axis(everything[:, 0], max_steps=7)
    y_axis = _log_axis(everything[:, 1]) if log_y else _linear_axis(everything[:, 1], max_steps=6)

    left = 44 + 7 * max(len(label) for _, label in y_axis.ticks)
    right, bottom = _WIDTH - _RIGHT, _TOP + _PLOT_HEIGHT
    middle, height = (left + right) / 2, bottom + _BELOW + _LEGEND_ROW * len(lines)
    parts = [_text(middle, 22, title, 'text-anchor="middle" font-size="15" font-weight="600"')]
    for place, label in y_axis.ticks:
        y = bottom - _PLOT_HEIGHT * y_axis.share(place)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(left - 8, y + 4, label, 'text-anchor="end"'))
    for place, label in x_axis.ticks:
        x = left + (right - left) * x_axis.share(place)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}" stroke="#222"/>')
        parts.append(_text(x, bottom + 19, label, 'text-anchor="middle"'))
    parts.append(f'<path d="M{left} {_TOP}V{bottom}H{right}" fill="none" stroke="#222"/>')
    parts.append(_text(middle, bottom + 38, x_label, 'text-anchor="middle"'))
    y_middle = (_TOP + bottom) / 2
    parts.append(_text(16, y_middle, y_label, f'text-anchor="middle" transform="rotate(-90 16 {y_middle})"'))
    if not len(everything):
        parts.append(_text(middle, y_middle, "no values", 'text-anchor="middle"'))
    for number, (name, points) in enumerate(lines.items()):
        color = _COLORS[number % len(_COLORS)]
        dashes = _DASHES[number // len(_COLORS) % len(_DASHES)]
        stroke = f'stroke="{color}" stroke-width="1.8" stroke-dasharray="{dashes}"'
        across = left + (right - left) * x_axis.share(points[:, 0])
        down = bottom - _PLOT_HEIGHT * y_axis.share(points[:, 1])
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
        parts.append(f'<polyline points="{places}" fill="none" stroke-linejoin="round" {stroke}/>')
        if len(points) == 1:  # a line of one point is not drawn
            parts.append(f'<circle cx="{across[0]:.1f}" cy="{down[0]:.1f}" r="3.5" fill="{color}"/>')
        row = bottom + _BELOW + _LEGEND_ROW * number
        parts.append(f'<line x1="{left}" x2="{left + 28}" y1="{row}" y2="{row}" {stroke}/>')
        parts.append(_text(left + 36, row + 4, name))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'style="max-width: 100%; height: auto" role="img" aria-label="{html.escape(title)}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#222">'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>'
    )


def _thinned(points: Sequence[tuple[float, float]], *, log_y: bool) -> NDArray[np.float64]:
    """What is drawn of a series: (up to 500, 2), y as log10 if log_y."""
    array = np.array(points, np.float64).reshape(-1, 2)
    array = array[np.isfinite(array).all(1)]
    if log_y:
        array = array[array[:, 1] > 0]
    if len(array) > MAX_POINTS:
        starts = np.arange(0, len(array), math.ceil(len(array) / MAX_POINTS))
        array = np.add.reduceat(array, starts) / np.diff(starts, append=len(array))[:, None]
    if log_y:
        array[:, 1] = np.log10(array[:, 1])
    return array


def _linear_axis(values: NDArray[np.float64], *, max_steps: int) -> _Axis:
    """From a round number below the values to one above."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    largest = max(abs(low), abs(high))
    if high - low <= 1e-9 * largest or high == low:  # a constant, or one but for rounding
        low, high = low - (0.05 * largest or 1), high + (0.05 * largest or 1)
    ticks = _round_numbers(low, high, max_steps=max_steps)
    return _Axis(ticks[0][0], ticks[-1][0], ticks)


def _log_axis(values: NDArray[np.float64]) -> _Axis:
    """From a little below the values to a little above, all log10; ticks at powers of ten where there are enough."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = max(0.04 * (high - low), 0.02)
    low, high = low - margin, high + margin
    decades = range(math.ceil(low), math.floor(high) + 1)
    if len(decades) >= 3:
        powers = decades[:: math.ceil(len(decades) / 8)]
        return _Axis(low, high, [(float(power), f"{10.0**power:g}") for power in powers])
    numbers = [float(f"{m}e{power}") for power in range(math.floor(low), math.ceil(high)) for m in (1, 2, 5)]
    ticks = [(math.log10(number), f"{number:g}") for number in numbers]
    ticks = [tick for tick in ticks if low <= tick[0] <= high]
    if len(ticks) < 3:  # a small part of a decade is nearly linear
        round_numbers = _round_numbers(10**low, 10**high, max_steps=6)
        ticks = [(math.log10(number), label) for number, label in round_numbers if 10**low <= number <= 10**high]
    return _Axis(low, high, ticks)


def _round_numbers(low: float, high: float, *, max_steps: int) -> list[tuple[float, str]]:
    """Multiples of 1, 2 or 5 times a power of ten, and their labels: the last below low to the first above high."""
    power = math.floor(math.log10((high - low) / max_steps))
    steps = [float(f"{m}e{p}") for p in (power, power + 1) for m in (1, 2, 5)]
    step = next(step for step in steps if math.ceil(high / step) - math.floor(low / step) <= max_steps)
    numbers = [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]
    # As many digits as tell neighbors apart, not those by which n * step misses the round number.
    digits = math.floor(math.log10(max(abs(number) for number in numbers) / step)) + 2
    return [(number, f"{number:.{max(7, digits)}g}") for number in numbers]


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{html.escape(text)}</text>'
