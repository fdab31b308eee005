"""Masks from what people have: one image, a folder or zip of images, a video, or boxes."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sttn_ray.errors import MaskError, VideoError
from sttn_ray.images import IMAGE_SUFFIXES, file_bytes, image_files, image_names, open_image
from sttn_ray.masks.boxes import Box, draw_boxes, parse_boxes
from sttn_ray.paths import as_path, is_file, is_folder
from sttn_ray.storage import file_sha256
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video

Mask = NDArray[np.bool_]

LOSSY_SUFFIXES = {".jpg", ".jpeg", ".webp"}
MAX_OBJECT_ID = 31  # a gray image with no higher value holds object ids, not brightness
ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class MaskSource:
    """Where a video's masks come from.

    Attributes:
        kind: "image" is one mask for all frames; "images" and "video" hold one a frame; "boxes" are drawn.
        name: the path, or the boxes' text.
        files: names inside a folder or zip, in natural order.
        video: the index of a mask video.
        boxes: for "boxes".
        size: width and height of the masks; None for boxes, which fit any picture.
        sha256: of the content.
    """

    kind: Literal["image", "images", "video", "boxes"]
    name: str
    files: tuple[str, ...] = ()
    video: VideoIndex | None = None
    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None
    sha256: str

    @property
    def num_masks(self) -> int | None:
        """How many masks there are; None where there is one for every frame by rule."""
        if self.kind == "video" and self.video is not None:
            return self.video.num_frames
        return len(self.files) if self.kind == "images" else None

    def as_dict(self) -> dict[str, Any]:
        video = self.video.as_dict() if self.video else None
        return {**asdict(self), "video": video}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MaskSource":
        return cls(
            **{
                **data,
                "files": tuple(data["files"]),
                "video": VideoIndex.from_dict(data["video"]) if data["video"] else None,
                "boxes": tuple(
                    Box(**{**b, "extent": tuple(b["extent"]), "is_percent": tuple(b["is_percent"])})
                    for b in data["boxes"]
                ),
                "size": tuple(data["size"]) if data["size"] else None,
            }
        )


def boxes_source(text: str) -> MaskSource:
    """Masks from boxes; see `sttn_ray.masks.boxes.SYNTAX`.

    Raises:
        MaskError: the text is not a list of boxes.
    """
    return MaskSource(
        kind="boxes",
        name=text,
        boxes=parse_boxes(text),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def mask_source(path: str) -> MaskSource:
    """Masks from a path: an image, a folder or zip of images, or a video.

    Raises:
        MaskError: missing, empty, or none of these.
    """
    where = as_path(path)
    if not (is_folder(path) or is_file(path)):
        raise MaskError(f"{path}: no such mask")
    if is_folder(path) or where.suffix.lower() == ".zip":
        return _images_source(path)
    if where.suffix.lower() in IMAGE_SUFFIXES:
        size = open_image(file_bytes(where, MaskError), path, MaskError).size
        return MaskSource(kind="image", name=path, size=size, sha256=file_sha256(path))
    try:
        index = index_video(path)
    except VideoError as error:
        raise MaskError(
            f"{path}: as a mask expected an image ({', '.join(sorted(IMAGE_SUFFIXES))}), a folder or .zip of "
            f"images, or a video; as a video: {error}"
        ) from error
    return MaskSource(kind="video", name=path, video=index, size=index.displayed_size, sha256=index.sha256)


def check_fit(source: MaskSource, index: VideoIndex) -> str | None:
    """Check that masks fit a video; returns a note where they will be scaled.

    Raises:
        MaskError: another number of masks than frames, another aspect ratio, as stored and as shown, or a box outside
            the picture.
    """
    width, height = index.displayed_size
    if source.num_masks is not None and source.num_masks != index.num_frames:
        raise MaskError(
            f"{source.name}: holds {source.num_masks} masks, its video {index.path} has {index.num_frames} frames; "
            "give one mask a frame, or a single image for all frames"
        )
    for box in source.boxes:
        left, top, right, bottom = box.pixels(width, height)
        if left >= right or top >= bottom:
            raise MaskError(
                f"{source.name}: a box lies outside the picture of {index.path}, which is {width}x{height}"
                f"{_stretched(index)}"
            )
    if source.size is None or source.size == (width, height):
        return None
    mask_width, mask_height = source.size
    # As stored, or as a player stretches it.
    shapes = {width / height, float(index.shown_aspect)}
    if all(abs(mask_width / mask_height / shape - 1) > ASPECT_TOLERANCE for shape in shapes):
        raise MaskError(
            f"{source.name}: masks are {mask_width}x{mask_height}, the video {index.path} is {width}x{height}"
            f"{_stretched(index)}: another aspect ratio; make masks of the video's shape"
        )
    return f"mask scaled from {mask_width}x{mask_height} to {width}x{height}"


def _stretched(index: VideoIndex) -> str:
    if not index.is_anamorphic:
        return ""
    return f" as stored, though shown with an aspect ratio of {float(index.shown_aspect):.3f}"


def read_masks(source: MaskSource, index: VideoIndex, start: int, stop: int) -> Iterator[Mask]:
    """The masks of frames `start` to `stop`, (height, width) as coded, True = hole.

    The same array object comes again where the mask does not change.

    Raises:
        MaskError: an image or frame cannot be read.
    """
    if source.kind == "boxes":
        yield from _drawn_masks(source, index, start, stop)
    elif source.kind == "image":
        mask = _fitted(mask_from_image(file_bytes(as_path(source.name), MaskError), source.name), index)
        for _ in range(start, stop):
            yield mask
    elif source.kind == "images":
        for name, data in image_files(source.name, source.files[start:stop], MaskError):
            yield _fitted(mask_from_image(data, name), index)
    else:
        assert source.video is not None
        try:
            for frame in decode_range(source.video, start, stop):
                mask = frame.to_ndarray(format="gray") > 127
                yield _fitted(source.video.as_shown(mask), index)
        except VideoError as error:
            raise MaskError(f"mask video {error}") from error


def _drawn_masks(source: MaskSource, index: VideoIndex, start: int, stop: int) -> Iterator[Mask]:
    drawn: dict[tuple[bool, ...], Mask] = {}
    for time_s in index.times_s(start, stop):
        shown = tuple(box.is_shown_at(time_s) for box in source.boxes)
        if shown not in drawn:
            mask = draw_boxes(source.boxes, *index.displayed_size, time_s)
            drawn[shown] = _fitted(mask, index)
        yield drawn[shown]


def _fitted(mask: Mask, index: VideoIndex) -> Mask:
    """A mask as displayed, scaled to the video and turned as the video is coded."""
    width, height = index.displayed_size
    if mask.shape != (height, width):
        resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        mask = resized > 0
    return np.ascontiguousarray(index.as_stored(mask))


def _images_source(path: str) -> MaskSource:
    names = image_names(path, MaskError)
    if not names:
        raise MaskError(f"{path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    digest = hashlib.sha256()
    size = None
    for name, data in image_files(path, names, MaskError):
        found = open_image(data, name, MaskError).size
        if size not in (None, found):
            raise MaskError(f"{name}: is {found[0]}x{found[1]}, the masks before it {size[0]}x{size[1]}")
        size = found
        digest.update(hashlib.sha256(data).digest())
    return MaskSource(kind="images", name=path, files=tuple(names), size=size, sha256=digest.hexdigest())


def mask_from_image(data: bytes, name: str) -> Mask:
    """True where an image says hole.

    Palette images hold object ids: any but 0 is hole. So do gray lossless images without a value above 31. Images
    with a varying alpha channel are read by it; all others by brightness, from half up, so that compression noise
    does not count.
    """
    image = open_image(data, name, MaskError)
    try:
        if image.mode == "P":
            return np.asarray(image) != 0
        if image.mode in ("RGBA", "LA"):
            alpha = np.asarray(image.getchannel("A"))
            if alpha.min() != alpha.max():
                return alpha > 127
        if image.mode.startswith("I"):
            values = np.asarray(image)
            return values > (32767 if values.max() > 255 else 0)
        gray = np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise MaskError(f"{name}: the image is damaged ({error})") from error
    is_lossless = PurePosixPath(name).suffix.lower() not in LOSSY_SUFFIXES
    if image.mode == "L" and is_lossless and gray.max() <= MAX_OBJECT_ID:
        return gray > 0
    return gray > 127
