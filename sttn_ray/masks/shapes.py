"""What random masks are made of: smooth closed curves, lettering and jointed figures."""

import math
import string
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
# Sets a thing's pixels to 1: pixels, its center (x, y), its size in pixels, how far its motion is in cycles.
Fill = Callable[[Pixels, Floats, float, float], None]

FACES = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    cv2.FONT_HERSHEY_SIMPLEX | cv2.FONT_ITALIC,
    cv2.FONT_HERSHEY_COMPLEX | cv2.FONT_ITALIC,
)
_LETTERS = np.array(list(string.ascii_letters + string.digits))
_SUBPIXEL_BITS = 4
# Tuned with SHAPE_SIDE of draw.py to the published statistics.
RADII = (0.2, 1.0)
NARROWING = (0.35, 0.9)
_CURVE_STEPS = 12  # points from one node to the next


def smooth_curve(nodes: Floats, tension: float) -> Floats:
    """A closed curve (points, 2) through nodes (num, 2): cubics whose slopes are `tension` times Catmull-Rom's."""
    t = np.linspace(0, 1, _CURVE_STEPS, endpoint=False)[:, None]
    following = np.roll(nodes, -1, 0)
    slopes = tension / 2 * (following - np.roll(nodes, 1, 0))
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * nodes[:, None]
        + (t**3 - 2 * t**2 + t) * slopes[:, None]
        + (3 * t**2 - 2 * t**3) * following[:, None]
        + (t**3 - t**2) * np.roll(slopes, -1, 0)[:, None]
    )
    return curve.reshape(-1, 2)


def make_outline(rng: np.random.Generator) -> Floats:
    """A random closed curve (points, 2), stretched to touch all four sides of the unit square.

    6 to 8 nodes around a center, at uneven angles and distances: lobes and bays, as in the published masks.
    """
    num = int(rng.integers(6, 9))
    angles = (np.arange(num) + rng.uniform(-0.45, 0.45, num)) * (math.tau / num)
    radii = rng.uniform(*RADII, num)
    nodes = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    # Narrowed, then turned: a slanted shape leaves more of its box empty without growing needles.
    nodes[:, 1] *= rng.uniform(*NARROWING)
    turn = rng.uniform(0, math.pi)
    nodes = nodes @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    curve = smooth_curve(nodes, float(rng.uniform(0.8, 1.4)))
    low, high = curve.min(0), curve.max(0)
    return (curve - low) / (high - low)


def fill_curve(pixels: Pixels, curve: Floats) -> None:
    """Set the inside of a curve (points, 2), x and y in pixels, to 1."""
    cv2.fillPoly(pixels, [_fixed_point(curve)], 1, cv2.LINE_8, _SUBPIXEL_BITS)


class Lettering(NamedTuple):
    """How text is written.

    Attributes:
        face: one of OpenCV's fonts.
        letter_px: height of a capital letter.
        stroke_px: thickness of the strokes.
        dilation_px: radius by which the strokes are grown: a mask is wider than the text it hides.
    """

    face: int
    letter_px: int
    stroke_px: int
    dilation_px: int


def make_text(num_letters: int, rng: np.random.Generator) -> str:
    """Words of 2 to 8 random letters and digits, together `num_letters` long with the spaces between them."""
    letters = rng.choice(_LETTERS, num_letters)
    space = int(rng.integers(2, 9))
    while space < num_letters - 1:
        letters[space] = " "
        space += int(rng.integers(3, 10))
    return "".join(letters)


def draw_text(text: str, lettering: Lettering) -> Pixels:
    """One line of text as an array (height, width) that just holds it, 1 = ink."""
    face, letter_px, stroke_px, dilation_px = lettering
    scale = cv2.getFontScaleFromHeight(face, letter_px, stroke_px)
    (width, ascent), descent = cv2.getTextSize(text, face, scale, stroke_px)
    margin = dilation_px + stroke_px
    pixels = np.zeros((ascent + descent + 2 * margin, width + 2 * margin), np.uint8)
    cv2.putText(pixels, text, (margin, margin + ascent), face, scale, 255, stroke_px)
    # OpenCV 5 smooths the edges; of the thinnest strokes nothing else is left.
    ink = (pixels > 64).astype(np.uint8)
    size = 2 * dilation_px + 1
    pixels = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


class Part(NamedTuple):
    """A capsule of a figure, hung on an earlier part.

    Attributes:
        parent: index of the part that it hangs on; the first part's is not used.
        along: where on the parent it starts, 0 = its start, 1 = its end.
        length, radius: in units of the figure's size.
        angle: where it points at rest, degrees from right, positive = downward.
        swing: degrees to either side of `angle`.
        phase: of the swing, degrees.
    """

    parent: int
    along: float
    length: float
    radius: float
    angle: float
    swing: float = 0
    phase: float = 0


PERSON = (
    Part(0, 0.0, 0.30, 0.090, -90, 4),
    Part(0, 1.0, 0.14, 0.045, -88, 4),  # neck
    Part(1, 1.0, 0.03, 0.070, -80, 8),
    Part(0, 0.0, 0.25, 0.060, 90, 28),
    Part(3, 1.0, 0.24, 0.045, 100, 26, -60),
    Part(0, 0.0, 0.25, 0.060, 90, 28, 180),
    Part(5, 1.0, 0.24, 0.045, 100, 26, 120),
    Part(0, 0.9, 0.17, 0.038, 95, 38, 180),
    Part(7, 1.0, 0.17, 0.034, 70, 45, 160),
    Part(0, 0.9, 0.17, 0.038, 95, 38),
    Part(9, 1.0, 0.17, 0.034, 70, 45, -20),
)
ANIMAL = (
    Part(0, 0.0, 0.50, 0.120, 0, 3),
    Part(0, 1.0, 0.20, 0.070, -50, 9),
    Part(1, 1.0, 0.12, 0.060, 15, 12, 90),  # head
    Part(0, 0.0, 0.16, 0.050, 95, 28),
    Part(3, 1.0, 0.15, 0.035, 85, 28, -70),
    Part(0, 0.05, 0.16, 0.050, 95, 28, 180),
    Part(5, 1.0, 0.15, 0.035, 85, 28, 110),
    Part(0, 0.95, 0.16, 0.050, 90, 28, 60),
    Part(7, 1.0, 0.15, 0.035, 90, 28, -10),
    Part(0, 1.0, 0.16, 0.050, 90, 28, 240),
    Part(9, 1.0, 0.15, 0.035, 90, 28, 170),
    Part(0, 0.0, 0.22, 0.025, 200, 30, 45),  # tail
)
VEHICLE = (
    Part(0, 0.0, 0.66, 0.100, 0, 1),
    Part(0, 0.15, 0.13, 0.070, -80, 1),
    Part(1, 1.0, 0.26, 0.070, 0, 1),  # roof
    Part(2, 1.0, 0.17, 0.070, 52, 1),
    Part(0, 0.10, 0.09, 0.075, 90, 1),  # wheels
    Part(0, 0.88, 0.09, 0.075, 90, 1),
)


def pose(parts: tuple[Part, ...], turn: float) -> Floats:
    """Starts and ends of a figure's parts, (parts, 2, 2): x and y, the first part starting at 0, 0.

    Args:
        parts: of the figure.
        turn: how far the swings are, in cycles.
    """
    joints = np.zeros((len(parts), 2, 2))
    for index, part in enumerate(parts):
        if index:
            start, end = joints[part.parent]
            joints[index, 0] = start + part.along * (end - start)
        angle = math.radians(part.angle + part.swing * math.sin(math.radians(part.phase) + math.tau * turn))
        joints[index, 1] = joints[index, 0] + part.length * np.array([math.cos(angle), math.sin(angle)])
    return joints


def fill_figure(pixels: Pixels, joints: Floats, radii: Floats) -> None:
    """Set the capsules between joints (parts, 2, 2), x and y in pixels, with radii (parts,) in pixels to 1."""
    for (start, end), radius in zip(_fixed_point(joints).tolist(), radii.tolist(), strict=True):
        cv2.line(pixels, start, end, 1, max(1, round(2 * radius)), cv2.LINE_8, _SUBPIXEL_BITS)


def make_figure(rng: np.random.Generator) -> Fill:
    """A person, an animal or a vehicle of random proportions whose limbs swing."""
    parts = (PERSON, ANIMAL, VEHICLE)[rng.integers(3)]
    girth, facing = rng.uniform(0.9, 1.4), rng.choice([-1, 1])
    stretch = np.array([rng.uniform(0.85, 1.15) * facing, rng.uniform(0.85, 1.15)])
    radii = np.array([part.radius for part in parts]) * girth
    at_rest = pose(parts, 0.0)
    middle = (at_rest.min((0, 1)) + at_rest.max((0, 1))) / 2

    def fill(pixels: Pixels, center: Floats, size: float, turn: float) -> None:
        joints = center + size * stretch * (pose(parts, turn) - middle)
        fill_figure(pixels, joints, size * radii)

    return fill


def make_blob(rng: np.random.Generator) -> Fill:
    """A smooth closed curve whose bulges come and go."""
    num = int(rng.integers(7, 12))
    angles = np.arange(num) * (math.tau / num)
    radii, swing, phase = rng.uniform(0.3, 0.5, num), rng.uniform(0.05, 0.3, num), rng.uniform(0, math.tau, num)
    stretch = np.array([1.0, rng.uniform(0.5, 1)])

    def fill(pixels: Pixels, center: Floats, size: float, turn: float) -> None:
        radii_now = radii * (1 + swing * np.sin(math.tau * turn + phase))
        nodes = radii_now[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        fill_curve(pixels, center + size * stretch * smooth_curve(nodes, 1.0))

    return fill


def _fixed_point(points: Floats) -> NDArray[np.int32]:
    return np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32)
