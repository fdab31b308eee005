"""Pictures by which a person checks a hole before hours are spent on it, and reads off where a box should stand."""

import html
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sttn_ray.paths import StoragePath
from sttn_ray.shown import as_html
from sttn_ray.storage import published

Picture = NDArray[np.uint8]

PANEL_PX = 960  # the longer side of a whole picture as drawn
DETAIL_PX = 600  # the longer side of the part around the hole
MAX_ENLARGEMENT = 8
# A detail that is not so much larger than the whole picture shows nothing new.
_MIN_GAIN = 1.25
_MIN_DETAIL = 48  # pixels of the picture around a hole of any size
_TICK_STEPS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_MIN_TICK_PX = 46  # a label of four digits and a gap
_LABELS_LEFT, _LABELS_TOP, _TITLE, _GAP = 46, 26, 26, 12  # pixels
_PAPER, _INK, _FAINT = (28, 28, 30), (240, 240, 240), (150, 150, 150)
_TINT, _OUTLINE = (255, 40, 40), (255, 235, 60)

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2.5rem 0 .3rem; overflow-wrap: anywhere }
p { margin: .2rem 0; overflow-wrap: anywhere }
img { max-width: 100%; height: auto; display: block; margin: .5rem 0 1rem }
code { background: #eee; padding: 0 .3em; overflow-wrap: anywhere } .fault { color: #b00020; font-weight: 600 }
.faint { color: #666 }
"""


class _View(NamedTuple):
    """A part of a picture, in its pixels, and how many pixels wide one of them is drawn."""

    left: int
    top: int
    right: int
    bottom: int
    scale: float

    @property
    def drawn_size(self) -> tuple[int, int]:
        return (
            max(1, round((self.right - self.left) * self.scale)),
            max(1, round((self.bottom - self.top) * self.scale)),
        )


def draw_preview(before: Picture, mask: NDArray[np.bool_], after: Picture | None) -> Picture:
    """One picture of a frame before, with its hole marked, and after, each with a grid in the frame's own pixels.

    Where the hole is small, the part around it is drawn once more, larger, and what was completed there without the
    grid. Wide frames stand below each other, others side by side.

    Args:
        before: (height, width, 3) RGB as displayed.
        mask: (height, width), True = hole.
        after: as before; None where nothing was completed yet.

    Returns:
        (any height, any width, 3) RGB.

    Raises:
        ValueError: the three are not of one size.
    """
    height, width = before.shape[:2]
    if mask.shape != (height, width) or (after is not None and after.shape != before.shape):
        raise ValueError(
            f"expected frames and mask of one size: before {before.shape}, mask {mask.shape}, "
            f"after {None if after is None else after.shape}"
        )
    views = [_whole(width, height)]
    detail = _detail(mask, views[0])
    if detail is not None:
        views.append(detail)
    lines = [
        _panels(before, views, [f"before  {width}x{height}", "before, enlarged"]),
        _panels(before, views, [_describe_hole(mask), "hole, enlarged"], mask=mask),
    ]
    if after is not None:
        lines.append(_panels(after, views, ["after", "after, enlarged"], is_detail_bare=True))
    is_wide = width > 1.2 * height
    return _tiled(lines if is_wide else list(zip(*lines, strict=True)))


def write_picture(path: StoragePath, picture: Picture) -> None:
    """Write a picture (height, width, 3) as JPEG, fine enough for its labels.

    Raises:
        StorageError: it cannot be written.
    """
    with published(path) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG", quality=90, subsampling=0)


def preview_page(path: StoragePath, rows: Sequence[dict[str, Any]]) -> None:
    """Write a page with the previews of many videos.

    Args:
        path: of the HTML file; the pictures lie beside it, or in folders there.
        rows: one a video, with the manifest's columns as far as they are known (video, mask, boxes, output, status,
            step, reason, width, height, frames, hole_share, notes), and `pictures`: a list of dicts with `frame`,
            `time_s`, and `file`, the picture's path from the page.

    Raises:
        StorageError: it cannot be written.
    """
    failed = sum(row.get("status") == "failed" for row in rows)
    text = f"{len(rows)} videos, {failed} failed. " if failed else f"{len(rows)} videos. "
    body = [
        f"<h1>Preview</h1><p>{text}The ticks count pixels of the picture as displayed: a box from 1600 and 40 to 1880 "
        "and 130 is <code>1600,40,280,90</code>. A hole is the mask enlarged by inpaint.dilation_px.</p>"
    ]
    body += [_section(row) for row in rows]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Preview</title>'
        f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    with published(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")  # names of files can be any bytes


def _section(row: dict[str, Any]) -> str:
    lines = [f"<h2>{as_html(row['video'])}</h2>"]
    if row.get("status") == "failed":
        lines.append(f'<p class="fault">failed at {_escaped(row, "step")}: {_escaped(row, "reason")}</p>')
    lines += [f"<p>{name}: <code>{_escaped(row, name)}</code></p>" for name in ("boxes", "mask") if row.get(name)]
    facts = []
    if row.get("width") and row.get("height"):
        facts.append(f"{row['width']}x{row['height']}")
    if row.get("frames"):
        facts.append(f"{row['frames']} frames")
    if row.get("hole_share") is not None:
        facts.append(f"hole {row['hole_share']:.2%} of the film" if row["hole_share"] else "no hole: will be copied")
    if row.get("output"):
        facts.append(f"output {_escaped(row, 'output')}")
    lines.append(f'<p class="faint">{", ".join(facts)}</p>')
    lines += [f'<p class="faint">{as_html(note)}</p>' for note in row.get("notes") or ()]
    for picture in row.get("pictures") or ():
        file = html.escape(quote(str(picture["file"]), errors="surrogateescape"))
        caption = f"frame {picture['frame']} at {picture['time_s']:.2f} s"
        lines.append(f'<p>{caption}</p><a href="{file}"><img loading="lazy" src="{file}" alt="{caption}"></a>')
    return "".join(lines)


def _escaped(row: dict[str, Any], name: str) -> str:
    return as_html(row.get(name) or "")


def _whole(width: int, height: int) -> _View:
    scale = PANEL_PX / max(width, height)
    # Pixels of small pictures stay squares of one size.
    return _View(0, 0, width, height, min(MAX_ENLARGEMENT, int(scale)) if scale >= 1 else scale)


def _detail(mask: NDArray[np.bool_], whole: _View) -> _View | None:
    """The part around the largest piece of the hole, if it can be drawn much larger than in the whole picture."""
    if not mask.any():
        return None
    height, width = mask.shape
    # Letters of a line are one piece.
    reach = 2 * (max(width, height) // 80) + 1
    small = cv2.resize(mask.astype(np.uint8), whole.drawn_size, interpolation=cv2.INTER_NEAREST)
    joined = cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    _, _, found, _ = cv2.connectedComponentsWithStats(joined)
    if len(found) < 2:  # less than a pixel of the smaller picture
        return None
    left, top, across, down = max(found[1:].tolist(), key=lambda stats: stats[4])[:4]
    left, top, across, down = (round(value / whole.scale) for value in (left, top, across, down))
    x, across = _widened(left, across, width)
    y, down = _widened(top, down, height)
    scale = min(MAX_ENLARGEMENT, DETAIL_PX / max(across, down))
    if scale < _MIN_GAIN * whole.scale:
        return None
    return _View(x, y, x + across, y + down, scale)


def _widened(start: int, length: int, full: int) -> tuple[int, int]:
    """Start and length of a stretch with half its length more on both sides, inside the picture."""
    margin = max(length // 2, (_MIN_DETAIL - length) // 2, 1)
    first, last = max(0, start - margin), min(full, start + length + margin)
    return first, last - first


def _describe_hole(mask: NDArray[np.bool_]) -> str:
    if not mask.any():
        return "no hole in this frame"
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    return f"hole  {mask.mean():.2%}, within {','.join(map(str, box))}"


def _panels(
    picture: Picture,
    views: Sequence[_View],
    titles: Sequence[str],
    *,
    mask: NDArray[np.bool_] | None = None,
    is_detail_bare: bool = False,
) -> list[Picture]:
    """A picture's panels: the whole and, if there is a second view, the part of it."""
    return [
        _panel(picture, view, title, mask=mask, has_grid=view is views[0] or not is_detail_bare)
        for view, title in zip(views, titles, strict=False)
    ]


def _panel(
    picture: Picture, view: _View, title: str, *, mask: NDArray[np.bool_] | None = None, has_grid: bool = True
) -> Picture:
    """A view of a picture with a grid, ticks along its top and left, and a title."""
    inside = np.s_[view.top : view.bottom, view.left : view.right]
    shown = _resized(picture[inside], view)
    if mask is not None:
        _mark(shown, mask[inside])
    step = next((s for s in _TICK_STEPS if s * view.scale >= _MIN_TICK_PX), _TICK_STEPS[-1])
    columns = _ticks(view.left, view.right, step, view.scale)
    rows = _ticks(view.top, view.bottom, step, view.scale)
    if has_grid:
        for _, place in columns:
            _draw_line(shown[:, place])
        for _, place in rows:
            _draw_line(shown[place])
    height, width = shown.shape[:2]
    above = _TITLE + _LABELS_TOP
    panel = np.empty((above + height + _GAP, _LABELS_LEFT + width + _GAP, 3), np.uint8)
    panel[:] = _PAPER
    panel[above : above + height, _LABELS_LEFT : _LABELS_LEFT + width] = shown
    image = Image.fromarray(panel)
    draw = ImageDraw.Draw(image)
    _write_title(draw, title, width)
    for number, place in columns:
        x = _LABELS_LEFT + place
        draw.line((x, above - 6, x, above - 1), _INK)
        draw.text((x, above - 8), str(number), _INK, _font(14), anchor="ms")
    for number, place in rows:
        y = above + place
        draw.line((_LABELS_LEFT - 6, y, _LABELS_LEFT - 1, y), _INK)
        draw.text((_LABELS_LEFT - 9, y), str(number), _INK, _font(14), anchor="rm")
    for minor in (step // 5,) if step >= 10 else ():
        for _, place in _ticks(view.left, view.right, minor, view.scale):
            draw.line((_LABELS_LEFT + place, above - 3, _LABELS_LEFT + place, above - 1), _FAINT)
        for _, place in _ticks(view.top, view.bottom, minor, view.scale):
            draw.line((_LABELS_LEFT - 3, above + place, _LABELS_LEFT - 1, above + place), _FAINT)
    return np.asarray(image)


def _write_title(draw: ImageDraw.ImageDraw, title: str, width: int) -> None:
    for size in (16, 13, 11):
        if draw.textlength(title, _font(size)) <= width:
            break
    draw.text((_LABELS_LEFT, _TITLE // 2 + 1), title, _INK, _font(size), anchor="lm")


def _resized(part: Picture, view: _View) -> Picture:
    is_whole_number = view.scale == int(view.scale)
    how = cv2.INTER_AREA if view.scale < 1 else cv2.INTER_NEAREST if is_whole_number else cv2.INTER_LINEAR
    resized: Picture = cv2.resize(part, view.drawn_size, interpolation=how)
    return resized


def _mark(shown: Picture, mask: NDArray[np.bool_]) -> None:
    """Tint the hole and draw its outline, in place; what is thinner than a pixel as drawn still shows."""
    share = cv2.resize(mask.astype(np.float32), shown.shape[1::-1], interpolation=cv2.INTER_AREA)
    hole = (share > 0).astype(np.uint8)
    inside = hole > 0
    shown[inside] = (0.7 * shown[inside] + 0.3 * np.array(_TINT)).astype(np.uint8)
    contours, _ = cv2.findContours(hole, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, contours, -1, _OUTLINE, 1)


def _ticks(first: int, stop: int, step: int, scale: float) -> list[tuple[int, int]]:
    """Multiples of a step from `first` to before `stop`, and where their pixels begin as drawn."""
    return [(number, int((number - first) * scale)) for number in range(-(-first // step) * step, stop, step)]


def _draw_line(pixels: NDArray[np.uint8]) -> None:
    """Shift a line's pixels, in place, away from what they are: it shows on dark and on bright ground."""
    is_bright = pixels.mean(1, keepdims=True) > 110
    pixels[:] = np.where(is_bright, pixels * 0.65, pixels * 0.65 + 70).astype(np.uint8)


def _tiled(rows: Sequence[Sequence[Picture]]) -> Picture:
    """Panels in rows and columns, each column as wide as its widest."""
    widths = [max(panel.shape[1] for panel in column) for column in zip(*rows, strict=True)]
    heights = [max(panel.shape[0] for panel in row) for row in rows]
    sheet = np.empty((sum(heights), sum(widths), 3), np.uint8)
    sheet[:] = _PAPER
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for panel, width in zip(row, widths, strict=True):
            sheet[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
            left += width
        top += height
    return sheet


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)
