"""What charts have in common: axes with round numbers, colors, text, and the SVG element around them."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sttn_ray.shown import as_html

# Okabe and Ito's, which color-blind people tell apart too, without the yellow that is faint on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#222222", "#56b4e9", "#e69f00")

_Numbers = TypeVar("_Numbers", float, NDArray[np.float64])


class Axis(NamedTuple):
    """What an axis spans, and its ticks as places and labels. Of a logarithmic one, low, high and places are log10."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def share(self, values: _Numbers) -> _Numbers:
        """How far along the axis, 0 to 1."""
        return (values - self.low) / (self.high - self.low)


def linear_axis(values: NDArray[np.float64], *, max_steps: int) -> Axis:
    """From a round number below the values to one above."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    largest = max(abs(low), abs(high))
    if high - low <= 1e-9 * largest or high == low:  # a constant, or one but for rounding
        low, high = low - (0.05 * largest or 1), high + (0.05 * largest or 1)
    ticks = _round_numbers(low, high, max_steps=max_steps)
    return Axis(ticks[0][0], ticks[-1][0], ticks)


def log_axis(values: NDArray[np.float64]) -> Axis:
    """From a little below the values to a little above, all log10; ticks at powers of ten where there are enough."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    margin = max(0.04 * (high - low), 0.02)
    low, high = low - margin, high + margin
    decades = range(math.ceil(low), math.floor(high) + 1)
    if len(decades) >= 3:
        powers = decades[:: math.ceil(len(decades) / 8)]
        return Axis(low, high, [(float(power), f"{10.0**power:g}") for power in powers])
    numbers = [float(f"{m}e{power}") for power in range(math.floor(low), math.ceil(high)) for m in (1, 2, 5)]
    ticks = [(math.log10(number), f"{number:g}") for number in numbers]
    ticks = [tick for tick in ticks if low <= tick[0] <= high]
    if len(ticks) < 3:  # a small part of a decade is nearly linear
        round_numbers = _round_numbers(10**low, 10**high, max_steps=6)
        ticks = [(math.log10(number), label) for number, label in round_numbers if 10**low <= number <= 10**high]
    return Axis(low, high, ticks)


def _round_numbers(low: float, high: float, *, max_steps: int) -> list[tuple[float, str]]:
    """Multiples of 1, 2 or 5 times a power of ten, and their labels: the last below low to the first above high."""
    power = math.floor(math.log10((high - low) / max_steps))
    steps = [float(f"{m}e{p}") for p in (power, power + 1) for m in (1, 2, 5)]
    step = next(step for step in steps if math.ceil(high / step) - math.floor(low / step) <= max_steps)
    numbers = [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]
    # As many digits as tell neighbors apart, not those by which n * step misses the round number.
    digits = math.floor(math.log10(max(abs(number) for number in numbers) / step)) + 2
    return [(number, f"{number:.{max(7, digits)}g}") for number in numbers]


def text_at(x: float, y: float, text: str, attributes: str = "") -> str:
    """A text element, by the left end of its base line."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{as_html(text)}</text>'


def svg(parts: Sequence[str], *, width: int, height: int, title: str) -> str:
    """An svg element on white, which needs no scripts, styles or files from elsewhere."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'style="max-width: 100%; height: auto" role="img" aria-label="{as_html(title)}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#222">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>'
    )
