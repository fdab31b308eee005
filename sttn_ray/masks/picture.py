"""One picture as a mask: by its transparency, its palette or its brightness."""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.errors import MaskError
from sttn_ray.images import DAMAGE, open_image
from sttn_ray.masks.advice import Kind, whiten

Mask = NDArray[np.bool_]
Rgb = NDArray[np.uint8]

LOSSY_FORMATS = {"JPEG", "MPO", "WEBP"}
_PLAIN_MODES = {"P", "RGB", "RGBA", "PA"}  # of pictures in color that FFmpeg reads as Pillow does
MAX_OBJECT_ID = 31  # a gray image with no higher value holds object ids, not brightness
MAX_BLACK = 31  # of the brightest channel
# That compression leaves on black, in spots; measured on noise of 0 to 25 in JPEG and WebP of all qualities, areas of
# 3x3 pixels differ less from their picture.
MAX_NOISE, MAX_AREA_NOISE = 63, 12
MIN_WHITE = 224
GRAY_TOLERANCE = 8  # between the channels of a gray in a palette
MIN_SATURATION = 64  # between the channels of a color in a picture


class MaskPicture(NamedTuple):
    """A picture read as a mask.

    Attributes:
        hole: (height, width), True = hole.
        brightest: of 255, where there is no hole though the picture is not black; else 0; above
            127 where it is transparent everywhere.
        advice: what to do where it is too dark; else blank.
    """

    hole: Mask
    brightest: int
    advice: str = ""


def read_picture(data: bytes, name: str) -> MaskPicture:
    """Where an image says hole.

    A varying transparency counts alone. Palettes with colors hold object ids: any but 0 is hole; those of black, white
    and grays are pictures. Gray lossless images without a value above 31 hold object ids, too. All others count by
    brightness, from half up, so that compression noise does not.

    Raises:
        MaskError: it is damaged, holds several pictures, or marks in colors that are too dark to count.
    """
    image = open_image(data, name, MaskError)
    is_lossy = image.format in LOSSY_FORMATS
    try:
        num_pictures = getattr(image, "n_frames", 1)
        if image.format != "MPO" and num_pictures > 1:
            raise MaskError(f"{name}: holds {num_pictures} pictures; save each as a file of its own in one folder")
        if image.mode.startswith("I") or image.mode == "F":
            return _by_value(np.asarray(image), name, "image" if image.mode.startswith("I;16") else "unreadable")
        if image.has_transparency_data:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
            if alpha.min() != alpha.max():
                return read_alpha(alpha, name, "image", is_lossy=is_lossy)
        if image.mode == "P" and _holds_ids(image, name):
            return MaskPicture(np.asarray(image) != 0, 0)
        if image.mode in ("1", "L", "LA"):
            return read_gray(np.asarray(image.convert("L")), name, "image", is_lossy=is_lossy)
        color = image.convert("RGB")
        rgb = np.asarray(color)
        gray = np.asarray((color if image.mode == "LAB" else image).convert("L"))  # Pillow has no way from LAB to gray
    except DAMAGE as error:
        raise MaskError(f"{name}: the image is damaged ({error})") from error
    return read_rgb(rgb, gray, name, "image" if image.mode in _PLAIN_MODES else "unreadable", is_lossy=is_lossy)


def read_rgb(rgb: Rgb, gray: NDArray[np.uint8], name: str, kind: Kind, *, is_lossy: bool) -> MaskPicture:
    """A picture in colors, (height, width, 3), with its brightness (height, width), as a mask.

    Raises:
        MaskError: it holds marks in colors that are too dark to count.
    """
    red, green, blue = (np.ascontiguousarray(rgb[..., n]) for n in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return read_gray(gray, name, kind, is_lossy=is_lossy)
    hole = gray > 127
    if lost := _lost_color(rgb, hole):
        raise MaskError(
            f"{name}: is in color, and marks of the color {lost} are too dark to be removed (brightest "
            f"{int(gray.max())} of 255, where 128 and more is removed); "
            f"{whiten(rgb.max(2), name, kind, is_lossy=is_lossy)}"
        )
    if hole.any() or _is_black(levels := rgb.max(2), is_lossy=is_lossy):
        return MaskPicture(hole, 0)
    return MaskPicture(hole, max(1, int(gray.max())), whiten(levels, name, kind, is_lossy=is_lossy))


def read_gray(gray: NDArray[np.uint8], name: str, kind: Kind, *, is_lossy: bool) -> MaskPicture:
    """A gray picture, (height, width), as a mask."""
    if not is_lossy and gray.max() <= MAX_OBJECT_ID:
        return MaskPicture(gray > 0, 0)
    if gray.max() > 127 or _is_black(gray, is_lossy=is_lossy):
        return MaskPicture(gray > 127, 0)
    return MaskPicture(gray > 127, int(gray.max()), whiten(gray, name, kind, is_lossy=is_lossy))


def read_alpha(alpha: NDArray[np.uint8], name: str, kind: Kind, *, is_lossy: bool) -> MaskPicture:
    """A picture's transparency, (height, width), as a mask: what is opaque is hole."""
    if alpha.max() > 127 or _is_black(alpha, is_lossy=is_lossy):
        return MaskPicture(alpha > 127, 0)
    return MaskPicture(alpha > 127, int(alpha.max()), whiten(alpha, name, kind, is_lossy=is_lossy, is_alpha=True))


def _by_value(values: NDArray[Any], name: str, kind: Kind) -> MaskPicture:
    """Of 16 or 32 bits, or floats: from 0 to 1, or as others count."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise MaskError(f"{name}: holds values that are no numbers; save it in black and white")
        values = values.astype(float) * (65535 if values.max() <= 1 else 257)
    high = int(values.max())
    hole = values > (32767 if high > 255 else 0)
    if hole.any() or high <= 0:
        return MaskPicture(hole, 0)
    levels = (values.clip(0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
    return MaskPicture(hole, max(1, high >> 8), whiten(levels, name, kind))


def _is_black(levels: NDArray[np.uint8], *, is_lossy: bool) -> bool:
    """Whether a picture holds nothing but noise of its compression."""
    high = int(levels.max())
    if not is_lossy or not 0 < high <= MAX_NOISE:
        return high == 0
    most = float(np.median(levels))
    areas = cv2.erode((levels > most + MAX_AREA_NOISE).astype(np.uint8), np.ones((3, 3), np.uint8))
    return most <= MAX_BLACK and not areas.any()


def _holds_ids(image: Image.Image, name: str) -> bool:
    """Whether a palette's indices count, and not its colors."""
    indices = np.asarray(image)
    used = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    stored = np.array(image.getpalette("RGB"), int).reshape(-1, 3)
    palette = np.zeros((256, 3), int)
    palette[: len(stored)] = stored
    is_gray = np.ptp(palette, axis=1) <= GRAY_TOLERANCE
    high = palette.max(1)
    if is_gray[used].all():
        # A table of colors of which a picture in black and white uses two.
        is_picture = high[used].min() <= MAX_BLACK and high[used].max() >= MIN_WHITE
        if is_picture or is_gray.all():
            return False
    brightness = palette @ np.array([299, 587, 114]) // 1000
    dark = [n for n in used if n and brightness[n] <= MAX_BLACK]
    if dark and high[0] > MAX_BLACK:
        advice = whiten(high[indices].astype(np.uint8), name, "image", limit=int(high[dark].max()))
        raise MaskError(
            f"{name}: its palette does not tell what is to be removed: index 0, where object ids have their "
            f"background, is the color {_color(palette[0])}, and index {dark[0]} is dark, {_color(palette[dark[0]])}; "
            f"{advice}"
        )
    return True


def _lost_color(rgb: Rgb, hole: Mask) -> str | None:
    """A color of marks that are bright in a channel and dark to the eye, as red and blue are, beside those that count.

    A single dark color that takes more of the picture than black is the background of a hole that is the smaller part.
    """
    high, low = rgb.max(2), rgb.min(2)
    vivid = ~hole & (high > 127) & (high - low > MIN_SATURATION)
    # Soft rims of marks are thin, and have the marks' color.
    solid = cv2.erode(vivid.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    hues = (rgb > (high // 2)[..., None]) @ np.array([1, 2, 4], np.uint8)
    lost = solid & ~np.isin(hues, np.unique(hues[hole]))
    if not lost.any():
        return None
    is_background = len(np.unique(hues[lost])) == 1 and np.count_nonzero(high <= MAX_BLACK) < np.count_nonzero(vivid)
    if is_background and 0 < hole.mean() < 0.5:
        return None
    row, column = np.unravel_index(int(lost.argmax()), lost.shape)
    return _color(rgb[row, column])


def _color(values: NDArray[np.generic]) -> str:
    return f"({', '.join(str(int(value)) for value in values)})"
