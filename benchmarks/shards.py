"""How fast shards are built, over a bare loop of the same work; how much memory a film takes; what codecs cost.

The corpus is every video of --media as often as --seconds need, each copy with other last bytes, so that none is a
duplicate. The bare loop is as many processes as there are cores, each of which decodes whole videos, scales frames in
the same one pass, and packs them as JPEG: no index, no search for cuts, no hashes, no files. Both run in turn; Ray's
start and that of its processes are not counted, all else is.

Results: pipeline_over_bare, frames a second over frames a second, with the least and most over pairs; film_peak_pss_gb,
the most memory of the driver and Ray's workers together while the longest video alone is built (not Ray's daemons and
its object store); codecs, a row for each frame codec: PSNR to the scaled frame, KiB and milliseconds a frame.
"""

import io
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.memory import PeakMemory
from benchmarks.record import interleaved, parse_arguments, ratio, write_result
from pipelines import build_shards
from sttn_ray import cluster
from sttn_ray.choices import FrameCodec
from sttn_ray.config import load_experiment
from sttn_ray.corpus import VIDEO_SUFFIXES, Entry, index_source, read_pictures, scaled_size
from sttn_ray.shards.read import read_index_table
from sttn_ray.shards.tables import pack_frame, unpack_frame
from sttn_ray.video.color import scaled_rgb
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import index_video
from sttn_ray.video.write import write_clip

WIDTH, HEIGHT, QUALITY = 432, 240, 95
SECONDS = 130
CODECS: tuple[tuple[FrameCodec, int], ...] = (("jpeg", 85), ("jpeg", 90), ("jpeg", 95), ("jpeg", 98), ("png", 0))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the result."""
    arguments = parse_arguments(__doc__ or "", argv)
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as folder:
        results, settings = _measure(Path(folder), arguments.media, arguments.quick)
    write_result("shards", settings, results, arguments.json)


def _measure(folder: Path, media: Path | None, is_quick: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    videos = _videos(media, folder / "made")
    frames = {path: index_video(str(path)).num_frames for path in videos}
    cluster.connect()
    # First of all, before Ray has other processes than this needs.
    film = max(videos, key=lambda path: frames[path])
    peak = PeakMemory()
    with peak:
        _build([film], folder / "film")
    # The processes start here; how much work must there be?
    _build(videos, folder / "first")
    start = time.perf_counter()
    _build(videos, folder / "second")
    seconds = time.perf_counter() - start
    copies = 1 if is_quick else math.ceil(SECONDS / seconds)
    corpus = [_copy(path, folder / "corpus" / f"{n}-{path.name}", n) for n in range(copies) for path in videos]
    total = copies * sum(frames.values())
    sys.stderr.write(f"{len(corpus)} videos, {total} frames, {os.cpu_count()} cores\n")
    built: list[int] = []

    def pipeline() -> None:
        built.append(_build(corpus, folder / f"shards-{len(built)}"))
        shutil.rmtree(folder / f"shards-{len(built) - 1}")

    runs = {"bare": lambda: _bare(corpus), "pipeline": pipeline}
    pairs = 1 if is_quick else 3
    taken = interleaved(runs, pairs)
    spread = ratio([s / total for s in taken["bare"]], [s / built[0] for s in taken["pipeline"]])
    results = {
        "pipeline_over_bare": spread["median"],
        "pipeline_over_bare_spread": [spread["min"], spread["max"]],
        "pipeline_frames_per_second": [round(built[0] / s, 1) for s in taken["pipeline"]],
        "bare_frames_per_second": [round(total / s, 1) for s in taken["bare"]],
        "pipeline_seconds": [round(s, 1) for s in taken["pipeline"]],
        "film_peak_pss_gb": round(peak.num_bytes / 1e9, 2),
        "film_frames": frames[film],
        "codecs": _codecs(videos),
    }
    settings = {
        "size": [WIDTH, HEIGHT],
        "quick": is_quick,
        "media": None if media is None else media.name,
        "videos": len(corpus),
        "frames": total,
        "pairs": pairs,
    }
    return results, settings


def _videos(media: Path | None, folder: Path) -> list[Path]:
    if media is not None:
        return sorted(path for path in media.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        texture = np.asarray(Image.fromarray(rng.integers(0, 255, (36, 64, 3), np.uint8)).resize((1440, 720)))
        pictures = (np.ascontiguousarray(texture[:, n : n + 1280]) for n in range(120))
        write_clip(folder / f"{number}.mp4", pictures, fps=24, sound=np.zeros(5 * 48000, np.float32))
    return sorted(folder.iterdir())


def _copy(path: Path, target: Path, number: int) -> Path:
    """Another file of the same content: what follows a video's data is read over by every demuxer used here."""
    target.parent.mkdir(exist_ok=True)
    tail = b"" if number == 0 else (12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big")
    target.write_bytes(path.read_bytes() + tail)
    return target


def _build(videos: Sequence[Path], folder: Path) -> int:
    """Build shards of some videos; returns the frames in them."""
    with tempfile.TemporaryDirectory(prefix="sttn-ray-") as root:
        for path in videos:
            (Path(root) / path.name).symlink_to(path.absolute())
        words = (f"corpus.root={root}", f"shards.dir={folder}", f"shards.width={WIDTH}", f"shards.height={HEIGHT}")
        build_shards.run(load_experiment((*words, "shards.masks_per_family=0", f"shards.quality={QUALITY}")))
    rows = read_index_table(folder).to_pylist()
    return sum(row["num_frames"] for row in rows if row["table"] == "clips")


def _bare(videos: Sequence[Path]) -> None:
    # The longest first: at the end no core waits long for another.
    order = sorted(videos, key=lambda path: -path.stat().st_size)
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for _ in pool.imap_unordered(_bare_video, order, chunksize=1):
            pass


def _bare_video(path: Path) -> None:
    index = index_video(str(path))
    width, height = scaled_size(*index.displayed_size, WIDTH, HEIGHT, "crop")
    if index.rotation % 180:
        width, height = height, width
    for frame in decode_range(index, 0, index.num_frames):
        Image.fromarray(scaled_rgb(frame, width, height)).save(
            io.BytesIO(), "JPEG", quality=QUALITY, subsampling="4:2:0"
        )


def _codecs(videos: Sequence[Path]) -> list[dict[str, Any]]:
    pictures = [picture for path in videos for picture in _samples(path)]
    return [_codec(codec, quality, pictures) for codec, quality in CODECS]


def _samples(path: Path) -> list[NDArray[np.uint8]]:
    """Five neighboring frames from a video's middle, as shards hold them."""
    source = index_source(str(path.parent), Entry(path.name, "video"), frames_fps=Fraction(24))
    middle = source.num_frames // 2
    stop = min(middle + 5, source.num_frames)
    return list(read_pictures(str(path.parent), source, middle, stop, width=WIDTH, height=HEIGHT, fit="crop"))


def _codec(codec: FrameCodec, quality: int, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    start = time.perf_counter()
    packed = [pack_frame(picture, codec, quality) for picture in pictures]
    packed_s = time.perf_counter()
    unpacked = [unpack_frame(data, HEIGHT, WIDTH) for data in packed]
    unpacked_s = time.perf_counter()
    errors = [np.square(a.astype(np.float64) - b).mean() for a, b in zip(pictures, unpacked, strict=True)]
    return {
        "codec": codec,
        "quality": quality if codec == "jpeg" else None,
        "frames": len(pictures),
        "psnr_db": None if not any(errors) else round(10 * math.log10(255**2 / float(np.mean(errors))), 2),
        "is_exact": not any(errors),
        "kib_per_frame": round(sum(map(len, packed)) / len(packed) / 1024, 1),
        "pack_ms": round((packed_s - start) / len(packed) * 1000, 2),
        "unpack_ms": round((unpacked_s - packed_s) / len(packed) * 1000, 2),
    }


if __name__ == "__main__":
    main()
