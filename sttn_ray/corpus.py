"""What there is to train on: video files, folders of frames and zips of frames below one folder."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.choices import Fit
from sttn_ray.errors import CorpusError, SttnError
from sttn_ray.images import DAMAGE, ErrorClass, image_files, image_names, is_image, natural_key, open_image
from sttn_ray.paths import below, walk
from sttn_ray.video.color import scaled_rgb
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video

Kind = Literal["video", "frames", "zip"]

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob"),
    *(".wmv", ".asf", ".flv", ".3gp", ".ogv", ".mxf", ".y4m"),
}
# The name that DAVIS and YouTube-VOS give to the folder of their object masks; others add to it (Annotations_6fps).
ANNOTATIONS = "Annotations"
_ZIPS_AT_ONCE = 16  # that are listed together: a store takes its time for each


class Entry(NamedTuple):
    """One video of a corpus: its path below the corpus's root, and what it is made of.

    The path of a zip of several videos goes on with the folder inside, as in DAVIS.zip/DAVIS/JPEGImages/480p/bear.
    """

    path: str
    kind: Kind


class Corpus(NamedTuple):
    """What lies below a root: videos, object masks (folders and zips), and other files by their suffix."""

    entries: list[Entry]
    object_masks: list[Entry]
    ignored: Counter[str]


def find_entries(root: str) -> Corpus:
    """List a corpus: every video file, every folder that holds images, also in zips; hidden ones are left out.

    Folders and zips below one named `Annotations`, or `Annotations_` and more, are object masks.

    Raises:
        CorpusError: the root is missing, or holds nothing to train on.
        StorageError: it cannot be read.
    """
    found: set[Entry] = set()
    zips: list[str] = []
    ignored: Counter[str] = Counter()
    try:
        for folder, name in walk(root):
            path, suffix = (PurePosixPath(folder) / name).as_posix(), PurePosixPath(name).suffix.lower()
            if is_image(name):
                found.add(Entry(folder, "frames"))
            elif suffix == ".zip":
                zips.append(path)
            elif suffix in VIDEO_SUFFIXES:
                found.add(Entry(path, "video"))
            else:
                ignored[suffix or name] += 1
    except FileNotFoundError as error:
        raise CorpusError(
            f"{root}: no such folder; corpus.root is the folder below which the training videos lie"
        ) from error
    with ThreadPoolExecutor(_ZIPS_AT_ONCE) as pool:
        for entries in pool.map(lambda path: _zip_entries(root, path), zips):
            found |= entries
    object_masks = {entry for entry in found if _is_of_masks(entry)}
    if found == object_masks:
        raise CorpusError(
            f"{root}: holds no video file, folder of images or zip of images; other files: {dict(ignored) or 'none'}"
        )
    return Corpus(_in_order(found - object_masks), _in_order(object_masks), ignored)


def _zip_entries(root: str, path: str) -> set[Entry]:
    """A zip's videos: itself where all its images lie in one folder."""
    try:
        names = image_names(str(below(root, path)), CorpusError)
    except SttnError:  # whoever reads it is told
        return {Entry(path, "zip")}
    folders = {_folder_of(name) for name in names}
    if len(folders) == 1:
        # A zip of masks alone is known by its folder.
        folders = {folder for folder in folders if _is_of_masks(Entry(folder, "zip"))} or {"."}
    return {Entry(path if folder == "." else f"{path}/{folder}", "zip") for folder in folders or {"."}}


def _is_of_masks(entry: Entry) -> bool:
    parts = PurePosixPath(entry.path).parts
    names = [part.removesuffix(".zip") for part in (parts[:-1] if entry.kind == "video" else parts)]
    return any(name == ANNOTATIONS or name.startswith(f"{ANNOTATIONS}_") for name in names)


def _folder_of(name: str) -> str:
    return PurePosixPath(name).parent.as_posix().lstrip("/")


def file_of(entry: Entry) -> str:
    """The file or folder of a video, below the corpus's root."""
    if entry.kind != "zip":
        return entry.path
    parts = PurePosixPath(entry.path).parts
    end = max((n for n, part in enumerate(parts, 1) if part.lower().endswith(".zip")), default=len(parts))
    return PurePosixPath(*parts[:end]).as_posix()


def entry_images(root: str, entry: Entry, error_class: ErrorClass) -> tuple[str, list[str]]:
    """The folder or zip of a video that consists of images, and their names there, in natural order.

    Raises:
        error_class: there are none, or it cannot be opened.
        StorageError: it cannot be read.
    """
    path = str(below(root, file_of(entry)))
    names = image_names(path, error_class)
    inside = entry.path.removeprefix(file_of(entry)).lstrip("/")
    if inside or len({_folder_of(name) for name in names}) > 1:
        names = [name for name in names if entry.kind == "frames" or _folder_of(name) == (inside or ".")]
    if not names:
        hint = "; of a zip only images are read, so unpack others" if entry.kind == "zip" else ""
        raise error_class(f"{below(root, entry.path)}: holds no images{hint}")
    return path, names


def _in_order(entries: set[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (natural_key(entry.path), entry.path))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A training video as found.

    Attributes:
        path: below the corpus's root.
        kind: of the entry.
        sha256: of the content: the file's bytes, or the images' in order.
        width, height: of the picture as displayed.
        rate: average frames per second.
        time_base: seconds per tick of `pts`.
        pts: presentation time of every frame, ascending, in ticks.
        video: the index, for kind "video".
        files: names of the images, for the other kinds.
    """

    path: str
    kind: Kind
    sha256: str
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    pts: tuple[int, ...]
    video: VideoIndex | None = None
    files: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        return len(self.pts)

    @property
    def file(self) -> str:
        """The file or folder below the corpus's root; a zip may hold several videos."""
        return file_of(Entry(self.path, self.kind))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; `from_dict` is the inverse."""
        video = self.video.as_dict() if self.video else None
        return {**asdict(self), "rate": str(self.rate), "time_base": str(self.time_base), "video": video}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Source":
        fractions = {name: Fraction(data[name]) for name in ("rate", "time_base")}
        lists = {name: tuple(data[name]) for name in ("pts", "files")}
        video = VideoIndex.from_dict(data["video"]) if data["video"] else None
        return cls(**{**data, **fractions, **lists, "video": video})


def index_source(root: str, entry: Entry, *, frames_fps: Fraction) -> Source:
    """Read what a training video holds: all packets of a file, all headers of images.

    Args:
        root: the corpus's folder.
        entry: from `find_entries`.
        frames_fps: the rate of folders and zips of frames, which do not tell it.

    Raises:
        VideoError, CorpusError: it is damaged, or of a kind that is not supported.
        StorageError: it cannot be read.
    """
    if entry.kind == "video":
        path = str(below(root, entry.path))
        # Of a damaged one the ranges that decode are kept, none is concealed.
        index = index_video(path, interlaced="deinterlace", on_damage="conceal", purpose="corpus")
        width, height = index.displayed_size
        return Source(
            path=entry.path,
            kind=entry.kind,
            sha256=index.sha256,
            width=width,
            height=height,
            rate=index.rate,
            time_base=index.time_base,
            pts=index.pts,
            video=index,
        )
    path, names = entry_images(root, entry, CorpusError)
    digest = hashlib.sha256()
    size: tuple[int, int] | None = None
    for name, data in image_files(path, names, CorpusError):
        found = open_image(data, name, CorpusError).size
        if size not in (None, found):
            raise CorpusError(f"{name}: is {found[0]}x{found[1]}, the frames before it {size[0]}x{size[1]}")
        size = found
        digest.update(hashlib.sha256(data).digest())
    assert size is not None
    return Source(
        path=entry.path,
        kind=entry.kind,
        sha256=digest.hexdigest(),
        width=size[0],
        height=size[1],
        rate=frames_fps,
        time_base=1 / frames_fps,
        pts=tuple(range(len(names))),
        files=tuple(names),
    )


def read_pictures(
    root: str, source: Source, start: int, stop: int, *, width: int, height: int, fit: Fit
) -> Iterator[NDArray[np.uint8]]:
    """Frames `start` to `stop` of a training video at the shards' size, (height, width, 3) RGB as displayed.

    `fit="crop"` keeps the shape of things and cuts what is too wide or too high, evenly on both sides; "stretch"
    scales each side on its own, as published. The published code names no filter, so that its data depend on
    Pillow's version (D-34); here pixels are averaged where the picture shrinks, and interpolated by cubics where it
    grows.

    Raises:
        VideoError, CorpusError: a frame is damaged.
        StorageError: one cannot be read.
    """
    scaled = scaled_size(source.width, source.height, width, height, fit)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    read = _read_video(source.video, start, stop, scaled) if source.video else _read_images(root, source, start, stop)
    for picture in read:
        resized = picture if source.video else _resized(picture, scaled)
        yield np.ascontiguousarray(resized[top : top + height, left : left + width])


def scaled_size(width: int, height: int, target_width: int, target_height: int, fit: Fit) -> tuple[int, int]:
    """Width and height to which a picture is scaled, of which the middle is kept."""
    if fit == "stretch":
        return target_width, target_height
    scale = max(target_width / width, target_height / height)
    return max(target_width, round(width * scale)), max(target_height, round(height * scale))


def _read_video(index: VideoIndex, start: int, stop: int, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    width, height = size[::-1] if index.rotation % 180 else size  # as coded
    for frame in decode_range(index, start, stop):
        yield index.as_shown(scaled_rgb(frame, width, height))


def _read_images(root: str, source: Source, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
    for name, data in image_files(str(below(root, source.file)), source.files[start:stop], CorpusError):
        try:
            picture = _as_rgb(open_image(data, name, CorpusError))
        except DAMAGE as error:
            raise CorpusError(f"{name}: the image is damaged ({error})") from error
        if picture.shape[:2] != (source.height, source.width):
            raise CorpusError(f"{name}: was replaced while the job ran; run it again")
        yield picture


def _as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):  # Pillow would cut off what is above 255
        gray = np.asarray(image) >> 8
        return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def _resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if size == picture.shape[1::-1]:
        return picture
    shrinks = size[0] <= picture.shape[1] and size[1] <= picture.shape[0]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
