"""How well static marks are found: painted onto real clips, and onto films cut from them.

Every video of --media serves as a clip of its own, and as a source of films: shots of two seconds from other videos at
random, one after another. Each is encoded as H.264: as it is, and with a mark in a corner: opaque white text, an
emblem of half opacity, the same of a quarter, and an opaque badge of 3 % of the picture's width. A clip whose frames
are alike (by the median correlation of any two of them) is reported apart, as static: there the picture itself cannot
be told from a mark.

Results: for films, moving clips and static clips, and each mark: recall, the share whose box overlaps the mark by an
IoU of 0.5 or more; covered, the share whose box covers 95 % of the mark and is at most four times as large; coverage,
how much of the mark the best box covers, mean over all; false_boxes, boxes that touch no mark, a video; without_mark,
the same for the videos as they are, and for how many of them the search says that it cannot tell. rows holds every
video. seconds is what a search takes.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.record import parse_arguments, write_result
from sttn_ray.corpus import VIDEO_SUFFIXES
from sttn_ray.masks.boxes import parse_boxes
from sttn_ray.masks.find import find_marks, marks_as_boxes
from sttn_ray.video.color import scaled_rgb
from sttn_ray.video.decode import decode_range
from sttn_ray.video.encode import repeatable_x264
from sttn_ray.video.index import VideoIndex, index_video

Picture = NDArray[np.uint8]

MAX_SIDE = 1280
CLIP_FRAMES = 240
FILM_SIZE = (854, 480)
SHOTS = (4, 6, 8, 12, 18, 24)  # of each film
SHOT_FRAMES = 48
FPS = 24
CRF = 24  # what a broadcaster or a video site leaves
OPACITY = {"text": 1.0, "half": 0.5, "faint": 0.25, "small": 1.0}
MARKS = tuple(OPACITY)
ALIKE = 0.5  # median correlation of two frames' detail


class Mark(NamedTuple):
    """A mark to paint: color (height, width, 3), opacity (height, width, 1) in [0, 1], and its box in the picture."""

    color: NDArray[np.float32]
    opacity: NDArray[np.float32]
    box: tuple[int, int, int, int]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    arguments = parse_arguments(__doc__ or "", argv)
    if arguments.media is None:
        raise SystemExit("benchmarks.find_marks: give --media, a folder of videos")
    cv2.setNumThreads(arguments.threads)
    paths = sorted(p for p in arguments.media.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
    sources = [index_video(str(path)) for path in paths]
    films = SHOTS[:1] if arguments.quick else SHOTS
    rows = []
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as folder:
        for seed, num_shots in enumerate(films):
            frames = film_frames(sources, num_shots, np.random.default_rng(seed))
            rows += _measure(f"film-{seed} of {num_shots} shots", "film", frames, FILM_SIZE, seed, Path(folder))
        for seed, source in enumerate(sources[:2] if arguments.quick else sources):
            size = _even_size(source)
            rows += _measure(Path(source.path).name, None, clip_frames(source, size), size, seed, Path(folder))
    settings = {
        "media": arguments.media.name,
        "film_shots": films,
        "crf": CRF,
        "clip_frames": CLIP_FRAMES,
        "shot_frames": SHOT_FRAMES,
    }
    write_result("find_marks", settings, {**summary(rows), "rows": rows}, arguments.json)


def clip_frames(source: VideoIndex, size: tuple[int, int]) -> Iterator[Picture]:
    """Frames of a video, spread evenly over all of it."""
    step = max(1, source.num_frames // CLIP_FRAMES)
    for number, frame in enumerate(decode_range(source, 0, source.num_frames, threads=2)):
        if number % step == 0:
            yield scaled_rgb(frame, *size)


def film_frames(sources: Sequence[VideoIndex], num_shots: int, rng: np.random.Generator) -> Iterator[Picture]:
    """Shots from videos at random, no two in a row from the same, each filling the picture."""
    last = -1
    for _ in range(num_shots):
        choice = int(rng.choice([n for n in range(len(sources)) if n != last]))
        source, last = sources[choice], choice
        start = int(rng.integers(0, max(1, source.num_frames - SHOT_FRAMES)))
        for frame in decode_range(source, start, start + SHOT_FRAMES, threads=2):
            yield _filled(frame)


def _filled(frame: Any) -> Picture:
    width, height = FILM_SIZE
    scale = max(width / frame.width, height / frame.height)
    picture = scaled_rgb(frame, round(frame.width * scale), round(frame.height * scale))
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def _even_size(source: VideoIndex) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(source.width, source.height))
    return round(source.width * scale / 2) * 2, round(source.height * scale / 2) * 2


def make_mark(kind: str, size: tuple[int, int], rng: np.random.Generator) -> Mark:
    """A mark in a corner at random, at 3 % to 6 % of the picture's width from its edges."""
    drawn = {"text": _text, "half": _emblem, "faint": _emblem, "small": _badge}[kind](size[0])
    color, opacity = drawn[0], drawn[1] * OPACITY[kind]
    height, width = opacity.shape
    distance = round(size[0] * rng.uniform(0.03, 0.06))
    left = distance if rng.random() < 0.5 else size[0] - distance - width
    top = distance if rng.random() < 0.5 else size[1] - distance - height
    return Mark(color, opacity[..., None], (left, top, left + width, top + height))


def _text(picture_width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Opaque white letters, 12 % wide."""
    alpha = _tight(_letters("NEWS 24"), round(picture_width * 0.12))
    return np.full((*alpha.shape, 3), 255, np.float32), alpha


def _emblem(picture_width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A white ring with letters in it, 10 % wide."""
    canvas = np.zeros((400, 400), np.uint8)
    cv2.circle(canvas, (200, 200), 180, 255, 28, cv2.LINE_AA)
    letters = _letters("TV")
    letters = cv2.resize(letters, (220, round(220 * letters.shape[0] / letters.shape[1])), interpolation=cv2.INTER_AREA)
    top, left = 200 - letters.shape[0] // 2, 90
    canvas[top : top + letters.shape[0], left : left + 220] = letters
    alpha = _tight(canvas, round(picture_width * 0.1))
    return np.full((*alpha.shape, 3), 255, np.float32), alpha


def _badge(picture_width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """An orange disc with a white bar and a dark rim, opaque, 3 % wide."""
    side = 320
    alpha = np.zeros((side, side), np.uint8)
    cv2.circle(alpha, (160, 160), 158, 255, -1, cv2.LINE_AA)
    color = np.zeros((side, side, 3), np.uint8)
    color[:] = (40, 30, 30)
    cv2.circle(color, (160, 160), 130, (255, 140, 0), -1, cv2.LINE_AA)
    cv2.rectangle(color, (130, 70), (190, 250), (255, 255, 255), -1)
    target = max(4, round(picture_width * 0.03))
    small = cv2.resize(color, (target, target), interpolation=cv2.INTER_AREA).astype(np.float32)
    return small, _tight(alpha, target)


def _letters(text: str) -> Picture:
    canvas = np.zeros((300, 1600), np.uint8)
    cv2.putText(canvas, text, (60, 220), cv2.FONT_HERSHEY_DUPLEX, 6, 255, 22, cv2.LINE_AA)
    rows, columns = np.nonzero(canvas)
    return canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _tight(alpha: Picture, width: int) -> NDArray[np.float32]:
    rows, columns = np.nonzero(alpha)
    alpha = alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height = max(1, round(width * alpha.shape[0] / alpha.shape[1]))
    scaled: NDArray[np.float32] = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA) / np.float32(255)
    return scaled


def paint(picture: Picture, mark: Mark) -> Picture:
    """A copy of a picture with a mark over it."""
    left, top, right, bottom = mark.box
    painted = picture.copy()
    below = painted[top:bottom, left:right]
    below[:] = np.round(below * (1 - mark.opacity) + mark.color * mark.opacity).astype(np.uint8)
    return painted


def write_variants(
    frames: Iterable[Picture], marks: dict[str, Mark | None], size: tuple[int, int], folder: Path
) -> tuple[dict[str, Path], float]:
    """Encode frames once for each mark; returns the files, and how alike the unmarked frames are."""
    paths = {name: folder / f"{name}.mp4" for name in marks}
    thumbnails = []
    with ExitStack() as stack:
        writers = {}
        for name, path in paths.items():
            container = stack.enter_context(av.open(str(path), "w"))
            options = {"crf": str(CRF), "preset": "veryfast", "x264-params": ":".join(repeatable_x264())}
            stream = container.add_stream("libx264", rate=Fraction(FPS), options=options)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            writers[name] = (container, stream)
        for number, picture in enumerate(frames):
            if number % 4 == 0:
                gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
                thumbnails.append(cv2.resize(gray, (160, 90), interpolation=cv2.INTER_AREA).astype(np.float32))
            for name, (container, stream) in writers.items():
                mark = marks[name]
                painted = picture if mark is None else paint(picture, mark)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(painted, format="rgb24")))
        for container, stream in writers.values():
            container.mux(stream.encode(None))
    detail = np.stack([small - cv2.blur(small, (15, 15)) for small in thumbnails]).reshape(len(thumbnails), -1)
    pairs = np.corrcoef(detail)[np.triu_indices(len(detail), 1)]
    return paths, float(np.median(np.nan_to_num(pairs)))


def _measure(
    name: str, group: str | None, frames: Iterable[Picture], size: tuple[int, int], seed: int, folder: Path
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1000 + seed)
    marks: dict[str, Mark | None] = {"none": None, **{kind: make_mark(kind, size, rng) for kind in MARKS}}
    paths, alike = write_variants(frames, marks, size, folder)
    group = group or ("static clip" if alike > ALIKE else "moving clip")
    rows = []
    for kind, path in paths.items():
        mark = marks[kind]
        index = index_video(str(path))
        start = time.perf_counter()
        found = find_marks(index)
        seconds = time.perf_counter() - start
        boxes = []
        if found.marks:
            boxes = [box.pixels(*size) for box in parse_boxes(marks_as_boxes(found.marks))]
        row = {"name": name, "group": group, "alike": round(alike, 2), "mark": kind, "size": size}
        row |= score(boxes, mark.box if mark else None)
        row |= {"boxes": boxes, "scores": [round(m.score, 2) for m in found.marks], "reason": found.reason}
        rows.append({**row, "seconds": round(seconds, 2)})
        sys.stderr.write(f"{row}\n")
    return rows


def score(boxes: Sequence[tuple[int, int, int, int]], truth: tuple[int, int, int, int] | None) -> dict[str, Any]:
    """IoU of the best box, how much of the mark it covers, how many times its area, and the boxes off the mark."""
    if truth is None:
        return {"false_boxes": len(boxes)}
    shared = [_area(_cut(box, truth)) for box in boxes]
    best = max(range(len(boxes)), key=lambda n: shared[n] / (_area(boxes[n]) + _area(truth) - shared[n]), default=None)
    if best is None or not shared[best]:
        return {"iou": 0.0, "coverage": 0.0, "times_area": None, "false_boxes": len(boxes)}
    return {
        "iou": round(shared[best] / (_area(boxes[best]) + _area(truth) - shared[best]), 3),
        "coverage": round(shared[best] / _area(truth), 3),
        "times_area": round(_area(boxes[best]) / _area(truth), 2),
        "false_boxes": sum(not pixels for pixels in shared),
    }


def _cut(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _area(box: tuple[int, int, int, int]) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares and means over the rows of each group and mark."""
    groups: dict[str, Any] = {}
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [row for row in rows if row["group"] == group]
        plain = [row["false_boxes"] for row in members if row["mark"] == "none"]
        groups[group] = {
            "videos": len(plain),
            "without_mark": {
                "false_boxes": round(statistics.mean(plain), 2),
                "videos_with_any": sum(map(bool, plain)),
                "cannot_tell": sum(
                    "cannot be told" in (row["reason"] or "") for row in members if row["mark"] == "none"
                ),
            },
        }
        for kind in MARKS:
            marked = [row for row in members if row["mark"] == kind]
            groups[group][kind] = {
                "recall": round(statistics.mean(row["iou"] >= 0.5 for row in marked), 3),
                "covered": round(
                    statistics.mean(row["coverage"] >= 0.95 and row["times_area"] <= 4 for row in marked), 3
                ),
                "coverage": round(statistics.mean(row["coverage"] for row in marked), 3),
                "false_boxes": round(statistics.mean(row["false_boxes"] for row in marked), 2),
            }
    seconds = sorted(row["seconds"] for row in rows)
    return {"groups": groups, "seconds_median": statistics.median(seconds), "seconds_max": seconds[-1]}


if __name__ == "__main__":
    main()
