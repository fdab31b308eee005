"""Masks from what people have: one image, a folder or zip of images, a video, or boxes."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal

import cv2
import numpy as np

from sttn_ray.errors import MaskError, VideoError
from sttn_ray.images import IMAGE_SUFFIXES, file_bytes, image_files, image_names, open_image
from sttn_ray.masks.boxes import Box, draw_boxes, parse_boxes
from sttn_ray.masks.picture import Mask, MaskPicture, read_alpha, read_gray, read_picture, read_rgb
from sttn_ray.paths import as_path, is_file, is_folder
from sttn_ray.storage import file_sha256
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video
from sttn_ray.video.planar import has_alpha

ASPECT_TOLERANCE = 0.01
MAX_TINT = 16  # of a chroma sample in a mask video without colors


@dataclass(frozen=True, kw_only=True)
class MaskSource:
    """Where a video's masks come from.

    Attributes:
        kind: "image" is one mask for all frames, and so is a "video" of one frame; other videos and "images" hold one a
            frame; "boxes" are drawn.
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
        if self.kind == "video" and self.video is not None and self.video.num_frames > 1:
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


def mask_source(path: str, index: VideoIndex | None = None) -> MaskSource:
    """Masks from a path: an image, a folder or zip of images, or a video.

    Args:
        path: of the masks.
        index: of the video that they are for; images of another number are refused before their contents are read.

    Raises:
        MaskError: missing, empty, or none of these.
    """
    where = as_path(path)
    if not (is_folder(path) or is_file(path)):
        raise MaskError(f"{path}: no such mask")
    if is_folder(path) or where.suffix.lower() == ".zip":
        return _images_source(path, index)
    if where.suffix.lower() in IMAGE_SUFFIXES:
        return _image_source(path)
    try:
        video = index_video(path, interlaced="deinterlace", purpose="mask")
    except VideoError as error:
        with suppress(MaskError):  # an image without its suffix
            return _image_source(path)
        raise MaskError(
            f"{path}: as a mask expected an image ({', '.join(sorted(IMAGE_SUFFIXES))}), a folder or .zip of "
            f"images, or a video; as a video: {error}"
        ) from error
    if video.num_frames == 1:  # a still GIF
        with suppress(MaskError):
            return _image_source(path)
    return MaskSource(kind="video", name=path, video=video, size=video.displayed_size, sha256=video.sha256)


def _image_source(path: str) -> MaskSource:
    size = open_image(file_bytes(as_path(path), MaskError), path, MaskError).size
    return MaskSource(kind="image", name=path, size=size, sha256=file_sha256(path))


def check_fit(source: MaskSource, index: VideoIndex) -> str | None:
    """Check that masks fit a video; returns a note where they will be scaled.

    Raises:
        MaskError: another number of masks than frames, another aspect ratio, as stored and as shown, or a box outside
            the picture, or at a time when there is no frame.
    """
    width, height = index.displayed_size
    if source.num_masks is not None:
        _require_count(source.name, source.num_masks, index)
    _check_boxes(source, index)
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


def _require_count(name: str, count: int, index: VideoIndex) -> None:
    if count != index.num_frames:
        raise MaskError(
            f"{name}: holds {count} mask{'s'[: count != 1]}, its video {index.path} has {index.num_frames} "
            f"frame{'s'[: index.num_frames != 1]}; give one mask a frame, or a single image for all frames"
        )


def _check_boxes(source: MaskSource, index: VideoIndex) -> None:
    width, height = index.displayed_size
    times_s = index.times_s() if source.boxes else []
    for box in source.boxes:
        left, top, right, bottom = box.pixels(width, height)
        if left >= right or top >= bottom:
            raise MaskError(
                f"{source.name}: a box lies outside the picture of {index.path}, which is {width}x{height}"
                f"{_stretched(index)}"
            )
        if bisect_left(times_s, box.start_s) == bisect_left(times_s, inf if box.end_s is None else box.end_s):
            end = "" if box.end_s is None else f" to {box.end_s:g}"
            raise MaskError(
                f"{source.name}: a box is to be shown from {box.start_s:g}{end} s, and {index.path} has no frame then; "
                f"its frames are at 0 to {times_s[-1]:.3f} s"
            )


def check_emptiness(source: MaskSource, index: VideoIndex) -> None:
    """Check that masks which leave no hole in a video are black, and not dark or lost.

    Raises:
        MaskError: they are not.
    """
    if source.kind == "boxes":
        return
    dark = []
    for picture in _pictures(source, 0, index.num_frames):
        if picture.hole.any():
            raise MaskError(
                f"{source.name}: what is white in it is lost where it is scaled from {source.size} to "
                f"{index.displayed_size}; make it larger, or give masks of the video's size"
            )
        if picture.brightest:
            dark.append((picture.brightest, picture.advice))
    # What is bright and no hole is transparent.
    if faint := [found for found in dark if found[0] <= 127]:
        # A command that helps for the darkest helps for all.
        raise MaskError(
            f"{source.name}: is not black, but nowhere white (brightest {max(faint)[0]} of 255, where 128 and more is "
            f"removed), so that nothing of {index.path} would be removed; {min(faint)[1]}"
        )
    if dark:
        raise MaskError(
            f"{source.name}: is transparent everywhere, so that nothing of {index.path} would be removed, whatever its "
            "colors; save it without transparency (ffmpeg -i IN -vf format=gray -an -c:v ffv1 OUT.mkv)"
        )


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
    elif source.num_masks is None:
        mask = _fitted(next(_pictures(source, 0, 1)).hole, index)
        for _ in range(start, stop):
            yield mask
    else:
        for picture in _pictures(source, start, stop):
            yield _fitted(picture.hole, index)


def _pictures(source: MaskSource, start: int, stop: int) -> Iterator[MaskPicture]:
    """Masks `start` to `stop` as they are displayed, not scaled to the video yet; of one mask for all frames that one.

    Raises:
        MaskError: an image or frame cannot be read.
    """
    if source.kind == "image":
        yield read_picture(file_bytes(as_path(source.name), MaskError), source.name)
    elif source.kind == "images":
        for name, data in image_files(source.name, source.files[start:stop], MaskError):
            yield read_picture(data, name)
    else:
        assert source.video is not None
        if source.num_masks is None:
            start, stop = 0, 1
        try:
            for frame in decode_range(source.video, start, stop):
                picture = _read_frame(frame, source.name)
                yield picture._replace(hole=source.video.as_shown(picture.hole))
        except VideoError as error:
            raise MaskError(f"mask video {error}") from error


def _read_frame(frame: Any, name: str) -> MaskPicture:
    """A frame of a mask video: by its transparency, else by its colors, which are looked at only where it has some."""
    if has_alpha(frame.format.name):  # some frame is not opaque everywhere
        rgba = frame.to_ndarray(format="rgba")
        if not rgba[..., 3].any():  # what its colors hold is told where no frame has a hole
            return MaskPicture(rgba[..., 3] > 0, int(rgba[..., :3].max()))
        return read_alpha(rgba[..., 3], name, "video", is_lossy=True)
    gray = frame.to_ndarray(format="gray")
    for plane in frame.reformat(format="yuv420p").planes[1:]:
        tints = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        if max(int(tints.max()) - 128, 128 - int(tints.min())) > MAX_TINT:
            return read_rgb(frame.to_ndarray(format="rgb24"), gray, name, "video", is_lossy=True)
    return read_gray(gray, name, "video", is_lossy=True)


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


def _images_source(path: str, index: VideoIndex | None) -> MaskSource:
    names = image_names(path, MaskError)
    if not names:
        raise MaskError(f"{path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if index is not None:
        _require_count(path, len(names), index)
    digest = hashlib.sha256()
    size = None
    for name, data in image_files(path, names, MaskError):
        found = open_image(data, name, MaskError).size
        if size not in (None, found):
            raise MaskError(f"{name}: is {found[0]}x{found[1]}, the masks before it {size[0]}x{size[1]}")
        size = found
        digest.update(hashlib.sha256(data).digest())
    return MaskSource(kind="images", name=path, files=tuple(names), size=size, sha256=digest.hexdigest())
