"""The pictures of a sweep: trials over all searched keys at once, and each key against the objective; SVG as text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sttn_ray.report.axes import COLORS, Axis, linear_axis, log_axis, svg, text_at
from sttn_ray.shown import as_html
from sttn_ray.sweep.space import as_text

_WIDTH, _HEIGHT, _TOP, _SIDE, _BELOW = 720, 280, 56, 72, 56  # pixels
_WORST, _BEST = (205, 205, 205), (0, 114, 178)  # gray to blue, which color-blind people see as light to dark
_BEST_OF_ALL, _FAILED = COLORS[1], COLORS[3]


class Mark(NamedTuple):
    """A trial in a picture.

    Attributes:
        name: shown where the pointer rests on it.
        values: by key.
        objective: None where it was never measured.
        is_whole: it was trained to its end, not stopped before.
        is_best: of all.
        has_failed: its values are no good, whatever the objective was before.
    """

    name: str
    values: Mapping[str, Any]
    objective: float | None
    is_whole: bool
    is_best: bool
    has_failed: bool


class Scale(NamedTuple):
    """An axis for values of one key, which may be words."""

    axis: Axis
    is_log: bool
    words: Sequence[str] | None

    def share(self, value: Any) -> float:
        """How far along the axis, 0 to 1."""
        if self.words is not None:
            return self.axis.share(float(self.words.index(as_text(value))))
        return self.axis.share(math.log10(value) if self.is_log else float(value))


def make_scale(values: Sequence[Any], *, is_log: bool, are_options: bool = False) -> Scale:
    """The axis for a key.

    Args:
        values: all that occur; numbers, or anything else, which becomes words at equal distances.
        is_log: numbers above 0 are laid out by their logarithms.
        are_options: numbers too are words, since there are only some; in their order.
    """
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if are_options or not are_numbers:
        words = [as_text(value) for value in sorted(values)] if are_numbers else sorted(map(as_text, values))
        words = list(dict.fromkeys(words))
        ticks = [(float(place), word) for place, word in enumerate(words)]
        return Scale(Axis(-0.5, len(words) - 0.5, ticks), is_log=False, words=words)
    numbers = np.array(values, np.float64)
    if is_log and (numbers > 0).all():
        return Scale(log_axis(np.log10(numbers)), is_log=True, words=None)
    return Scale(linear_axis(numbers, max_steps=5), is_log=False, words=None)


def parallel_coordinates(marks: Sequence[Mark], scales: Mapping[str, Scale], *, objective: str) -> str:
    """An svg element with an upright axis for each key and one for the objective, and a line for each trial.

    The better, the bluer; the best one in orange on top. Those that failed end, dashed, before the objective.

    Args:
        marks: the trials.
        scales: by key.
        objective: its name.
    """
    known = [mark.objective for mark in marks if mark.objective is not None and not mark.has_failed]
    goal = make_scale(known, is_log=False)
    keys = list(scales)
    # Labels of up to 12 letters stand beside each axis.
    width = max(_WIDTH, 2 * _SIDE + 110 * len(keys))
    places = {key: _SIDE + (width - 2 * _SIDE) * number / len(keys) for number, key in enumerate([*keys, ""])}
    title = "All trials"
    parts = [text_at(width / 2, 20, title, 'text-anchor="middle" font-size="15" font-weight="600"')]
    for mark in sorted(marks, key=_depth):
        points = [(places[key], _down(scales[key].share(mark.values[key]))) for key in keys]
        if mark.objective is not None and not mark.has_failed:
            points.append((places[""], _down(goal.share(mark.objective))))
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = "4 4" if mark.has_failed else "none"
        look = f'stroke="{_color(mark, known)}" stroke-width="{3 if mark.is_best else 1.6}" stroke-dasharray="{dashes}"'
        parts.append(f'<polyline points="{line}" fill="none" {look}>{_hint(mark)}</polyline>')
    for number, (key, x) in enumerate(places.items()):
        scale = scales.get(key, goal)
        label = key.partition(".")[2] or objective
        parts.append(f'<path d="M{x:.1f} {_TOP}V{_TOP + _HEIGHT}" stroke="#222"/>')
        # By turns higher and lower, so that long names of neighbors do not meet.
        name_y = _TOP + _HEIGHT + (22 if number % 2 == 0 else 40)
        parts.append(text_at(x, name_y, _short(label, 28), 'text-anchor="middle" font-weight="600"'))
        for place, tick in scale.axis.ticks:
            y = _down(scale.axis.share(place))
            parts.append(f'<line x1="{x - 4:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#222"/>')
            halo = 'text-anchor="end" stroke="#fff" stroke-width="3" paint-order="stroke"'
            parts.append(text_at(x - 7, y + 4, _short(tick, 12), halo))
    return svg(parts, width=round(width), height=_TOP + _HEIGHT + _BELOW, title=title)


def scatter(marks: Sequence[Mark], key: str, scale: Scale, *, objective: str) -> str:
    """An svg element with a circle for each trial: a key across, the objective upward.

    Filled where the trial was trained to its end, empty where it was stopped before; the best one in orange.

    Args:
        marks: the trials; those without an objective, or that failed, are left out.
        key: across.
        scale: of the key.
        objective: its name.
    """
    shown = [mark for mark in marks if mark.objective is not None and not mark.has_failed]
    known = [mark.objective for mark in shown if mark.objective is not None]
    goal = make_scale(known, is_log=False)
    right, bottom = _WIDTH - 24, _TOP + _HEIGHT
    left = 44 + 7 * max(len(label) for _, label in goal.axis.ticks)
    middle, y_middle = (left + right) / 2, (_TOP + bottom) / 2
    parts = [text_at(middle, 22, key, 'text-anchor="middle" font-size="15" font-weight="600"')]
    for place, label in goal.axis.ticks:
        y = _down(goal.axis.share(place))
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(text_at(left - 8, y + 4, label, 'text-anchor="end"'))
    for place, label in scale.axis.ticks:
        x = left + (right - left) * scale.axis.share(place)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}" stroke="#222"/>')
        parts.append(text_at(x, bottom + 19, _short(label, 16), 'text-anchor="middle"'))
    parts.append(f'<path d="M{left} {_TOP}V{bottom}H{right}" fill="none" stroke="#222"/>')
    parts.append(text_at(middle, bottom + 38, key + (" (logarithmic)" if scale.is_log else ""), 'text-anchor="middle"'))
    parts.append(text_at(16, y_middle, objective, f'text-anchor="middle" transform="rotate(-90 16 {y_middle})"'))
    if not shown:
        parts.append(text_at(middle, y_middle, "no values", 'text-anchor="middle"'))
    for mark in sorted(shown, key=_depth):
        assert mark.objective is not None
        x = left + (right - left) * scale.share(mark.values[key])
        y = _down(goal.share(mark.objective))
        color = _BEST_OF_ALL if mark.is_best else _hex(_BEST)
        fill = color if mark.is_whole else "#fff"
        look = f'r="{6 if mark.is_best else 4.5}" stroke="{color}" stroke-width="1.6" fill="{fill}" fill-opacity="0.8"'
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" {look}>{_hint(mark)}</circle>')
    return svg(parts, width=_WIDTH, height=bottom + _BELOW, title=f"{key} against {objective}")


def _down(share: float) -> float:
    return _TOP + _HEIGHT * (1 - share)


def _depth(mark: Mark) -> tuple[bool, bool, float]:
    """What is drawn first, and may be covered."""
    return mark.is_best, not mark.has_failed, -math.inf if mark.objective is None else mark.objective


def _color(mark: Mark, known: Sequence[float]) -> str:
    if mark.is_best:
        return _BEST_OF_ALL
    if mark.has_failed or mark.objective is None:
        return _FAILED
    low, high = min(known), max(known)
    # By rank: one trial far off would make all others alike.
    ranks = sorted(known)
    share = ranks.index(mark.objective) / max(len(ranks) - 1, 1) if high > low else 1.0
    return _hex(tuple(round(a + (b - a) * share) for a, b in zip(_WORST, _BEST, strict=True)))


def _hex(color: Sequence[int]) -> str:
    return "#" + "".join(f"{level:02x}" for level in color)


def _hint(mark: Mark) -> str:
    objective = "failed" if mark.has_failed else "no value yet" if mark.objective is None else f"{mark.objective:.4g}"
    values = ", ".join(f"{key}={as_text(value)}" for key, value in mark.values.items())
    return f"<title>{as_html(f'{mark.name}: {objective}; {values}')}</title>"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
