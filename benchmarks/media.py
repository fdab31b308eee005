"""What becomes of every video of a folder: status, frames, times, sound, and PSNR outside the hole, as a table.

Every video below --media gets a box; those that have a mask of their name below --media/masks (a file, or a folder of
images) are done with it too. A small network with random weights serves, since what is compared is what must hold
whatever it paints. Outputs are FFV1, so that outside the hole every sample must be the source's (PSNR inf).

The table goes to standard output as Markdown, and with --json as rows. Exit status 1: an output is not as it must be.
"""

import csv
import logging
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.record import parse_arguments, write_result
from pipelines import inpaint
from sttn_ray.config import load_experiment
from sttn_ray.corpus import VIDEO_SUFFIXES
from sttn_ray.masks.hole import make_holes
from sttn_ray.masks.read import boxes_source, mask_source, read_masks
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from sttn_ray.video.color import color_format, frame_planes
from sttn_ray.video.copied import read_copied
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video

BOX = "10%,10%,30%,20%"
DILATION_PX = 6
COLUMNS = ("video", "hole", "status", "frames", "times", "sound", "outside", "reason")
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and print the table; returns the exit status."""
    arguments = parse_arguments(__doc__ or "", argv)
    if arguments.media is None:
        sys.stderr.write("error: give a folder: --media DIR\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)  # the job's progress
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as folder:
        rows = run(arguments.media.absolute(), Path(folder))
    lines = [COLUMNS, ("---",) * len(COLUMNS), *([str(row[name]) for name in COLUMNS] for row in rows)]
    sys.stdout.write("".join(f"| {' | '.join(line)} |\n" for line in lines))
    if arguments.json is not None:
        write_result("media", {"media": arguments.media.name}, {"rows": rows}, arguments.json)
    return 0 if all(row["is_right"] for row in rows) else 1


def run(media: Path, folder: Path) -> list[Row]:
    """Inpaint every video below a folder, and compare each output with its source; rows with `COLUMNS`, and is_right.

    Args:
        media: the folder.
        folder: an empty one for outputs.
    """
    network = GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)
    save_generator(folder / "tiny.pt", Generator(network))
    jobs = list(_jobs(media))
    with open(folder / "catalog.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "mask", "boxes", "output"])
        for number, (video, mask) in enumerate(jobs):
            writer.writerow([video, mask or "", "" if mask else BOX, f"{number:03d}-{video.name}"])
    request = {"catalog": folder / "catalog.csv", "output": folder / "out", "checkpoint": folder / "tiny.pt"}
    words = [f"inpaint.{name}={value}" for name, value in request.items()]
    inpaint.run(load_experiment([*words, "encode.codec=ffv1", f"inpaint.dilation_px={DILATION_PX}"]))
    manifest = pq.read_table(folder / "out/manifest.parquet").to_pylist()
    return [_row(job, row, media, folder / "out") for job, row in zip(jobs, manifest, strict=True)]


def _jobs(media: Path) -> Iterator[tuple[Path, Path | None]]:
    """Videos, each with None for a box or with a mask of its name."""
    masks = media / "masks"
    for video in sorted(p for p in media.rglob("*") if p.suffix in VIDEO_SUFFIXES and masks not in p.parents):
        yield video, None
        for mask in sorted(masks.glob(f"{video.stem}*")) if masks.is_dir() else ():
            yield video, mask


def _row(job: tuple[Path, Path | None], row: Row, media: Path, output_dir: Path) -> Row:
    video, mask = job
    told = {
        "video": str(video.relative_to(media)),
        "hole": mask.name if mask else "box",
        "status": row["status"],
        **dict.fromkeys(("frames", "times", "sound", "outside"), ""),
        "reason": (row["reason"] or "").splitlines()[0].replace(str(media), "")[:120] if row["reason"] else "",
    }
    if row["status"] != "done":
        named = mask or video
        is_right = row["status"] == "failed" and not row["is_unexpected"] and named.name in row["reason"]
        return {**told, "is_right": is_right}
    return told | _compare(video, mask, output_dir / row["output"])


def _compare(video: Path, mask: Path | None, output: Path) -> Row:
    before, after = index_video(str(video)), index_video(str(output))
    # Matroska counts milliseconds.
    tolerance_s = after.time_base / 2 if output.suffix == ".mkv" else 0
    times = zip(before.pts, after.pts, strict=False)
    off_s = max(abs(a * before.time_base - b * after.time_base) for a, b in times)
    sound = [[s.index for s in index.others if s.kind == "audio"] for index in (before, after)]
    packets = [read_copied(str(path), streams) for path, streams in ((video, sound[0]), (output, sound[1]))]
    is_sound_equal = [stream.sha256 for stream in packets[0]] == [stream.sha256 for stream in packets[1]]
    outside, is_changed = _psnr_outside(before, after, mask)
    is_right = before.num_frames == after.num_frames and off_s <= tolerance_s and is_sound_equal
    return {
        "frames": f"{after.num_frames} of {before.num_frames}",
        "times": "exact" if off_s == 0 else f"within {float(off_s) * 1000:.2f} ms",
        "sound": ("equal" if is_sound_equal else "DIFFERS") if sound[0] else "none",
        "outside": f"{outside:.1f}",
        "is_right": is_right and is_changed and math.isinf(outside),
    }


def _psnr_outside(before: VideoIndex, after: VideoIndex, mask: Path | None) -> tuple[float, bool]:
    """PSNR of all samples outside the hole, in dB, and whether any inside has changed."""
    color = color_format(before.pix_fmt, *before.color[:2])
    source = mask_source(str(mask)) if mask else boxes_source(BOX)
    holes = make_holes(
        read_masks(source, before, 0, before.num_frames),
        dilation_px=DILATION_PX,
        feather_px=0,
        chroma_step=color.chroma_step,
    )
    step_x, step_y = color.chroma_step
    squares = count = 0
    is_changed = False
    frames = (decode_range(index, 0, before.num_frames) for index in (before, after))
    for hole, old, new in zip(holes, *frames, strict=True):
        for number, (a, b) in enumerate(zip(frame_planes(old, color), frame_planes(new, color), strict=True)):
            inside: NDArray[np.bool_] = hole.pixels if number == 0 else hole.pixels[::step_y, ::step_x]
            difference = a.astype(np.int64) - b.astype(np.int64)
            squares += int(np.square(difference[~inside]).sum())
            count += int((~inside).sum())
            is_changed = is_changed or bool(difference[inside].any())
    mean = squares / max(1, count)
    return (math.inf if mean == 0 else 10 * math.log10(color.maximum**2 / mean)), is_changed


if __name__ == "__main__":
    raise SystemExit(main())
