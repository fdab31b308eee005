"""One picture as a mask: what palettes, transparency, brightness and colors say."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import plan_video
from sttn_ray.errors import MaskError
from sttn_ray.masks.picture import read_picture
from sttn_ray.masks.read import mask_source, read_masks
from sttn_ray.video.index import index_video
from tests.media import make_video
from tests.plans import SETTINGS
from tests.remedies import follow, needs_ffmpeg

HEIGHT, WIDTH = 64, 96
BLACK, WHITE, RED, BLUE, YELLOW, MAROON = (
    (0, 0, 0),
    (255, 255, 255),
    (255, 0, 0),
    (0, 0, 255),
    (255, 255, 0),
    (128, 0, 0),
)
Color = tuple[int, int, int]


def make_mark(left: int = 10) -> NDArray[np.bool_]:
    mark = np.zeros((HEIGHT, WIDTH), bool)
    mark[16:32, left : left + 24] = True
    return mark


def picture(background: Color, *marks: Color) -> Image.Image:
    """Marks side by side, of 24x16 pixels."""
    values = np.full((HEIGHT, WIDTH, 3), background, np.uint8)
    for number, color in enumerate(marks):
        values[make_mark(10 + 28 * number)] = color
    return Image.fromarray(values)


def with_palette(indices: NDArray[np.integer], palette: list[Color]) -> Image.Image:
    image = Image.frombytes("P", (WIDTH, HEIGHT), indices.astype(np.uint8).tobytes())
    image.putpalette([value for color in palette for value in color])
    return image


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def read(image: Image.Image, form: str = "PNG", **options: object) -> NDArray[np.bool_]:
    return read_picture(encode(image, form, **options), "m").hole


# Palettes


@pytest.mark.parametrize("index_of_white", [0, 1])
def test_a_palette_of_black_and_white_is_a_picture(index_of_white: int):
    indices = make_mark() == index_of_white
    palette = [WHITE, BLACK] if index_of_white == 0 else [BLACK, WHITE]
    assert np.array_equal(read(with_palette(indices, palette)), make_mark())


@pytest.mark.parametrize("num_colors", [2, 16])
def test_a_quantized_mask_is_what_it_was(num_colors: int):
    assert np.array_equal(read(picture(BLACK, WHITE).quantize(num_colors)), make_mark())
    assert np.array_equal(read(picture(WHITE, BLACK).quantize(num_colors)), ~make_mark())


def test_grays_of_a_palette_count_by_brightness():
    steps = [(value, value, value) for value in (255, 200, 100, 0)]
    indices = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 4
    assert np.array_equal(read(with_palette(indices, steps)), indices < 2)


def test_black_and_white_of_a_table_of_colors_is_a_picture():
    web = picture(BLACK, WHITE).convert("P")
    assert np.array_equal(read(web), make_mark())
    reverse = with_palette(np.where(make_mark(), 3, 7), [RED, RED, RED, WHITE, RED, RED, RED, BLACK])
    assert np.array_equal(read(reverse), make_mark())


@pytest.mark.parametrize("palette", [[BLACK, MAROON], [WHITE, RED], [BLACK, (1, 1, 1)], [BLACK, MAROON, (0, 128, 0)]])
def test_object_ids_are_all_but_the_first(palette: list[Color]):
    assert np.array_equal(read(with_palette(make_mark(), palette)), make_mark())
    assert not read(with_palette(0 * make_mark(), palette)).any()


def test_an_object_may_be_black_gray_or_fill_the_picture_of_ids():
    palette = [BLACK, MAROON, (64, 64, 64), BLACK]
    for number in (1, 2, 3):
        assert np.array_equal(read(with_palette(make_mark() * number, palette)), make_mark())
    assert read(with_palette(np.ones_like(make_mark()), palette)).all()


def test_a_palette_that_may_be_read_both_ways_is_refused():
    with pytest.raises(
        MaskError, match=r"m: its palette does not tell .* index 0, .* \(255, 0, 0\), and index 1 is dark"
    ):
        read(with_palette(~make_mark(), [RED, BLACK]))


def test_transparency_counts_in_palettes_and_by_a_color():
    ids = with_palette(make_mark(), [WHITE, BLACK])
    assert np.array_equal(read(ids, transparency=0), make_mark())
    gray = Image.fromarray(make_mark().astype(np.uint8) * 100)
    assert np.array_equal(read(gray, transparency=0), make_mark())


# Colors


@pytest.mark.parametrize("color", [RED, BLUE, MAROON, (0, 0, 128), (200, 30, 40), (76, 76, 76), (5, 0, 0)])
@pytest.mark.parametrize("background", [BLACK, None])
def test_marks_that_are_not_white_are_no_empty_mask(tmp_path: Path, color: Color, background: Color | None):
    film = make_video(tmp_path / "film.mp4", num_frames=3)
    picture(background or color, color).save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=r"m\.png: .*(nowhere white|of the color) .*brightest \d+ of 255") as raised:
        plan(film, tmp_path / "m.png")
    assert "make what is to be removed white" in str(raised.value)
    assert ("ffmpeg" in str(raised.value)) == (background is BLACK)  # else it would make all of it white


def plan(film: Path, mask: Path) -> object:
    item = Item(video=str(film), mask=str(mask), boxes=None, output="film")
    return plan_video(item, SETTINGS)


@pytest.mark.parametrize("color", [RED, BLUE])
def test_a_mask_video_in_color_is_no_empty_mask(tmp_path: Path, color: Color):
    film = make_video(tmp_path / "film.mp4", num_frames=3)
    shown = np.asarray(picture(BLACK, color)) / 255
    make_video(tmp_path / "m.mp4", num_frames=3, picture=lambda _: shown)
    with pytest.raises(MaskError, match=r"m\.mp4: is in color, and marks of the color"):
        plan(film, tmp_path / "m.mp4")


def test_a_black_mask_is_empty_and_one_that_fades_in_is_not(tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", num_frames=3)
    picture(BLACK).save(tmp_path / "m.png")
    assert not plan(film, tmp_path / "m.png").has_hole
    make_video(tmp_path / "m.mp4", num_frames=3, picture=lambda n: np.asarray(picture(BLACK, (90 * n,) * 3)) / 255)
    assert plan(film, tmp_path / "m.mp4").has_hole


def test_a_dark_mask_video_is_no_empty_mask(tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", num_frames=3)
    make_video(tmp_path / "m.mp4", num_frames=3, picture=lambda _: np.asarray(picture(BLACK, (90,) * 3)) / 255)
    with pytest.raises(MaskError, match=r"m\.mp4: is not black, but nowhere white \(brightest \d\d of 255"):
        plan(film, tmp_path / "m.mp4")


def test_marks_that_vanish_where_they_are_scaled_are_no_empty_mask(tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", num_frames=3)
    values = np.zeros((4 * HEIGHT, 4 * WIDTH), np.uint8)
    values[33, 33] = 255
    Image.fromarray(values).save(tmp_path / "m.png")
    with pytest.raises(MaskError, match=r"m\.png: what is white in it is lost"):
        plan(film, tmp_path / "m.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("others", [(RED,), (RED, WHITE), (BLUE, YELLOW), (MAROON, (128, 128, 128))])
def test_dark_marks_beside_bright_ones_are_told(form: str, others: tuple[Color, ...]):
    with pytest.raises(MaskError, match="is in color, and marks of the color"):
        read(picture(BLACK, *others), form)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_photo_and_red_on_white_are_no_masks(form: str):
    colors = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    photo = Image.fromarray(colors).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    for image in (photo, picture(WHITE, RED)):
        with pytest.raises(MaskError, match="is in color, and marks of the color"):
            read(image, form)


def test_bright_marks_in_color_and_dark_backgrounds_count_by_brightness():
    assert np.array_equal(read(picture(BLACK, YELLOW)), make_mark())
    assert np.array_equal(read(picture(BLUE, WHITE)), make_mark())
    soft = Image.new("RGB", (WIDTH, HEIGHT))
    ImageDraw.Draw(soft).ellipse((20, 10, 70, 50), fill=(0, 255, 0))
    blurred = Image.fromarray((np.asarray(soft.resize((12, 8)).resize((WIDTH, HEIGHT)))).astype(np.uint8))
    for form in ("PNG", "JPEG"):
        assert read(blurred, form).any()


def test_ids_saved_in_color_are_ids():
    assert np.array_equal(read(picture(BLACK, (1, 1, 1))), make_mark())


def test_transparent_marks_that_are_nowhere_opaque():
    values = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    values[..., 3] = make_mark() * 100
    assert read_picture(encode(Image.fromarray(values)), "m").brightest == 100


@pytest.mark.parametrize(("values", "expected"), [((0.0, 1.0), True), ((0.0, 255.0), True), ((0.0, 0.2), False)])
def test_float_pictures(values: tuple[float, float], expected: bool):
    image = Image.fromarray(np.where(make_mark(), values[1], values[0]).astype(np.float32))
    found = read_picture(encode(image, "TIFF"), "m")
    assert np.array_equal(found.hole, make_mark() & expected)
    assert (found.brightest == 0) == expected


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_several_pictures_in_a_file_are_told(form: str):
    data = encode(picture(BLACK, WHITE), form, save_all=True, append_images=[picture(BLACK), picture(BLACK, RED)])
    with pytest.raises(MaskError, match="m: holds 3 pictures; save each as a file of its own in one folder"):
        read_picture(data, "m")


@pytest.mark.filterwarnings("ignore")  # of Pillow, on what it reads all the same
@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF", "BMP", "WEBP", "JPEG"])
def test_any_damage_is_an_error_of_ours(form: str):
    small = picture(BLACK, WHITE).resize((12, 8)).quantize(2).convert("P" if form not in ("WEBP", "JPEG") else "RGB")
    data = encode(small, form)
    random = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(data[: random.integers(len(data) // 2, len(data) + 1)])
        for _ in range(3):
            damaged[random.integers(len(damaged))] = random.integers(256)
        with suppress(MaskError):
            read_picture(bytes(damaged), "m")


def test_floats_without_bounds():
    values = np.where(make_mark(), np.float32(3e38), np.float32(0))
    assert np.array_equal(read(Image.fromarray(values), "TIFF"), make_mark())
    with pytest.raises(MaskError, match="holds values that are no numbers"):
        read(Image.fromarray(np.where(make_mark(), np.float32("nan"), np.float32(0))), "TIFF")


DARK = [
    ("m.png", picture(BLACK, RED), {}),
    ("m.png", picture(BLACK, (0, 0, 128)), {}),
    ("m.png", picture(BLACK, (40, 0, 0)), {}),
    ("m.png", picture((4, 2, 3), MAROON), {}),
    ("m.png", picture(BLACK, (76, 76, 76)).convert("L"), {}),
    ("m.png", with_palette(~make_mark(), [RED, BLACK]), {}),
    ("m.png", with_palette(~make_mark(), [WHITE, (0, 0, 40)]), {}),
    ("m.png", Image.fromarray(make_mark().astype(np.uint16) * 20000), {}),
    ("m.png", Image.fromarray(np.dstack([np.zeros((HEIGHT, WIDTH, 3), np.uint8), make_mark() * np.uint8(100)])), {}),
    ("m.tif", picture(BLACK, RED), {}),
    ("m.bmp", picture(BLACK, RED), {}),
    ("m.jpg", picture(BLACK, RED), {"quality": 90}),
    ("m.jpg", picture(BLACK, (20, 20, 20)).convert("L"), {"quality": 90}),
    ("m.jpg", picture(BLACK, (50, 0, 0)), {"quality": 90}),
]


@needs_ffmpeg
@pytest.mark.parametrize(("name", "image", "options"), DARK)
def test_the_advice_helps(tmp_path: Path, name: str, image: Image.Image, options: dict[str, int]):
    image.save(tmp_path / name, **options)
    film = make_video(tmp_path / "film.mp4", num_frames=3)
    with pytest.raises(MaskError) as raised:
        plan(film, tmp_path / name)
    hole = read_picture(follow(str(raised.value), tmp_path / name).read_bytes(), "m").hole
    assert np.array_equal(hole, make_mark()) if not options else (hole != make_mark()).mean() < 0.02


@needs_ffmpeg
@pytest.mark.parametrize("color", [RED, (48, 48, 48), (90, 90, 90)])
def test_the_advice_on_mask_videos_helps(tmp_path: Path, color: Color):
    film = make_video(tmp_path / "film.mp4", num_frames=3)
    shown = np.asarray(picture(BLACK, color)) / 255
    mask = make_video(tmp_path / "m.mp4", num_frames=3, picture=lambda _: shown, audio=True)
    with pytest.raises(MaskError) as raised:
        plan(film, mask)
    index = index_video(str(film))
    for hole in read_masks(mask_source(str(follow(str(raised.value), mask))), index, 0, 3):
        assert (hole != make_mark()).mean() < 0.02


@pytest.mark.parametrize("image", [picture(WHITE, RED), Image.fromarray(make_mark() * np.float32(0.4))])
def test_no_command_is_advised_where_none_helps(image: Image.Image):
    """Red on white would become all white; FFmpeg does not read floats."""
    try:
        advice = read_picture(encode(image, "TIFF"), "m.tif").advice
    except MaskError as error:
        advice = str(error)
    assert "make what is to be removed white" in advice
    assert "ffmpeg" not in advice


# Compression


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
@pytest.mark.parametrize("quality", [5, 10, 40, 75, 95])
def test_noise_of_compression_is_black_and_dark_areas_are_not(form: str, quality: int):
    noise = np.random.default_rng(0).integers(0, 25, (HEIGHT, WIDTH)).astype(np.uint8)
    assert read_picture(encode(Image.fromarray(noise), form, quality=quality), "m").brightest == 0
    for color in ((20, 20, 20), (50, 50, 50), (60, 0, 0)):
        found = read_picture(encode(picture(BLACK, color), form, quality=quality), "m")
        assert found.brightest > 0
        assert not found.hole.any()


def test_dark_marks_in_lossy_masks_are_no_empty_mask(tmp_path: Path):
    film = make_video(tmp_path / "film.mp4", num_frames=3)
    picture(BLACK, (50, 50, 50)).save(tmp_path / "m.jpg")
    shown = np.asarray(picture(BLACK, (48, 48, 48))) / 255
    make_video(tmp_path / "m.mp4", num_frames=3, picture=lambda _: shown)
    for name in ("m.jpg", "m.mp4"):
        with pytest.raises(MaskError, match=r"is not black, but nowhere white \(brightest [45]\d of 255"):
            plan(film, tmp_path / name)


def test_a_palette_of_white_and_a_dark_color_is_refused():
    with pytest.raises(MaskError, match=r"its palette does not tell .* index 1 is dark, \(0, 0, 40\)"):
        read(with_palette(~make_mark(), [WHITE, (0, 0, 40)]))


def test_lab_colors_are_read():
    assert np.array_equal(read(picture(BLACK, WHITE).convert("LAB"), "TIFF"), make_mark())
