"""Small changes of real files, given to what reads them: each is read, or refused in our words, within limits.

    python -m tests.fuzz mp4 --first 0 --count 500      # a case that failed says its number: --first NUMBER --count 1

A case is a kind of file and a number, from which all its changes follow. This is a process of its own, whose memory is
limited: it says each case on standard output before it begins, so that of one that ends the process is known, too.
"""

import argparse
import io
import random
import resource
import struct
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from PIL import Image

from sttn_ray.catalog.items import read_catalog
from sttn_ray.config import load_experiment
from sttn_ray.corpus import Entry, index_source, read_pictures
from sttn_ray.errors import SttnError
from sttn_ray.masks.read import check_fit, mask_source, read_masks
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import load_generator, save_generator
from sttn_ray.selection import select_by_manifest
from sttn_ray.shards.read import _open, read_clip, read_index
from sttn_ray.shards.tables import INDEX_SCHEMA
from sttn_ray.shards.verify import verify_shards
from sttn_ray.storage import read_record, write_record
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video
from tests.media import make_images, make_pictures, make_video, mux_together, zip_folder
from tests.shards import index as index_of
from tests.shards import whole, write

MEMORY_BYTES = 2**30  # beside what the process has when it begins
CPU_S = 60.0  # of a case: they take some milliseconds
NUM_FRAMES = 8


class Kind(NamedTuple):
    """A kind of file: how one is made in a folder, and what reads it; `index` is of the video that masks are for."""

    make: Callable[[Path], Path]
    read: Callable[[Path, VideoIndex], object]
    is_inside: bool = False  # of a zip: what lies in it is changed, and the zip stays one


def read_video(path: Path, _: VideoIndex) -> None:
    found = index_video(str(path), interlaced="deinterlace", on_damage="conceal")
    found.color_format()
    VideoIndex.from_dict(found.as_dict())
    for _frame in decode_range(found, 0, min(found.num_frames, NUM_FRAMES), on_damage="conceal"):
        pass


def read_mask(path: Path, index: VideoIndex) -> None:
    source = mask_source(str(path))
    check_fit(source, index)
    for _mask in read_masks(source, index, 0, index.num_frames):
        pass


def read_corpus(path: Path, _: VideoIndex) -> None:
    kind = "zip" if path.suffix == ".zip" else "video"
    source = index_source(str(path.parent), Entry(path.name, kind), frames_fps=Fraction(24))  # type: ignore[arg-type]
    for _picture in read_pictures(
        str(path.parent), source, 0, min(8, source.num_frames), width=96, height=64, fit="crop"
    ):
        pass


def read_shards(path: Path, _: VideoIndex) -> None:
    """The index or a file of clips; what lies beside it is as it was written."""
    folder = path.parent if path.name == "index.parquet" else path.parents[1]
    _open.cache_clear()  # files stay open by their names
    verify_shards(folder)
    index = read_index(folder, "validation")
    for row in index.clips:
        read_clip(folder, row, range(min(2, row.num_frames)))


def video(name: str, **options: object) -> Callable[[Path], Path]:
    return lambda folder: make_video(folder / name, num_frames=NUM_FRAMES, **options)  # type: ignore[arg-type]


def muxed(name: str, options: dict[str, str] | None = None, **made: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        source = make_video(folder / f"whole-{name}.mp4", num_frames=NUM_FRAMES, **made)  # type: ignore[arg-type]
        return mux_together(folder / name, source, options=options)

    return make


def mark() -> np.ndarray:
    picture = np.zeros((64, 96), np.uint8)
    picture[20:40, 20:50] = 255
    return picture


def image(name: str, mode: str = "L") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Image.fromarray(mark()).convert(mode).save(folder / name)
        return folder / name

    return make


def zipped(folder: Path) -> Path:
    return zip_folder(make_images(folder / "masks", [mark()] * NUM_FRAMES), folder / "masks.zip")


def frames_zipped(folder: Path) -> Path:
    return zip_folder(make_images(folder / "frames", make_pictures(3)), folder / "frames.zip")


def text(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return make


def table(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        rows = [
            {"video": f"films/{n}.mp4", "mask": None, "boxes": "1,2,30,40@0-1.5", "output": f"o{n}"} for n in range(9)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
        return folder / name

    return make


def checkpoint(name: str, *, is_ours: bool = True, is_zip: bool = True) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        generator = Generator(GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True))
        if is_ours:
            save_generator(folder / name, generator)
        else:
            state = {"netG": generator.state_dict()}
            torch.save(state, folder / name, _use_new_zipfile_serialization=is_zip)
        return folder / name

    return make


def shards(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        make_video(folder / "a.mp4", num_frames=12)
        source = index_of(folder, "a.mp4")
        (folder / "clips").mkdir(exist_ok=True)
        written = write(folder, folder / "clips/shard-00000.parquet", [source], whole(source))
        pq.write_table(pa.Table.from_pylist(written.rows, INDEX_SCHEMA), folder / "index.parquet")
        return folder / name

    return make


def record(folder: Path) -> Path:
    index = index_video(str(make_video(folder / "a.mp4", num_frames=NUM_FRAMES)))
    write_record(folder / "record.json", index.as_dict())
    return folder / "record.json"


CATALOG = "video,mask,boxes,output\n" + "".join(
    f'films/{n}.mp4,,"10,10,50%,50@0-1.5;1,2,3,4",o{n}\n' if n % 2 else f"films/{n}.mp4,masks/{n}.png,,\n"
    for n in range(9)
)
LINES = "".join(f'{{"video": "films/{n}.mp4", "mask": "masks/{n}.zip", "output": "o{n}"}}\n' for n in range(9))
MANIFEST = "path,start_s,end_s,split\n" + "".join(f"{n}.mp4,{n},{n + 1}.5,train\n" for n in range(9))
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def settings() -> str:
    return yaml.safe_dump(
        {"inpaint": {"video": "a.mp4", "boxes": "1,2,3,4"}, "tune": {"space": {"a": "uniform(1, 2)"}}}
    )


KINDS: dict[str, Kind] = {
    "mp4": Kind(video("a.mp4", audio=True), read_video),
    "fragmented": Kind(muxed("a.mp4", FRAGMENTED, audio=True), read_video),
    "mov": Kind(video("a.mov", codec="mpeg4", audio=True, rotation=90), read_video),
    "mkv": Kind(muxed("a.mkv", audio=True), read_video),
    "ffv1": Kind(video("a.mkv", codec="ffv1"), read_video),
    "webm": Kind(video("a.webm", codec="libvpx-vp9"), read_video),
    "avi": Kind(video("a.avi", codec="mpeg4"), read_video),
    "ts": Kind(muxed("a.ts", audio=True), read_video),
    "flv": Kind(muxed("a.flv", audio=True), read_video),
    "mpg": Kind(video("a.mpg", codec="mpeg2video", time_base=Fraction(1, 25)), read_video),
    "mxf": Kind(video("a.mxf", codec="mpeg2video", time_base=Fraction(1, 25)), read_video),
    "corpus_zip": Kind(frames_zipped, read_corpus),
    "corpus_zip_inside": Kind(frames_zipped, read_corpus, is_inside=True),
    "mask_png": Kind(image("a.png"), read_mask),
    "mask_palette": Kind(image("a.png", "P"), read_mask),
    "mask_jpeg": Kind(image("a.jpg"), read_mask),
    "mask_tiff": Kind(image("a.tif", "I;16"), read_mask),
    "mask_webp": Kind(image("a.webp", "RGB"), read_mask),
    "mask_bmp": Kind(image("a.bmp"), read_mask),
    "mask_zip": Kind(zipped, read_mask),
    "mask_zip_inside": Kind(zipped, read_mask, is_inside=True),
    "mask_video": Kind(
        video("m.mkv", codec="ffv1", picture=lambda _: np.repeat(mark()[..., None] / 255, 3, axis=2)), read_mask
    ),
    "csv": Kind(text("a.csv", CATALOG), lambda path, _: read_catalog(str(path))),
    "jsonl": Kind(text("a.jsonl", LINES), lambda path, _: read_catalog(str(path))),
    "parquet": Kind(table("a.parquet"), lambda path, _: read_catalog(str(path))),
    "manifest": Kind(text("m.csv", MANIFEST), lambda path, _: select_by_manifest([], str(path))),
    "yaml": Kind(text("a.yaml", settings()), lambda path, _: load_experiment([str(path)])),
    "checkpoint": Kind(checkpoint("a.pt"), lambda path, _: load_generator(path)),
    "checkpoint_inside": Kind(checkpoint("a.pt"), lambda path, _: load_generator(path), is_inside=True),
    "published": Kind(checkpoint("a.pth", is_ours=False), lambda path, _: load_generator(path)),
    "legacy": Kind(checkpoint("a.pth", is_ours=False, is_zip=False), lambda path, _: load_generator(path)),
    "shard": Kind(shards("clips/shard-00000.parquet"), read_shards),
    "index": Kind(shards("index.parquet"), read_shards),
    "record": Kind(record, lambda path, _: read_record(path)),
}

_NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 1000, 10**6, 10**8)


def changed(data: bytes, chance: random.Random) -> bytes:
    """A file with one to four small changes, as often as not near its beginning or its end, where headers lie."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        size = max(1, len(content))
        near = min(size, 2000)
        at = chance.choice([chance.randrange(size), chance.randrange(near), size - 1 - chance.randrange(near)])
        length = chance.choice([1, 4, chance.randint(1, 300)])
        kind = chance.randrange(9)
        if kind == 0:
            content[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            content[at : at + 1] = bytes([(content[at] if at < len(content) else 0) ^ 1 << chance.randrange(8)])
        elif kind == 2:
            content[at : at + 4] = struct.pack(chance.choice("<>") + "I", chance.choice(_NUMBERS))
        elif kind == 3:
            content[at : at + length] = bytes(length)
        elif kind == 4:
            del content[at : at + length]
        elif kind == 5:
            content[at:at] = content[at : at + length] * chance.choice([1, 1, 20])
        elif kind == 6:
            content[at:at] = chance.randbytes(length)
        elif kind == 7:
            other = chance.randrange(size)
            content[at : at + length] = content[other : other + length]
        elif chance.random() < 0.3:
            del content[at:]
    return bytes(content)


def changed_inside(data: bytes, chance: random.Random) -> bytes:
    """A zip with one of its members changed, more often the first, in which checkpoints have what is not numbers."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(out, "w") as target:
        members = archive.infolist()
        number = chance.choice([0, chance.randrange(len(members))])
        for n, member in enumerate(members):
            content = archive.read(member)
            target.writestr(member.filename, changed(content, chance) if n == number else content)
    return out.getvalue()


def fault_of(kind: Kind, path: Path, index: VideoIndex) -> str | None:
    """What is wrong with how a file is read, or None."""
    start_s = _cpu_s()
    try:
        kind.read(path, index)
    except SttnError as error:
        if not str(error) or len(str(error)) > 20_000 or "\x1b" in str(error):
            return f"an error without a clear message: {str(error)[:500]!r}"
    except BaseException:  # noqa: BLE001 -- whatever it is, it is told
        return traceback.format_exc()
    if (seconds := _cpu_s() - start_s) > CPU_S:
        return f"took {seconds:.0f} s of a CPU"
    return None


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _limit_memory() -> None:
    """Threads and libraries have taken what they take; what a file makes of that is limited."""
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    """Try cases of some kinds; returns how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=KINDS)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    given = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    torch.set_num_threads(1)
    num_failed = 0
    with tempfile.TemporaryDirectory() as name:
        index = index_video(str(make_video(Path(name) / "film.mp4", num_frames=NUM_FRAMES)))
        made = {}
        for kind in given.kinds:
            folder = Path(name) / kind
            folder.mkdir()
            made[kind] = KINDS[kind].make(folder)
            assert (fault := fault_of(KINDS[kind], made[kind], index)) is None, fault
            KINDS[kind].read(made[kind], index)  # as it is it can be read
        _limit_memory()
        for kind, path in made.items():
            whole = path.read_bytes()
            for number in range(given.first, given.first + given.count):
                sys.stdout.write(f"case {kind} {number}\n")
                sys.stdout.flush()
                # A name of its own: some readers keep files open by their names.
                case = (
                    path.with_name(f"{number}-{path.name}") if path.parent.name != "clips" and kind != "index" else path
                )
                change = changed_inside if KINDS[kind].is_inside else changed
                case.write_bytes(change(whole, random.Random(f"{kind} {number}")))
                if fault := fault_of(KINDS[kind], case, index):
                    num_failed += 1
                    sys.stdout.write(f"FAILED {kind} {number}: {fault}\n")
                    if given.keep:
                        (given.keep / f"{kind}-{number}-{path.name}").write_bytes(case.read_bytes())
                case.unlink()
            path.write_bytes(whole)
    return num_failed


if __name__ == "__main__":
    raise SystemExit(min(main(), 100))
