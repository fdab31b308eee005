"""A page a person looks at: charts, tables, and before, mask and after of every video."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.shown import as_html

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
table { border-collapse: collapse }
td, th { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid #ddd }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1rem }
.charts svg { width: 100%; height: auto }
.strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; margin: 0 0 4px }
.strip img, .sheet { width: 100%; display: block }
.labels { color: #666; font-size: .85rem }
"""

Picture = NDArray[np.uint8]


class Example(NamedTuple):
    """One frame of a video: before, its hole, after; pictures (height, width, 3), hole (height, width)."""

    frame: int
    before: Picture
    hole: NDArray[np.bool_]
    after: Picture


class Section(NamedTuple):
    """One video's part of the page."""

    title: str
    text: str
    examples: Sequence[Example]


class Sheet(NamedTuple):
    """Many small pictures as one (height, width, 3)."""

    title: str
    text: str
    picture: Picture


def write_page(
    folder: Path,
    *,
    title: str,
    text: str,
    charts: Sequence[str],
    table: Sequence[Sequence[str]],
    sections: Sequence[Section],
    sheets: Sequence[Sheet],
) -> Path:
    """Write index.html and its pictures to a folder, and return the page's path.

    Args:
        folder: made where it is missing.
        title, text: at the top.
        charts: SVG elements, from `report.chart`; they go in as they are.
        table: rows of cells; the first row is its head.
        sections: before, mask and after of each video.
        sheets: at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    body = [f"<h1>{as_html(title)}</h1><p>{as_html(text)}</p>", _table(table)]
    body.append(f'<div class="charts">{"".join(charts)}</div>')
    for number, section in enumerate(sections):
        body.append(_heading(section.title, section.text))
        body.append('<div class="strip labels"><span>before</span><span>mask</span><span>after</span></div>')
        body += [_strip(folder, f"{number:03d}-{e.frame:05d}", e) for e in section.examples]
    for number, sheet in enumerate(sheets):
        file = f"sheet-{number:03d}.png"
        Image.fromarray(sheet.picture).save(folder / file)
        body.append(_heading(sheet.title, sheet.text))
        body.append(f'<img class="sheet" src="{file}" alt="{as_html(sheet.title)}">')
    page = folder / "index.html"
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{as_html(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>",
        encoding="utf-8",
    )
    return page


def marked(picture: Picture, hole: NDArray[np.bool_]) -> Picture:
    """A picture darkened, with its hole in red."""
    shown = picture // 2
    shown[hole] = (255, 60, 60)
    return shown


def tiled(rows: Sequence[Sequence[Picture]], gap: int = 2) -> Picture:
    """Rows of pictures of one size as one picture, on gray; short rows leave room at their end."""
    height, width = rows[0][0].shape[:2]
    across = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + gap) - gap, across * (width + gap) - gap, 3), 128, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            sheet[top : top + height, left : left + width] = picture
    return sheet


def _heading(title: str, text: str) -> str:
    return f"<h2>{as_html(title)}</h2><p>{as_html(text)}</p>"


def _strip(folder: Path, name: str, example: Example) -> str:
    pictures = {
        "before": example.before,
        "mask": marked(example.before, example.hole),
        "after": example.after,
    }
    images = []
    for kind, picture in pictures.items():
        file = f"{name}-{kind}.png"
        Image.fromarray(picture).save(folder / file)
        images.append(f'<img src="{file}" alt="frame {example.frame}, {kind}">')
    return f'<div class="strip">{"".join(images)}</div>'


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "th" if number == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{as_html(cell)}</{tag}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"
