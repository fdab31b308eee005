import io
import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.errors import MaskError
from sttn_ray.images import natural_key
from sttn_ray.masks.boxes import draw_boxes, parse_boxes
from sttn_ray.masks.read import MaskSource, boxes_source, check_emptiness, check_fit, mask_source, read_masks
from sttn_ray.video.color import color_format, frame_planes
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video
from tests.media import make_video
from tests.remedies import follow, needs_ffmpeg

HEIGHT, WIDTH, NUM_FRAMES = 64, 96, 30


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return index_video(str(make_video(tmp_path_factory.mktemp("video") / "film.mp4", num_frames=NUM_FRAMES)))


def make_mask(number: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, number : number + width // 3] = True
    return mask


def save(path: Path, values: NDArray[np.generic], mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(values.astype(np.uint8) * 255 if values.dtype == bool else values)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def png(values: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def read_all(path: Path | str, index: VideoIndex) -> list[NDArray[np.bool_]]:
    source = mask_source(str(path))
    check_fit(source, index)
    return list(read_masks(source, index, 0, index.num_frames))


def as_displayed(picture: NDArray[np.generic], matrix: Sequence[int]) -> NDArray[np.generic]:
    """A coded picture as a player shows it: x' = a x + c y, y' = b x + d y (ISO 14496-12, 6.2.2)."""
    a, b, _, c, d = np.sign(matrix[:5])
    y, x = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    column, row = a * x + c * y, b * x + d * y
    column, row = column - column.min(), row - row.min()
    shown = np.zeros((row.max() + 1, column.max() + 1), picture.dtype)
    shown[row, column] = picture
    return shown


# Single images


def test_one_image_serves_all_frames(index: VideoIndex, tmp_path: Path):
    masks = read_all(save(tmp_path / "logo.png", make_mask()), index)
    assert len(masks) == NUM_FRAMES
    assert all(mask is masks[0] for mask in masks)
    assert np.array_equal(masks[0], make_mask())


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_black_and_white_images(index: VideoIndex, tmp_path: Path, suffix: str, mode: str):
    assert np.array_equal(read_all(save(tmp_path / f"m{suffix}", make_mask(), mode), index)[0], make_mask())


def test_palette_index_counts_not_its_color(index: VideoIndex, tmp_path: Path):
    ids = make_mask().astype(np.uint8) * 3
    image = Image.frombytes("P", (WIDTH, HEIGHT), ids.tobytes())
    image.putpalette([255, 255, 255, *[128, 0, 0] * 255])  # index 0 is white, all objects red
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_all(tmp_path / "m.png", index)[0], make_mask())


@pytest.mark.parametrize(("value", "is_hole"), [(1, True), (31, True), (32, False), (127, False), (128, True)])
def test_gray_values_are_object_ids_up_to_31_and_brightness_above(
    index: VideoIndex, tmp_path: Path, value: int, is_hole: bool
):
    mask = read_all(save(tmp_path / "m.png", make_mask().astype(np.uint8) * value), index)[0]
    assert np.array_equal(mask, make_mask() & is_hole)


def test_object_ids_beside_white_are_dark(index: VideoIndex, tmp_path: Path):
    values = make_mask().astype(np.uint8) * 255
    values[-5:] = 20
    assert np.array_equal(read_all(save(tmp_path / "m.png", values), index)[0], make_mask())


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_compression_noise_is_no_hole(index: VideoIndex, tmp_path: Path, suffix: str):
    noise = np.random.default_rng(0).integers(0, 25, (HEIGHT, WIDTH)).astype(np.uint8)
    assert not read_all(save(tmp_path / f"noise{suffix}", noise, quality=40), index)[0].any()
    mask = read_all(save(tmp_path / f"m{suffix}", make_mask(), quality=40), index)[0]
    inner = np.zeros_like(mask)
    inner[HEIGHT // 4 + 2 : HEIGHT // 2 - 2, : WIDTH // 3 - 2] = True
    assert mask[inner].all()
    assert (mask != make_mask()).mean() < 0.01


def test_alpha_counts_where_it_varies(index: VideoIndex, tmp_path: Path):
    values = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    values[..., 3] = make_mask() * 200
    assert np.array_equal(read_all(save(tmp_path / "m.png", values), index)[0], make_mask())


def test_brightness_counts_where_all_is_opaque(index: VideoIndex, tmp_path: Path):
    values = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    values[..., :3] = make_mask()[..., None] * 255
    assert np.array_equal(read_all(save(tmp_path / "m.png", values), index)[0], make_mask())


@pytest.mark.parametrize("value", [1, 65535])
def test_sixteen_bit_images(index: VideoIndex, tmp_path: Path, value: int):
    path = save(tmp_path / "m.png", make_mask().astype(np.uint16) * value)
    assert np.array_equal(read_all(path, index)[0], make_mask())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 60_000])
def test_image_that_is_too_large(tmp_path: Path, side: int):
    (tmp_path / "huge.png").write_bytes(png_that_claims(side, side))
    with pytest.raises(MaskError, match=r"huge\.png: .*(pixels|decompression bomb)"):
        mask_source(str(tmp_path / "huge.png"))


def test_image_that_is_cut_short(index: VideoIndex, tmp_path: Path):
    random = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH)).astype(np.uint8)
    (tmp_path / "half.png").write_bytes(png(random)[:2000])
    with pytest.raises(MaskError, match=r"half\.png: the image is damaged"):
        read_all(tmp_path / "half.png", index)


def test_image_that_is_none(tmp_path: Path):
    (tmp_path / "m.png").write_text("hello")
    with pytest.raises(MaskError, match=r"m\.png: cannot be read as an image"):
        mask_source(str(tmp_path / "m.png"))


def test_missing_mask(tmp_path: Path):
    with pytest.raises(MaskError, match=r"none\.png: no such mask"):
        mask_source(str(tmp_path / "none.png"))


def test_file_of_another_kind(tmp_path: Path):
    (tmp_path / "m.txt").write_text("hello\n" * 50)
    with pytest.raises(MaskError, match=r"m\.txt: as a mask expected an image .*\.png.*a folder or \.zip.*or a video"):
        mask_source(str(tmp_path / "m.txt"))


# Folders and zips


def test_natural_sort():
    names = ["10.png", "2.png", "1.png", "b2.png", "b10.png", "a11.png", "b2c3.png", "b2c20.png"]
    expected = ["1.png", "2.png", "10.png", "a11.png", "b2.png", "b2c3.png", "b2c20.png", "b10.png"]
    assert sorted(names, key=natural_key) == expected
    # More digits than Python makes a number of.
    assert sorted(["9" * 5000 + ".png", "10.png", "009.png"], key=natural_key)[:2] == ["009.png", "10.png"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_one_image_a_frame_in_natural_order(index: VideoIndex, tmp_path: Path, kind: str):
    members = {f"m{n}.png": png(make_mask(n).astype(np.uint8) * 255) for n in range(NUM_FRAMES)}
    noise = {"notes.txt": b"x", ".hidden.png": b"x"}
    if kind == "folder":
        path = tmp_path / "masks"
        path.mkdir()
        for name, data in (members | noise).items():
            (path / name).write_bytes(data)
        (path / "sub.png").mkdir()
    else:
        inside = {f"masks/{name}": data for name, data in members.items()}
        path = make_zip(tmp_path / "masks.zip", inside | noise | {"__MACOSX/masks/m0.png": b"x"})
    source = mask_source(str(path))
    assert source.num_masks == NUM_FRAMES
    assert source.size == (WIDTH, HEIGHT)
    masks = read_all(path, index)
    assert [int(mask[20].argmax()) for mask in masks] == list(range(NUM_FRAMES))
    part = list(read_masks(source, index, 11, 14))
    assert np.array_equal(part, masks[11:14])


def test_content_not_place_identifies_masks(tmp_path: Path):
    members = {f"{n}.png": png(make_mask(n).astype(np.uint8)) for n in range(3)}
    first = mask_source(str(make_zip(tmp_path / "a.zip", members)))
    again = mask_source(str(make_zip(tmp_path / "b.zip", members)))
    other = mask_source(str(make_zip(tmp_path / "c.zip", members | {"1.png": png(make_mask(9).astype(np.uint8))})))
    assert first.sha256 == again.sha256
    assert first.sha256 != other.sha256


def test_count_mismatch_names_both(index: VideoIndex, tmp_path: Path):
    members = {f"{n}.png": png(make_mask(n).astype(np.uint8)) for n in range(7)}
    path = make_zip(tmp_path / "masks.zip", members)
    with pytest.raises(MaskError) as raised:
        check_fit(mask_source(str(path)), index)
    for word in (str(path), "7 masks", index.path, "30 frames"):
        assert word in str(raised.value)


def test_masks_of_several_sizes(tmp_path: Path):
    members = {"1.png": png(make_mask().astype(np.uint8)), "2.png": png(make_mask(0, 10, 20).astype(np.uint8))}
    with pytest.raises(MaskError, match=r"masks\.zip:2\.png: is 20x10, the masks before it 96x64"):
        mask_source(str(make_zip(tmp_path / "masks.zip", members)))


def test_no_images(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MaskError, match=r"empty: holds no images \(.*\.png"):
        mask_source(str(tmp_path / "empty"))
    with pytest.raises(MaskError, match=r"empty\.zip: holds no images"):
        mask_source(str(make_zip(tmp_path / "empty.zip", {"notes.txt": b"x"})))


def test_file_that_is_no_zip(tmp_path: Path):
    (tmp_path / "masks.zip").write_bytes(b"no" * 100)
    with pytest.raises(MaskError, match=r"masks\.zip: is not a zip file"):
        mask_source(str(tmp_path / "masks.zip"))


def test_zip_member_that_claims_too_much(tmp_path: Path):
    path = make_zip(tmp_path / "bomb.zip", {"1.png": png(make_mask().astype(np.uint8))})
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 2**31)
    path.write_bytes(data)
    with pytest.raises(MaskError, match=r"bomb\.zip:1\.png: claims more than \d+ bytes; not read"):
        mask_source(str(path))


def claim(path: Path, num_bytes: int) -> Path:
    """Let every member of a zip claim to unpack to so many bytes."""
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        struct.pack_into("<I", data, at + 24, num_bytes)
        at = data.find(b"PK\x01\x02", at + 4)
    path.write_bytes(data)
    return path


def test_zip_of_another_count_is_refused_before_its_contents_are_read(index: VideoIndex, tmp_path: Path):
    path = claim(make_zip(tmp_path / "bomb.zip", {f"{n}.png": b"no image" for n in range(13)}), 255 * 2**20)
    with pytest.raises(MaskError, match=r"bomb\.zip: holds 13 masks, its video .*film\.mp4 has 30 frames"):
        mask_source(str(path), index)


def test_zip_of_a_method_that_shrinks_without_bounds(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("1.png", bytes(17 * 2**20))
    with pytest.raises(MaskError, match=r"bomb\.zip:1\.png: claims 17825792 bytes in \d+; not read"):
        mask_source(str(tmp_path / "bomb.zip"))


def test_zip_that_claims_too_much_altogether(index: VideoIndex, tmp_path: Path):
    path = claim(make_zip(tmp_path / "bomb.zip", {f"{n}.png": b"no image" for n in range(NUM_FRAMES)}), 255 * 2**20)
    with pytest.raises(MaskError, match=r"bomb\.zip: has \d+ bytes and claims to hold images of 8021606400; not read"):
        mask_source(str(path), index)


@pytest.mark.parametrize("kind", ["image", "folder", "zip"])
@pytest.mark.parametrize(
    "data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 64\n", b"P5 96 64 255\n" + bytes(96 * 64), b"8BPS\0\1"]
)
def test_formats_are_known_by_their_content(tmp_path: Path, kind: str, data: bytes):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/m.png").write_bytes(data)
    path = {"image": tmp_path / "m/m.png", "folder": tmp_path / "m", "zip": tmp_path / "m.zip"}[kind]
    if kind == "zip":
        make_zip(path, {"m.png": data})
    with pytest.raises(MaskError, match=r"m\.png: cannot be read as an image \(its content is none of PNG, JPEG"):
        mask_source(str(path))


def test_zip_that_is_encrypted(tmp_path: Path):
    path = make_zip(tmp_path / "secret.zip", {"1.png": png(make_mask().astype(np.uint8))})
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(MaskError, match=r"secret\.zip:1\.png: cannot be read \(.*encrypted"):
        mask_source(str(path))


def test_zip_member_that_is_damaged(tmp_path: Path):
    data = png(make_mask().astype(np.uint8))
    path = make_zip(tmp_path / "bad.zip", {"1.png": data})
    stored = bytearray(path.read_bytes())
    stored[stored.index(data) + 60] ^= 1
    path.write_bytes(stored)
    with pytest.raises(MaskError, match=r"bad\.zip:1\.png: cannot be read \(.*CRC"):
        mask_source(str(path))


def test_damaged_image_is_named_with_its_zip(index: VideoIndex, tmp_path: Path):
    members = {f"{n}.png": png(make_mask(n).astype(np.uint8)) for n in range(NUM_FRAMES)}
    members["4.png"] = members["4.png"][:60]
    with pytest.raises(MaskError, match=r"masks\.zip:4\.png: the image is damaged"):
        read_all(make_zip(tmp_path / "masks.zip", members), index)


# Mask videos


def test_mask_video(index: VideoIndex, tmp_path: Path):
    path = make_video(
        tmp_path / "m.mp4",
        num_frames=NUM_FRAMES,
        picture=lambda n: make_mask(n)[..., None].repeat(3, 2).astype(float),
    )
    masks = read_all(path, index)
    errors = [(mask != make_mask(n)).mean() for n, mask in enumerate(masks)]
    assert len(errors) == NUM_FRAMES
    assert max(errors) < 0.005
    part = list(read_masks(mask_source(str(path)), index, 11, 14))
    assert np.array_equal(part, masks[11:14])


@pytest.mark.parametrize("name", ["still.gif", "still.mp4", "still"])
def test_a_still_picture_serves_all_frames_whatever_its_name(index: VideoIndex, tmp_path: Path, name: str):
    if name == "still.mp4":
        make_video(tmp_path / name, num_frames=1, picture=lambda _: make_mask()[..., None].repeat(3, 2).astype(float))
    else:
        save(tmp_path / name, make_mask(), "P" if name == "still.gif" else None, format="GIF" if "." in name else "PNG")
    source = mask_source(str(tmp_path / name))
    assert source.num_masks is None
    masks = read_all(tmp_path / name, index)
    assert len(masks) == NUM_FRAMES
    assert (masks[0] != make_mask()).mean() < 0.005
    assert all(mask is masks[0] for mask in masks)


def test_an_interlaced_mask_video(index: VideoIndex, tmp_path: Path):
    path = make_video(
        tmp_path / "m.mp4",
        num_frames=NUM_FRAMES,
        picture=lambda _: make_mask()[..., None].repeat(3, 2).astype(float),
        options={"x264-params": "interlaced=1"},
    )
    masks = read_all(path, index)
    assert len(masks) == NUM_FRAMES
    assert max((mask != make_mask()).mean() for mask in masks) < 0.02


def test_an_animated_gif_has_a_mask_a_frame(index: VideoIndex, tmp_path: Path):
    pictures = [Image.fromarray(make_mask(n).astype(np.uint8) * 255) for n in range(NUM_FRAMES)]
    pictures[0].save(tmp_path / "m.gif", save_all=True, append_images=pictures[1:], duration=40)
    masks = read_all(tmp_path / "m.gif", index)
    assert all(np.array_equal(mask, make_mask(n)) for n, mask in enumerate(masks))


def test_mask_video_of_another_length(index: VideoIndex, tmp_path: Path):
    path = make_video(tmp_path / "m.mp4", num_frames=5)
    with pytest.raises(MaskError, match=r"m\.mp4: holds 5 masks, its video .*film\.mp4 has 30 frames"):
        check_fit(mask_source(str(path)), index)


def test_damaged_mask_video(index: VideoIndex, tmp_path: Path):
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH, 1)).repeat(3, 2)
    path = make_video(tmp_path / "m.mp4", num_frames=NUM_FRAMES, picture=lambda n: np.roll(noise, n, 0))
    source = mask_source(str(path))
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 4, len(data) // 2)
    data[middle] = bytes(len(data[middle]))
    path.write_bytes(data)
    with pytest.raises(MaskError, match=r"mask video .*m\.mp4: damaged"):
        list(read_masks(source, index, 0, NUM_FRAMES))


def make_matte(path: Path, alphas: Sequence[NDArray[np.bool_]], *, encoder: str, pix_fmt: str) -> Path:
    """A white film whose transparency alone is a mask."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25, options={"auto-alt-ref": "0"} if "vpx" in encoder else {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        for alpha in alphas:
            pixels = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
            pixels[..., 3] = alpha * 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("encoder", "pix_fmt"), [("qtrle", "argb"), ("png", "rgba"), ("prores_ks", "yuva444p10le"), ("ffv1", "yuva420p")]
)
def test_transparency_of_a_mask_video_counts(index: VideoIndex, tmp_path: Path, encoder: str, pix_fmt: str):
    marks = [make_mask(n) * (n != 3) for n in range(NUM_FRAMES)]  # one of them empty
    path = tmp_path / ("m.mkv" if encoder == "ffv1" else "m.mov")
    for mask, mark in zip(
        read_all(make_matte(path, marks, encoder=encoder, pix_fmt=pix_fmt), index), marks, strict=True
    ):
        assert (mask != mark).mean() < 0.005


@needs_ffmpeg
def test_a_mask_video_that_is_transparent_everywhere(index: VideoIndex, tmp_path: Path):
    path = make_matte(tmp_path / "m.mov", [0 * make_mask()] * NUM_FRAMES, encoder="qtrle", pix_fmt="argb")
    with pytest.raises(MaskError, match=r"m\.mov: is transparent everywhere") as raised:
        check_emptiness(mask_source(str(path)), index)
    assert all(mask.all() for mask in read_all(follow(str(raised.value), path), index))


@needs_ffmpeg
def test_transparency_beside_a_mask_videos_pictures_can_be_made_a_mask(index: VideoIndex, tmp_path: Path):
    path = make_matte(tmp_path / "m.webm", [make_mask()] * NUM_FRAMES, encoder="libvpx-vp9", pix_fmt="yuva420p")
    with pytest.raises(MaskError, match="transparency") as raised:
        mask_source(str(path))
    assert "encode." not in str(raised.value)
    for mask in read_all(follow(str(raised.value), path), index):
        assert (mask != make_mask()).mean() < 0.02


def test_a_mask_video_is_advised_no_setting_that_does_not_reach_it(tmp_path: Path):
    path = make_video(tmp_path / "m.mkv", num_frames=NUM_FRAMES)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(MaskError, match=r"m\.mkv: ends early.*copy it anew") as raised:
        mask_source(str(path))
    assert "inpaint." not in str(raised.value)


# Fitting


def test_mask_of_the_same_shape_is_scaled_by_nearest_and_noted(index: VideoIndex, tmp_path: Path):
    small = np.random.default_rng(0).random((HEIGHT // 2, WIDTH // 2)) > 0.5
    source = mask_source(str(save(tmp_path / "m.png", small)))
    assert check_fit(source, index) == "mask scaled from 48x32 to 96x64"
    (mask,) = read_masks(source, index, 0, 1)
    assert np.array_equal(mask, small.repeat(2, 0).repeat(2, 1))
    large = np.random.default_rng(0).random((HEIGHT * 2, WIDTH * 2)) > 0.5
    (mask,) = read_masks(mask_source(str(save(tmp_path / "l.png", large))), index, 0, 1)
    assert np.array_equal(mask, large[::2, ::2])


def test_mask_of_the_videos_size_needs_no_note(index: VideoIndex, tmp_path: Path):
    assert check_fit(mask_source(str(save(tmp_path / "m.png", make_mask()))), index) is None


@pytest.mark.parametrize(("width", "height"), [(96, 63), (64, 96), (100, 64), (48, 33)])
def test_mask_of_another_shape_is_refused(index: VideoIndex, tmp_path: Path, width: int, height: int):
    source = mask_source(str(save(tmp_path / "m.png", make_mask(0, height, width))))
    with pytest.raises(MaskError) as raised:
        check_fit(source, index)
    for word in ("m.png", f"{width}x{height}", index.path, "96x64", "aspect ratio"):
        assert word in str(raised.value)


@pytest.mark.parametrize("rotation", [0, 90])
def test_masks_of_anamorphic_video_may_be_as_stored_or_as_shown(tmp_path: Path, rotation: int):
    path = make_video(tmp_path / "dv.mp4", num_frames=3, sample_aspect=Fraction(64, 45), rotation=rotation)
    index = index_video(str(path))
    assert index.is_anamorphic
    stored, shown = (96, 64), (137, 64)
    for width, height in (stored, shown):
        size = (height, width) if rotation else (width, height)
        source = mask_source(str(save(tmp_path / f"{width}.png", make_mask(0, size[1], size[0]))))
        note = check_fit(source, index)
        assert (note is None) == ((width, height) == stored)
        (mask,) = read_masks(source, index, 0, 1)
        assert mask.shape == (64, 96)
    with pytest.raises(MaskError, match=r"64x64.*as stored, though shown with an aspect ratio of"):
        check_fit(mask_source(str(save(tmp_path / "m.png", make_mask(0, 64, 64)))), index)


@pytest.fixture(scope="module", params=[90, 180, 270])
def turned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    path = tmp_path_factory.mktemp("turned") / "phone.mp4"
    index = index_video(str(make_video(path, num_frames=NUM_FRAMES, rotation=request.param)))
    assert index.rotation == request.param
    return index


def test_box_on_a_displayed_corner_covers_the_coded_corner(turned: VideoIndex):
    (frame,) = decode_range(turned, 0, 1)
    luma = frame_planes(frame, color_format(turned.pix_fmt, *turned.color[:2]))[0]
    corner = np.zeros((HEIGHT, WIDTH), bool)
    corner[: HEIGHT // 4, : WIDTH // 4] = True
    assert luma[corner].min() > 200 > luma[~corner].mean()  # the bright block that make_video draws
    rows, columns = np.nonzero(as_displayed(corner, turned.display_matrix))
    box = f"{columns.min()},{rows.min()},{np.ptp(columns) + 1},{np.ptp(rows) + 1}"
    source = boxes_source(box)
    check_fit(source, turned)
    (mask,) = read_masks(source, turned, 0, 1)
    assert np.array_equal(mask, corner)


def test_image_drawn_on_the_displayed_picture_is_turned(turned: VideoIndex, tmp_path: Path):
    coded = make_mask(5)
    shown = as_displayed(coded, turned.display_matrix)
    source = mask_source(str(save(tmp_path / "m.png", shown)))
    assert check_fit(source, turned) is None
    (mask,) = read_masks(source, turned, 0, 1)
    assert np.array_equal(mask, coded)


def test_mask_video_is_itself_seen_as_displayed(tmp_path: Path):
    # A mask exported upright for a film that lies on its side, and the other way round.
    film = index_video(str(make_video(tmp_path / "film.mp4", num_frames=3, width=64, height=96)))
    lying = make_mask(5)
    path = make_video(
        tmp_path / "m.mp4",
        num_frames=3,
        rotation=270,
        picture=lambda n: lying[..., None].repeat(3, 2).astype(float),
    )
    source = mask_source(str(path))
    assert check_fit(source, film) is None
    assert source.video is not None
    for mask in read_masks(source, film, 0, 3):
        assert (mask != as_displayed(lying, source.video.display_matrix)).mean() < 0.005


# Boxes


@pytest.mark.parametrize(
    ("text", "pixels"),
    [
        ("10,20,30,8", [(10, 20, 40, 28)]),
        ("10, 20, 30, 8 ; 0,0,5,5;", [(10, 20, 40, 28), (0, 0, 5, 5)]),
        (" 10 ,20, 30 %,50 % @ 0 - 2 ;", [(10, 20, 39, 52)]),
        ("50%,25%,25%,50%", [(48, 16, 72, 48)]),
        ("10%,4,50%,7", [(9, 4, 58, 11)]),
        ("90,60,50,50", [(90, 60, 96, 64)]),
        ("0.5,1.5,1,1", [(0, 1, 2, 3)]),
        ("0,0,100%,100%", [(0, 0, 96, 64)]),
    ],
)
def test_boxes_in_pixels_and_percent(text: str, pixels: list[tuple[int, int, int, int]]):
    boxes = parse_boxes(text)
    assert [box.pixels(WIDTH, HEIGHT) for box in boxes] == pixels
    expected = np.zeros((HEIGHT, WIDTH), bool)
    for left, top, right, bottom in pixels:
        expected[top:bottom, left:right] = True
    assert np.array_equal(draw_boxes(boxes, WIDTH, HEIGHT, 0.0), expected)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "expected x,y,width,height"),
        ("10,20,30", "box '10,20,30'"),
        ("10,20,30,40,50", "expected"),
        ("-1,2,3,4", "box '-1,2,3,4'"),
        ("1,2,3,4;oops", "box 'oops'"),
        ("1,2,3,4@5", "expected"),
        ("1,2,0,4", "has no area"),
        ("1,2,3,0%", "has no area"),
        ("1,2,3,4@5-5", "ends at 5.0 s, before it starts"),
        ("1,2,3,4@5-2", "before it starts"),
        ("10 10 50 50", "box '10 10 50 50'"),
        ("1,2,3,4; 5,6 7,8,9", "box '5,6 7,8,9'"),
    ],
)
def test_box_faults_name_the_box(text: str, word: str):
    with pytest.raises(MaskError) as raised:
        parse_boxes(text)
    assert word in str(raised.value)


def test_box_outside_the_picture(index: VideoIndex):
    with pytest.raises(MaskError, match=r"200,0,10,10: a box lies outside the picture of .*film\.mp4, which is 96x64"):
        check_fit(boxes_source("200,0,10,10"), index)


@pytest.mark.parametrize("time", ["1.2-", "50-60", "0.41-0.42"])
def test_box_at_a_time_without_a_frame(index: VideoIndex, time: str):
    check_fit(boxes_source("0,0,10,10@1.16-"), index)
    with pytest.raises(
        MaskError, match=r"a box is to be shown from .* and .*film\.mp4 has no frame then; .* 0 to 1\.160 s"
    ):
        check_fit(boxes_source(f"0,0,10,10;20,0,10,10@{time}"), index)


def test_boxes_are_shown_in_their_time_end_excluded(index: VideoIndex):
    source = boxes_source("0,0,10,10@0.4-0.8;20,20,10,10@1-")
    masks = list(read_masks(source, index, 0, NUM_FRAMES))
    assert [n for n, mask in enumerate(masks) if mask[5, 5]] == list(range(10, 20))
    assert [n for n, mask in enumerate(masks) if mask[25, 25]] == list(range(25, 30))
    assert masks[10] is masks[19]
    assert np.array_equal(list(read_masks(source, index, 8, 12)), masks[8:12])


def test_box_times_count_from_the_first_frame(index: VideoIndex):
    late = replace(index, pts=tuple(pts + 99999 for pts in index.pts))
    masks = list(read_masks(boxes_source("0,0,10,10@0-0.2"), late, 0, NUM_FRAMES))
    assert [n for n, mask in enumerate(masks) if mask.any()] == [0, 1, 2, 3, 4]


def test_sources_survive_json(index: VideoIndex, tmp_path: Path):
    save(tmp_path / "m.png", make_mask())
    members = {"1.png": png(make_mask().astype(np.uint8))}
    sources = [
        mask_source(str(tmp_path / "m.png")),
        mask_source(str(make_zip(tmp_path / "m.zip", members))),
        mask_source(index.path),
        boxes_source("1,2,3%,4@0-2;5,6,7,8"),
    ]
    for source in sources:
        assert MaskSource.from_dict(json.loads(json.dumps(source.as_dict()))) == source
    assert [source.num_masks for source in sources] == [None, 1, NUM_FRAMES, None]
