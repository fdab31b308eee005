import errno
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sttn_ray import images
from sttn_ray.choices import Fit
from sttn_ray.corpus import Entry, Kind, Source, entry_images, find_entries, index_source, read_pictures, scaled_size
from sttn_ray.errors import CorpusError, StorageError, VideoError
from sttn_ray.storage import file_sha256
from tests.media import frame_times, make_images, make_pictures, make_video, png_that_claims, zip_folder

WIDTH, HEIGHT = 96, 64
FPS = Fraction(24)
Picture = NDArray[np.uint8]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def index(path: Path, kind: Kind = "video") -> Source:
    return index_source(str(path.parent), Entry(path.name, kind), frames_fps=FPS)


def read(
    path: Path,
    start: int,
    stop: int,
    *,
    kind: Kind = "video",
    width: int = WIDTH,
    height: int = HEIGHT,
    fit: Fit = "crop",
) -> list[Picture]:
    pictures = list(
        read_pictures(str(path.parent), index(path, kind), start, stop, width=width, height=height, fit=fit)
    )
    assert all(picture.shape == (height, width, 3) and picture.dtype == np.uint8 for picture in pictures)
    assert all(picture.flags.c_contiguous for picture in pictures)
    return pictures


def mean_error(pictures: list[Picture], others: list[Picture]) -> float:
    assert len(pictures) == len(others)
    return float(np.abs(np.stack(pictures).astype(float) - np.stack(others)).mean())


def make_slopes(width: int = WIDTH, height: int = HEIGHT) -> Picture:
    """Red is twice the column and green three times the row, so that a pixel tells where it came from."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([2 * columns, 3 * rows, np.full_like(rows, 90)], 2).astype(np.uint8)


# What there is


def test_every_kind_is_found_in_natural_order_at_any_depth(tmp_path: Path):
    touch(
        tmp_path, "10.mp4", "2.mkv", "1/x.MOV", "1/deep/er/y.webm", "walk/2.png", "walk/10.JPG", "walk/1.jpeg", "b.zip"
    )
    assert find_entries(str(tmp_path)).entries == [
        ("1/deep/er/y.webm", "video"),
        ("1/x.MOV", "video"),
        ("2.mkv", "video"),
        ("10.mp4", "video"),
        ("b.zip", "zip"),
        ("walk", "frames"),
    ]


def test_videos_beside_frames_are_entries_of_their_own(tmp_path: Path):
    touch(tmp_path, "film.mp4", "poster.png", "sub/0.png", "sub/film.mp4")
    assert set(find_entries(str(tmp_path)).entries) == {
        (".", "frames"),
        ("film.mp4", "video"),
        ("sub", "frames"),
        ("sub/film.mp4", "video"),
    }


def test_hidden_files_and_folders_are_left_out(tmp_path: Path):
    touch(tmp_path, "a.mp4", ".b.mp4", ".git/c.mp4", "frames/.0.png", ".hidden.zip", ".DS_Store")
    corpus = find_entries(str(tmp_path))
    assert corpus.entries == [("a.mp4", "video")]
    assert corpus.ignored == {}


def test_annotations_are_object_masks_not_videos(tmp_path: Path):
    touch(tmp_path, "JPEGImages/480p/cow/0.jpg", "Annotations/480p/cow/0.png", "Annotations/dog.zip")
    touch(tmp_path, "MyAnnotations/0.png")
    corpus = find_entries(str(tmp_path))
    assert corpus.entries == [("JPEGImages/480p/cow", "frames"), ("MyAnnotations", "frames")]
    assert corpus.object_masks == [("Annotations/480p/cow", "frames"), ("Annotations/dog.zip", "zip")]


def test_annotations_of_several_kinds_are_object_masks(tmp_path: Path):
    touch(tmp_path, "JPEGImages_24fps/a/0.jpg", "Annotations_6fps/a/0.png", "Annotations_unsupervised/b/0.png")
    corpus = find_entries(str(tmp_path))
    assert corpus.entries == [("JPEGImages_24fps/a", "frames")]
    assert [entry.path for entry in corpus.object_masks] == ["Annotations_6fps/a", "Annotations_unsupervised/b"]


# Zips of several videos


def write_zip(path: Path, members: dict[str, Picture]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, picture in members.items():
            archive.writestr(name, image_bytes("RGB", "png", picture))
    return path


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """A zip as DAVIS comes, beside the same unpacked."""
    members: dict[str, Picture] = {}
    for seed, name in enumerate(("bear", "cow")):
        for number, picture in enumerate(make_pictures(11, seed=seed)):
            members[f"DAVIS/JPEGImages/480p/{name}/{number}.png"] = picture
            members[f"DAVIS/Annotations/480p/{name}/{number}.png"] = picture * 0
    write_zip(tmp_path / "zipped/DAVIS.zip", members)
    with zipfile.ZipFile(tmp_path / "zipped/DAVIS.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    return tmp_path


def test_a_zip_of_several_videos_is_like_its_folders(data_set: Path):
    zipped, unpacked = (find_entries(str(data_set / name)) for name in ("zipped", "unpacked"))
    assert [entry.path for entry in zipped.entries] == [f"DAVIS.zip/DAVIS/JPEGImages/480p/{n}" for n in ("bear", "cow")]
    assert [e.path for e in zipped.object_masks] == [f"DAVIS.zip/DAVIS/Annotations/480p/{n}" for n in ("bear", "cow")]
    for entry, other in zip(zipped.entries, unpacked.entries, strict=True):
        assert entry.path == f"DAVIS.zip/{other.path}"
        source = index_source(str(data_set / "zipped"), entry, frames_fps=FPS)
        same = index_source(str(data_set / "unpacked"), other, frames_fps=FPS)
        assert (source.sha256, source.num_frames, source.file) == (same.sha256, 11, "DAVIS.zip")
        shown = {"start": 3, "stop": 11, "width": 48, "height": 32, "fit": "crop"}
        pictures = list(read_pictures(str(data_set / "zipped"), source, **shown))
        assert np.array_equal(pictures, list(read_pictures(str(data_set / "unpacked"), same, **shown)))


def test_object_masks_of_a_zip_with_several_videos(data_set: Path):
    root = str(data_set / "zipped")
    for entry in find_entries(root).object_masks:
        path, names = entry_images(root, entry, CorpusError)
        assert path == f"{root}/DAVIS.zip"
        assert names == [f"{entry.path.removeprefix('DAVIS.zip/')}/{number}.png" for number in range(11)]


def test_zips_of_masks_alone_and_below_annotations(tmp_path: Path):
    picture = make_pictures(1)[0]
    write_zip(tmp_path / "masks.zip", {"Annotations/0.png": picture})
    write_zip(tmp_path / "Annotations/all.zip", {"a/0.png": picture, "b/0.png": picture})
    write_zip(tmp_path / "Annotations.zip", {"c/0.png": picture, "d/0.png": picture})
    write_zip(tmp_path / "one.zip", {"e/0.png": picture, "__MACOSX/e/0.png": picture, ".cache/0.png": picture})
    write_zip(tmp_path / "mixed.zip", {"cover.png": picture, "f/0.png": picture, "f/1.png": picture})
    corpus = find_entries(str(tmp_path))
    assert {entry.path for entry in corpus.entries} == {"one.zip", "mixed.zip", "mixed.zip/f"}
    assert {entry.path for entry in corpus.object_masks} == {
        "masks.zip/Annotations",
        "Annotations/all.zip/a",
        "Annotations/all.zip/b",
        "Annotations.zip/c",
        "Annotations.zip/d",
    }
    found = {entry.path: entry_images(str(tmp_path), entry, CorpusError)[1] for entry in corpus.entries}
    assert found == {"one.zip": ["e/0.png"], "mixed.zip": ["cover.png"], "mixed.zip/f": ["f/0.png", "f/1.png"]}


def test_a_zip_that_was_replaced_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "KEPT_ZIP_BYTES", 0)
    pictures = make_pictures(3)
    path = write_zip(tmp_path / "a.zip", {"a/0.png": pictures[0], "b/0.png": pictures[1]})
    assert len(find_entries(str(tmp_path)).entries) == 2
    path.unlink()
    write_zip(path, {"a/0.png": pictures[0], "b/0.png": pictures[1], "c/0.png": pictures[2]})
    assert [entry.path for entry in find_entries(str(tmp_path)).entries] == ["a.zip/a", "a.zip/b", "a.zip/c"]


def test_a_root_below_a_folder_named_annotations_is_a_corpus(tmp_path: Path):
    touch(tmp_path, "Annotations/a.mp4")
    assert find_entries(str(tmp_path / "Annotations")).entries == [("a.mp4", "video")]


def test_other_files_are_counted_by_suffix(tmp_path: Path):
    touch(tmp_path, "a.mp4", "a.srt", "b.SRT", "sub/c.txt", "LICENSE")
    assert find_entries(str(tmp_path)).ignored == {".srt": 2, ".txt": 1, "LICENSE": 1}


@pytest.mark.parametrize("name", ["²", "3²4", "٣", "①"])
def test_digits_of_other_kinds_in_names(tmp_path: Path, name: str):
    touch(tmp_path, f"{name}/0.png", "1/0.png")
    assert set(find_entries(str(tmp_path)).entries) == {(name, "frames"), ("1", "frames")}


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    root = tmp_path / "videos"
    touch(tmp_path, "elsewhere/a.mp4", "videos/deep/b.mp4")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "deep" / "loop").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    assert find_entries(str(root)).entries == [("deep/b.mp4", "video"), ("link/a.mp4", "video")]


def test_folders_that_hold_each_other_by_links(tmp_path: Path):
    touch(tmp_path, "a/a.mp4", "b/b.mp4")
    for one, other in ("ab", "ba"):
        for number in range(2):
            (tmp_path / one / f"{other}{number}").symlink_to(tmp_path / other)
    entries = find_entries(str(tmp_path)).entries
    assert [entry.path for entry in entries] == [
        *("a/a.mp4", "a/b0/b.mp4", "a/b1/b.mp4", "b/a0/a.mp4", "b/a1/a.mp4", "b/b.mp4")
    ]


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its videos would be missing from the corpus, and checkpoints from a run."""
    touch(tmp_path, "a.mp4", "locked/b.mp4")
    scandir = os.scandir

    def refuse(path: str) -> Any:  # permissions do not bind root, who may run the tests
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"locked: cannot be read \(Permission denied\)"):
        find_entries(str(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are not UTF-8")
def test_names_that_are_not_utf8_can_be_told(tmp_path: Path):
    (tmp_path / "plain").mkdir()
    for name in (b"\xff.mp4", b"plain/\xfe.zip"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"")
    paths = [entry.path for entry in find_entries(str(tmp_path)).entries]
    assert sorted(paths) == ["plain/\ufffd.zip", "\ufffd.mp4"]


def test_missing_root(tmp_path: Path):
    with pytest.raises(CorpusError, match=r"none: no such folder; corpus\.root is the folder"):
        find_entries(str(tmp_path / "none"))


def test_a_root_that_is_a_file(tmp_path: Path):
    touch(tmp_path, "a.mp4")
    with pytest.raises(CorpusError, match=r"a\.mp4: no such folder"):
        find_entries(str(tmp_path / "a.mp4"))


def test_a_root_without_videos_says_what_it_holds(tmp_path: Path):
    with pytest.raises(CorpusError, match="holds no video file, folder of images or zip of images; other files: none"):
        find_entries(str(tmp_path))
    touch(tmp_path, "a.txt", "Annotations/0.png")
    with pytest.raises(CorpusError, match=r"other files: \{'\.txt': 1\}"):
        find_entries(str(tmp_path))


# What a video holds


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "a.mp4", num_frames=30, rate=30)


def test_a_video_file(video: Path):
    source = index(video)
    assert (source.path, source.kind, source.num_frames) == ("a.mp4", "video", 30)
    assert (source.width, source.height, source.rate) == (WIDTH, HEIGHT, 30)
    assert [pts * source.time_base for pts in source.pts] == frame_times(video)
    assert source.sha256 == file_sha256(video)


def test_a_turned_video_has_the_size_that_is_shown(tmp_path: Path):
    source = index(make_video(tmp_path / "a.mp4", num_frames=3, rotation=90))
    assert (source.width, source.height) == (HEIGHT, WIDTH)


def test_an_interlaced_video_is_deinterlaced(tmp_path: Path):
    source = index(make_video(tmp_path / "tv.mp4", num_frames=12, options={"x264-params": "interlaced=1"}))
    assert source.num_frames == 12
    pictures = read_pictures(str(tmp_path), source, 0, 12, width=48, height=32, fit="crop")
    assert len(list(pictures)) == 12


@pytest.mark.parametrize("kind", ["frames", "zip"])
def test_images(tmp_path: Path, kind: Kind):
    folder = make_images(tmp_path / "walk", make_pictures(12))
    path = folder if kind == "frames" else zip_folder(folder, tmp_path / "walk.zip")
    source = index_source(str(tmp_path), Entry(path.name, kind), frames_fps=Fraction("23.976"))
    assert (source.path, source.kind, source.num_frames) == (path.name, kind, 12)
    assert (source.width, source.height, source.rate) == (WIDTH, HEIGHT, Fraction(2997, 125))
    assert (source.pts, source.time_base) == (tuple(range(12)), Fraction(125, 2997))
    assert [Path(name).name for name in source.files] == [f"{number}.png" for number in range(12)]


def test_content_not_place_identifies_a_video(tmp_path: Path):
    pictures = make_pictures(11)
    folder = make_images(tmp_path / "walk", pictures)
    archive = zip_folder(folder, tmp_path / "other.zip")
    same = [
        index(folder, "frames"),
        index(archive, "zip"),
        index(make_images(tmp_path / "b" / "c", pictures), "frames"),
    ]
    assert len({source.sha256 for source in same}) == 1
    others = [
        make_images(tmp_path / "shorter", pictures[:-1]),
        make_images(tmp_path / "reordered", [pictures[1], pictures[0], *pictures[2:]]),
        make_images(tmp_path / "changed", [*pictures[:-1], pictures[0]]),
    ]
    assert len({source.sha256 for source in same} | {index(other, "frames").sha256 for other in others}) == 4


def test_sources_survive_json(tmp_path: Path, video: Path):
    folder = make_images(tmp_path / "walk", make_pictures(2))
    archive = zip_folder(folder, tmp_path / "walk.zip")
    turned = make_video(tmp_path / "t.mp4", num_frames=3, rotation=90)
    for source in (index(video), index(turned), index(folder, "frames"), index(archive, "zip")):
        again = Source.from_dict(json.loads(json.dumps(source.as_dict())))
        assert again == source
        assert hash(again) == hash(source)  # no list where there was a tuple


# Pictures of a video


@pytest.mark.parametrize("start", [0, 7])
def test_pictures_are_those_that_were_coded(tmp_path: Path, start: int):
    path = make_video(tmp_path / "a.mkv", num_frames=12, codec="ffv1", pix_fmt="yuv444p")
    expected = make_pictures(12)
    pictures = read(path, start, 12)
    assert len(pictures) == 12 - start
    for picture, other in zip(pictures, expected[start:], strict=True):
        # A code value of luma is 1.16 of RGB, one of chroma up to 2.0.
        assert np.abs(picture.astype(int) - other).max() <= 4


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_pictures_at_the_videos_own_size_are_those_of_a_plain_decode(tmp_path: Path, codec: str):
    path = make_video(tmp_path / "a.mkv", num_frames=8, codec=codec)
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    pictures = read(path, 0, 8)
    assert mean_error(pictures, expected) < 1
    assert mean_error(pictures[1:], expected[:-1]) > 10


def test_the_range_does_not_change_a_picture(video: Path):
    everything = read(video, 0, 30, width=60, height=30)
    assert all(
        np.array_equal(a, b) for a, b in zip(read(video, 13, 30, width=60, height=30), everything[13:], strict=True)
    )


def slopes_video(path: Path, **how: Any) -> Path:
    slopes = make_slopes() / 255
    how = {"codec": "ffv1"} | how
    return make_video(path, num_frames=1, pix_fmt="yuv444p", picture=lambda _: slopes, **how)


def slopes_images(path: Path) -> Path:
    return make_images(path.with_suffix(""), [make_slopes()])


@pytest.fixture(params=["video", "frames"])
def slopes(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Picture]:
    make = slopes_video if request.param == "video" else slopes_images
    path = make(tmp_path / "slopes.mkv")
    return lambda **how: read(path, 0, 1, kind=request.param, **how)[0]


def assert_slopes(picture: Picture, columns: NDArray[np.floating], rows: NDArray[np.floating]) -> None:
    """Whether pixels came from these columns and rows of the slopes, rims excluded."""
    inner = slice(2, -2)
    assert np.abs(picture[inner, inner, 0] - 2 * columns[None, inner]).max() < 4
    assert np.abs(picture[inner, inner, 1] - 3 * rows[inner, None]).max() < 4
    assert np.abs(picture[inner, inner, 2].astype(int) - 90).max() < 4


def test_crop_keeps_the_middle_and_the_aspect(slopes: Callable[..., Picture]):
    # 96x64 to 72x48, of which columns 12 to 60 are kept.
    picture = slopes(width=48, height=48)
    assert_slopes(picture, (np.arange(48) + 12.5) / 0.75 - 0.5, (np.arange(48) + 0.5) / 0.75 - 0.5)


def test_crop_of_what_is_too_high(slopes: Callable[..., Picture]):
    # 96x64 to 48x32, of which rows 8 to 24 are kept.
    picture = slopes(width=48, height=16)
    assert_slopes(picture, (np.arange(48) + 0.5) * 2 - 0.5, (np.arange(16) + 8.5) * 2 - 0.5)


def test_stretch_keeps_everything(slopes: Callable[..., Picture]):
    picture = slopes(width=48, height=48, fit="stretch")
    assert_slopes(picture, (np.arange(48) + 0.5) * 2 - 0.5, (np.arange(48) + 0.5) / 0.75 - 0.5)


def test_a_small_video_is_enlarged(slopes: Callable[..., Picture]):
    picture = slopes(width=192, height=128)
    assert_slopes(picture, (np.arange(192) + 0.5) / 2 - 0.5, (np.arange(128) + 0.5) / 2 - 0.5)


@pytest.mark.parametrize("kind", ["video", "frames"])
def test_what_shrinks_is_averaged(tmp_path: Path, kind: Kind):
    # One column in four is white: any filter that looks at fewer pixels than it replaces makes stripes of it.
    comb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    comb[:, ::4] = 255
    if kind == "video":
        path = tmp_path / "a.mkv"
        make_video(path, num_frames=1, codec="ffv1", pix_fmt="yuv444p", picture=lambda _: comb / 255)
    else:
        path = make_images(tmp_path / "a", [comb])
    picture = read(path, 0, 1, kind=kind, width=WIDTH // 4, height=HEIGHT // 4)[0]
    assert np.abs(picture[2:-2, 2:-2] - 255 / 4).max() < 4


@pytest.mark.parametrize(
    ("rotation", "rows", "columns"),
    [
        (0, slice(0, 16), slice(0, 24)),
        (90, slice(72, 96), slice(0, 16)),  # counterclockwise: to the lower left
        (180, slice(48, 64), slice(72, 96)),
        (270, slice(0, 24), slice(48, 64)),
    ],
)
def test_turned_videos_are_read_as_displayed(tmp_path: Path, rotation: int, rows: slice, columns: slice):
    path = make_video(tmp_path / "a.mp4", num_frames=2, rotation=rotation)
    width, height = (HEIGHT, WIDTH) if rotation % 180 else (WIDTH, HEIGHT)
    for scale in (1, 2):
        picture = read(path, 0, 1, width=width // scale, height=height // scale)[0]
        inside = np.zeros((height, width), bool)
        inside[rows, columns] = True
        inside = inside[::scale, ::scale]
        assert picture[inside].mean() > 245
        assert picture[~inside].mean() < 190


def test_crop_of_a_turned_video(tmp_path: Path):
    # As displayed 64x96 and clockwise by 90 degrees: the coded rows run from right to left. Rows 16 to 80 are kept.
    path = slopes_video(tmp_path / "a.mp4", rotation=270, codec="libx264", options={"crf": "0"})
    picture = read(path, 0, 1, width=64, height=64)[0]
    assert np.abs(picture[2:-2, 2:-2, 0] - 2.0 * np.arange(18, 78)[:, None]).max() < 4
    assert np.abs(picture[2:-2, 2:-2, 1] - 3.0 * np.arange(61, 1, -1)[None]).max() < 4


BLOCKS = np.array([[0.8, 0.2, 0.2], [0.2, 0.7, 0.3], [0.2, 0.3, 0.9], [0.5, 0.5, 0.5]])
MATRICES = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def decoded_by_hand(path: Path, column: int, *, is_full_range: bool, matrix: int) -> NDArray[np.floating]:
    """The RGB of a column's middle, from its three code values by H.273's equations."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    bits = frame.format.components[0].bits
    values = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16).reshape(plane.height, -1)
        values.append(float(rows[plane.height // 2, column * plane.width // WIDTH]) / 2 ** (bits - 8))
    y, u, v = values
    if is_full_range:
        y, u, v = y / 255, (u - 128) / 255, (v - 128) / 255
    else:
        y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    kr, kb = MATRICES[matrix]
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip([red, green, blue], 0, 1) * 255


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "yuv444p", "yuv422p10le"])
@pytest.mark.parametrize(
    ("color_range", "matrix"),
    [(1, 1), (2, 1), (1, 2), (0, 2), (2, 6), (1, 9)],
    ids=["bt709", "full bt709", "no matrix", "no tags", "full bt601", "bt2020"],
)
def test_colors_follow_the_tags(tmp_path: Path, pix_fmt: str, color_range: int, matrix: int):
    picture = np.repeat(BLOCKS, WIDTH // 4, 0)[None].repeat(HEIGHT, 0)
    tags = (color_range, matrix, 2, 2)
    path = make_video(
        tmp_path / "a.mkv", num_frames=1, codec="ffv1", pix_fmt=pix_fmt, color=tags, picture=lambda _: picture
    )
    read_back = read(path, 0, 1)[0]
    for block in range(4):
        column = WIDTH // 8 + block * WIDTH // 4
        expected = decoded_by_hand(path, column, is_full_range=color_range == 2, matrix=matrix)
        assert np.abs(read_back[HEIGHT // 2, column] - expected).max() < 2.5


def test_other_tags_give_other_colors(tmp_path: Path):
    """The test above would see it if tags were not looked at."""
    colors = {
        tags: read(make_video(tmp_path / f"{n}.mkv", num_frames=1, codec="ffv1", color=(*tags, 2, 2)), 0, 1)[0]
        for n, tags in enumerate([(1, 6), (1, 1), (2, 6)])
    }
    assert mean_error([colors[1, 6]], [colors[1, 1]]) > 2
    assert mean_error([colors[1, 6]], [colors[2, 6]]) > 2


def test_a_picture_that_is_not_there(video: Path, tmp_path: Path):
    path = tmp_path / "a.mp4"
    path.write_bytes(video.read_bytes())
    source = index(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(VideoError, match=r"a\.mp4"):
        list(read_pictures(str(tmp_path), source, 0, 30, width=WIDTH, height=HEIGHT, fit="crop"))


# Pictures of images


@pytest.mark.parametrize("kind", ["frames", "zip"])
def test_images_at_their_own_size_are_exact(tmp_path: Path, kind: Kind):
    pictures = make_pictures(12)
    folder = make_images(tmp_path / "walk", pictures)
    path = folder if kind == "frames" else zip_folder(folder, tmp_path / "walk.zip")
    assert np.array_equal(read(path, 1, 12, kind=kind), pictures[1:])


def image_bytes(mode: str, suffix: str, picture: Picture) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(picture)
    if mode == "I;16":
        # 257 times a value of 8 bits is the same gray of 16.
        image = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.frombytes("P", image.size, (255 - picture[..., 0]).tobytes())
        image.putpalette(np.arange(255, -1, -1).repeat(3).tolist())
    else:
        image = image.convert(mode)
    image.save(file, suffix)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("I;16", "png"), ("I;16", "tiff"), ("RGBA", "png"), ("CMYK", "tiff"), ("RGB", "bmp"), ("P", "png")],
)
def test_images_of_every_mode(tmp_path: Path, mode: str, suffix: str):
    gray = np.repeat((np.mgrid[:HEIGHT, :WIDTH].sum(0) + 20).astype(np.uint8)[..., None], 3, 2)
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk" / f"0.{suffix}").write_bytes(image_bytes(mode, suffix, gray))
    (picture,) = read(tmp_path / "walk", 0, 1, kind="frames")
    assert np.array_equal(picture, gray)


@pytest.mark.parametrize("kind", ["frames", "zip"])
def test_a_damaged_image_fails_when_it_is_read_and_names_itself(tmp_path: Path, kind: Kind):
    pictures = make_pictures(8)
    folder = make_images(tmp_path / "walk", pictures)
    data = (folder / "5.png").read_bytes()
    (folder / "5.png").write_bytes(data[: len(data) // 2])
    path = folder if kind == "frames" else zip_folder(folder, tmp_path / "walk.zip")
    assert index(path, kind).num_frames == 8  # its header is whole
    assert np.array_equal(read(path, 0, 5, kind=kind), pictures[:5])
    with pytest.raises(CorpusError, match=r"5\.png: the image is damaged"):
        read(path, 4, 8, kind=kind)


def test_images_of_several_sizes(tmp_path: Path):
    folder = make_images(tmp_path / "walk", [*make_pictures(2), make_pictures(1, width=64)[0]])
    with pytest.raises(CorpusError, match=r"2\.png: is 64x64, the frames before it 96x64"):
        index(folder, "frames")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 60_000])
def test_an_image_that_claims_to_be_huge(tmp_path: Path, side: int):
    folder = make_images(tmp_path / "walk", make_pictures(1))
    (folder / "1.png").write_bytes(png_that_claims(side, side))
    with pytest.raises(CorpusError, match=r"1\.png: .*(pixels|decompression bomb)"):
        index(folder, "frames")


def test_files_that_are_no_images(tmp_path: Path):
    touch(tmp_path, "walk/0.png")
    (tmp_path / "walk" / "1.png").write_text("hello")
    with pytest.raises(CorpusError, match=r"0\.png: cannot be read as an image"):
        index(tmp_path / "walk", "frames")


def test_a_header_that_ends_early(tmp_path: Path):
    # Its length says 1: Pillow raises a ValueError.
    data = bytearray(png_that_claims(8, 8))
    data[8:12] = (1).to_bytes(4, "big")
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk" / "0.png").write_bytes(data)
    with pytest.raises(CorpusError, match=r"0\.png: cannot be read as an image"):
        index(tmp_path / "walk", "frames")


def test_a_zip_without_images(tmp_path: Path):
    touch(tmp_path, "walk/notes.txt")
    with pytest.raises(CorpusError, match=r"walk\.zip: holds no images"):
        index(zip_folder(tmp_path / "walk", tmp_path / "walk.zip"), "zip")


def test_a_file_that_is_no_zip(tmp_path: Path):
    (tmp_path / "a.zip").write_bytes(b"no" * 100)
    with pytest.raises(CorpusError, match=r"a\.zip: is not a zip file"):
        index(tmp_path / "a.zip", "zip")


def test_a_pipe_is_no_zip(tmp_path: Path):
    os.mkfifo(tmp_path / "a.zip")
    (entry,) = find_entries(str(tmp_path)).entries
    with pytest.raises(CorpusError, match=r"a\.zip: is not a zip file"):
        index_source(str(tmp_path), entry, frames_fps=FPS)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_any_damage_to_a_zip_is_an_error_of_ours(tmp_path: Path, method: int):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("0.png", image_bytes("L", "png", make_pictures(1, width=8, height=8)[0]))
    data = path.read_bytes()
    num_refused = 0
    for position in range(len(data)):
        for value in (0, data[position] ^ 1):
            path.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            try:
                read(path, 0, 1, kind="zip", width=8, height=8)
            except CorpusError:
                num_refused += 1
    assert num_refused > len(data) / 2


def test_an_image_that_was_replaced_while_the_job_runs(tmp_path: Path):
    folder = make_images(tmp_path / "walk", make_pictures(2))
    source = index(folder, "frames")
    Image.fromarray(make_pictures(1, width=64)[0]).save(folder / "1.png")
    with pytest.raises(CorpusError, match=r"1\.png: was replaced while the job ran"):
        list(read_pictures(str(tmp_path), source, 0, 2, width=48, height=32, fit="crop"))


# Sizes


@pytest.mark.parametrize(
    ("size", "target", "fit", "expected"),
    [
        ((1920, 1080), (432, 240), "crop", (432, 243)),  # 0.225 wide, 0.2222 high: the larger
        ((854, 480), (432, 240), "crop", (432, 243)),  # 0.50585: 242.8
        ((640, 480), (432, 240), "crop", (432, 324)),
        ((1080, 1920), (432, 240), "crop", (432, 768)),
        ((2560, 1080), (432, 240), "crop", (569, 240)),  # 568.9
        ((432, 240), (432, 240), "crop", (432, 240)),
        ((96, 64), (192, 128), "crop", (192, 128)),
        ((1, 1000), (432, 240), "crop", (432, 432000)),
        ((640, 480), (432, 240), "stretch", (432, 240)),
        ((7, 5000), (432, 240), "stretch", (432, 240)),
    ],
)
def test_scaled_size(size: tuple[int, int], target: tuple[int, int], fit: Fit, expected: tuple[int, int]):
    assert scaled_size(*size, *target, fit) == expected


def test_what_is_scaled_covers_the_target():
    rng = np.random.default_rng(0)
    for width, height, target_width, target_height in rng.integers(1, 3000, (500, 4)).tolist():
        scaled = scaled_size(width, height, target_width, target_height, "crop")
        assert scaled[0] >= target_width
        assert scaled[1] >= target_height
        assert target_width == scaled[0] or target_height == scaled[1]
