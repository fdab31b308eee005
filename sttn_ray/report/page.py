"""A page a person looks at: before, mask and after of every video, and a table of what was done."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
table { border-collapse: collapse }
td, th { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid #ddd }
.strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; margin: 0 0 4px }
.strip img { width: 100%; display: block }
.labels { color: #666; font-size: .85rem }
"""


class Example(NamedTuple):
    """One frame of a video: before, its hole, after; pictures (height, width, 3), hole (height, width)."""

    frame: int
    before: NDArray[np.uint8]
    hole: NDArray[np.bool_]
    after: NDArray[np.uint8]


class Section(NamedTuple):
    """One video's part of the page."""

    title: str
    text: str
    examples: Sequence[Example]


def write_page(
    folder: Path, *, title: str, text: str, table: Sequence[Sequence[str]], sections: Sequence[Section]
) -> Path:
    """Write index.html and its pictures to a folder; the table's first row is its head. Returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    body = [f"<h1>{html.escape(title)}</h1><p>{html.escape(text)}</p>", _table(table)]
    for number, section in enumerate(sections):
        body.append(f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>")
        body.append('<div class="strip labels"><span>before</span><span>mask</span><span>after</span></div>')
        body += [_strip(folder, f"{number:03d}-{e.frame:05d}", e) for e in section.examples]
    page = folder / "index.html"
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(body)}</body></html>",
        encoding="utf-8",
    )
    return page


def _strip(folder: Path, name: str, example: Example) -> str:
    pictures = {
        "before": example.before,
        "mask": _marked(example.before, example.hole),
        "after": example.after,
    }
    images = []
    for kind, picture in pictures.items():
        file = f"{name}-{kind}.png"
        Image.fromarray(picture).save(folder / file)
        images.append(f'<img src="{file}" alt="frame {example.frame}, {kind}">')
    return f'<div class="strip">{"".join(images)}</div>'


def _marked(picture: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    marked = picture // 2
    marked[hole] = (255, 60, 60)
    return marked


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "th" if number == 0 else "td"
        lines.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>")
    return f"<table>{''.join(lines)}</table>"
