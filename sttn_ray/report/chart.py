"""Lines over an axis, as a picture that stands in a page: SVG without scripts, styles or files from elsewhere."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sttn_ray.report.axes import COLORS, linear_axis, log_axis, svg, text_at

MAX_POINTS = 500  # of a series: nearly one a pixel
_WIDTH, _PLOT_HEIGHT, _TOP, _RIGHT, _BELOW, _LEGEND_ROW = 720, 280, 40, 24, 56, 20  # pixels
_DASHES = ("none", "7 4", "2 3")  # for the second and third time that the colors are used


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
    x_axis = linear_axis(everything[:, 0], max_steps=7)
    y_axis = log_axis(everything[:, 1]) if log_y else linear_axis(everything[:, 1], max_steps=6)

    left = 44 + 7 * max(len(label) for _, label in y_axis.ticks)
    right, bottom = _WIDTH - _RIGHT, _TOP + _PLOT_HEIGHT
    middle, height = (left + right) / 2, bottom + _BELOW + _LEGEND_ROW * len(lines)
    parts = [text_at(middle, 22, title, 'text-anchor="middle" font-size="15" font-weight="600"')]
    for place, label in y_axis.ticks:
        y = bottom - _PLOT_HEIGHT * y_axis.share(place)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(text_at(left - 8, y + 4, label, 'text-anchor="end"'))
    for place, label in x_axis.ticks:
        x = left + (right - left) * x_axis.share(place)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}" stroke="#222"/>')
        parts.append(text_at(x, bottom + 19, label, 'text-anchor="middle"'))
    parts.append(f'<path d="M{left} {_TOP}V{bottom}H{right}" fill="none" stroke="#222"/>')
    parts.append(text_at(middle, bottom + 38, x_label, 'text-anchor="middle"'))
    y_middle = (_TOP + bottom) / 2
    parts.append(text_at(16, y_middle, y_label, f'text-anchor="middle" transform="rotate(-90 16 {y_middle})"'))
    if not len(everything):
        parts.append(text_at(middle, y_middle, "no values", 'text-anchor="middle"'))
    for number, (name, points) in enumerate(lines.items()):
        color = COLORS[number % len(COLORS)]
        dashes = _DASHES[number // len(COLORS) % len(_DASHES)]
        stroke = f'stroke="{color}" stroke-width="1.8" stroke-dasharray="{dashes}"'
        across = left + (right - left) * x_axis.share(points[:, 0])
        down = bottom - _PLOT_HEIGHT * y_axis.share(points[:, 1])
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
        parts.append(f'<polyline points="{places}" fill="none" stroke-linejoin="round" {stroke}/>')
        if len(points) == 1:  # a line of one point is not drawn
            parts.append(f'<circle cx="{across[0]:.1f}" cy="{down[0]:.1f}" r="3.5" fill="{color}"/>')
        row = bottom + _BELOW + _LEGEND_ROW * number
        parts.append(f'<line x1="{left}" x2="{left + 28}" y1="{row}" y2="{row}" {stroke}/>')
        parts.append(text_at(left + 36, row + 4, name))
    return svg(parts, width=_WIDTH, height=height, title=title)


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
