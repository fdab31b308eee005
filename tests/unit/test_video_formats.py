"""Pixel formats that are planar YUV or RGB in another order, transparency, and what no film here can hold."""

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import plan_video
from sttn_ray.corpus import Entry, index_source, read_pictures
from sttn_ray.errors import VideoError
from sttn_ray.video.color import color_format, frame_planes, planes_to_rgb
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video
from sttn_ray.video.planar import has_alpha, in_format, planar_format
from tests.media import frame_hash, make_frame, make_texture, make_video
from tests.plans import SETTINGS
from tests.remedies import follow
from tests.unit.test_video_encode_assemble import reencode


def planes(frame: av.VideoFrame, dtype: type[np.generic] = np.uint8) -> list[NDArray[np.generic]]:
    """All of a frame's planes as rows of values, with their padding."""
    size = np.dtype(dtype).itemsize
    return [np.frombuffer(p, dtype).reshape(-1, p.line_size // size)[: p.height] for p in frame.planes]


def noise(pix_fmt: str, width: int = 38, height: int = 22) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pix_fmt)
    random = np.random.default_rng(0)
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = random.integers(0, 256, plane.buffer_size, np.uint8)
    return frame


@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_samples_keep_their_values_and_places(color_range: int) -> None:
    def brought(pix_fmt: str) -> tuple[av.VideoFrame, list[NDArray[np.generic]]]:
        frame = noise(pix_fmt)
        frame.color_range = color_range
        done = in_format(frame, planar_format(pix_fmt) or "")
        color = color_format(done.format.name, color_range, 1)
        return frame, frame_planes(done, color)

    frame, (y, u, v) = brought("nv12")
    luma, chroma = planes(frame)
    assert np.array_equal(y, luma[:, :38])
    assert np.array_equal(u, chroma[:, 0:38:2])
    assert np.array_equal(v, chroma[:, 1:38:2])
    frame, (y, u, v) = brought("uyvy422")
    (packed,) = planes(frame)
    for plane, start, step in ((u, 0, 4), (y, 1, 2), (v, 2, 4)):
        assert np.array_equal(plane, packed[:, start : 2 * 38 : step])
    frame, (y, u, v) = brought("p010le")
    luma, chroma = planes(frame, np.uint16)
    assert np.array_equal(y, luma[:, :38] >> 6)
    assert np.array_equal(u, chroma[:, 0:38:2] >> 6)
    frame, (green, blue, red) = brought("bgr0")
    (packed,) = planes(frame)
    for plane, start in ((blue, 0), (green, 1), (red, 2)):
        assert np.array_equal(plane, packed[:, start : 4 * 38 : 4])
    rgb = planes_to_rgb([green, blue, red], color_format("gbrp", color_range, 1))
    assert np.array_equal(np.rint(rgb * 255)[..., 2], blue)


FORMATS = [
    ("a.mov", "rawvideo", "uyvy422", "yuv422p"),
    ("a.avi", "rawvideo", "yuyv422", "yuv422p"),
    ("a.nut", "rawvideo", "nv12", "yuv420p"),
    ("a.nut", "rawvideo", "yuv411p", "yuv411p"),
    ("a.nut", "rawvideo", "yuv410p", "yuv410p"),
    ("a.mkv", "ffv1", "yuv440p", "yuv440p"),
    ("a.mov", "v210", "yuv422p10le", "yuv422p10le"),
    ("a.nut", "rawvideo", "rgb24", "gbrp"),
    ("a.avi", "rawvideo", "bgr24", "gbrp"),
    ("a.mov", "qtrle", "rgb24", "gbrp"),
    ("a.mov", "png", "rgb24", "gbrp"),
    ("a.avi", "huffyuv", "rgb24", "gbrp"),
    ("a.mkv", "ffv1", "bgr0", "gbrp"),
    ("a.avi", "utvideo", "gbrp", "gbrp"),
    ("a.mp4", "libx264rgb", "bgr0", "gbrp"),
    ("a.mkv", "ffv1", "gbrp10le", "gbrp10le"),
    ("a.mov", "png", "rgb48be", "gbrp16le"),
    ("a.mov", "png", "gray16be", "gray16le"),
    ("a.avi", "rawvideo", "rgb555le", "gbrp"),
    ("a.gif", "gif", "rgb8", "gbrp"),
    # They have room for transparency and use none.
    ("a.mov", "qtrle", "argb", "gbrp"),
    ("a.mov", "png", "rgba", "gbrp"),
    ("a.mkv", "ffv1", "yuva420p", "yuv420p"),
    ("a.mov", "prores_ks", "yuva444p10le", "yuv444p12le"),
]


@pytest.mark.parametrize(("name", "encoder", "pix_fmt", "planar"), FORMATS)
@pytest.mark.parametrize("codec", ["x264-lossless", "ffv1", "libx264"])
def test_packed_and_rgb_films_are_done(
    tmp_path: Path, name: str, encoder: str, pix_fmt: str, planar: str, codec: str
) -> None:
    how = {"crf": "0"} if encoder == "libx264rgb" else {}
    base = Fraction(1, 100) if encoder == "gif" else None
    path = make_video(tmp_path / name, num_frames=6, codec=encoder, pix_fmt=pix_fmt, options=how, time_base=base)
    index = index_video(str(path))
    assert index.pix_fmt == planar
    assert VideoIndex.from_dict(index.as_dict()) == index
    plan = plan_video(Item(video=str(path), mask=None, boxes="10,10,20,20", output="a"), replace(SETTINGS, codec=codec))
    if plan.encoder.codec != codec:
        assert plan.notes == (f"encoded as ffv1: {codec} cannot hold 96x64 {planar}",)
    output = reencode(path, tmp_path / "out", codec=plan.encoder.codec, cuts=(0, 3))
    after = index_video(str(output))
    assert planar_format(after.pix_fmt) == planar.replace("yuvj", "yuv")
    if plan.encoder.is_lossless:
        assert hashes(after) == hashes(index)
    if planar.startswith("gbr"):
        assert (after.color[0], after.color[1]) == (2, 0)


def hashes(index: VideoIndex) -> list[str]:
    return [frame_hash(frame) for frame in decode_range(index, 0, index.num_frames)]


def make_transparent(path: Path, codec: str, pix_fmt: str, num_frames: int = 6) -> Path:
    """A film of which the last frame alone is not opaque everywhere."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pix_fmt
        for number in range(num_frames):
            frame = in_format(make_frame(make_texture(96, 64)(number), "rgb24"), "rgba")
            pixels = np.frombuffer(frame.planes[0], np.uint8).reshape(64, -1)
            if number == num_frames - 1:
                pixels[10:20, 3:200:4] = 128
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


TRANSPARENT = [
    ("a.mov", "qtrle", "argb"),
    ("a.mov", "png", "rgba"),
    ("a.mkv", "ffv1", "yuva420p"),
    ("a.mov", "prores_ks", "yuva444p10le"),
]


@pytest.mark.parametrize(("name", "encoder", "pix_fmt"), TRANSPARENT)
def test_transparency_is_refused_by_its_name(tmp_path: Path, name: str, encoder: str, pix_fmt: str) -> None:
    path = make_transparent(tmp_path / name, encoder, pix_fmt)
    with pytest.raises(VideoError, match=r"carries transparency \(alpha\).*encode\.alpha=keep") as raised:
        index_video(str(path))
    if shutil.which("ffmpeg"):
        bare = index_video(str(follow(str(raised.value), path)))
        assert bare.num_frames == 6
        assert not bare.decoded_pix_fmt.endswith("a")


@pytest.mark.parametrize(("name", "encoder", "pix_fmt"), TRANSPARENT)
def test_transparency_is_kept_as_it_is(tmp_path: Path, name: str, encoder: str, pix_fmt: str) -> None:
    path = make_transparent(tmp_path / name, encoder, pix_fmt)
    index = index_video(str(path), alpha="keep")
    assert len(next(decode_range(index, 0, 1)).planes) == 4
    output = reencode(path, tmp_path / "out", codec="ffv1", cuts=(0, 3), alpha="keep")
    assert hashes(index_video(str(output), alpha="keep")) == hashes(index)


@pytest.mark.parametrize(("name", "encoder", "pix_fmt"), TRANSPARENT)
def test_transparency_of_a_training_video_is_left_out(tmp_path: Path, name: str, encoder: str, pix_fmt: str) -> None:
    make_transparent(tmp_path / name, encoder, pix_fmt)
    source = index_source(str(tmp_path), Entry(name, "video"), frames_fps=Fraction(25))
    assert source.num_frames == 6
    assert source.video is not None
    assert not has_alpha(source.video.pix_fmt)
    pictures = list(read_pictures(str(tmp_path), source, 0, 6, width=96, height=64, fit="crop"))
    assert np.abs(pictures[5] / 255 - make_texture(96, 64)(5)).mean() < 0.1


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
def test_transparency_beside_the_pictures(tmp_path: Path, codec: str) -> None:
    options = {"auto-alt-ref": "0"}  # with them libvpx codes no transparency
    path = make_video(tmp_path / "logo.webm", num_frames=3, codec=codec, pix_fmt="yuva420p", options=options)
    for alpha in ("refuse", "keep"):
        with pytest.raises(VideoError, match="transparency") as raised:
            index_video(str(path), alpha=alpha)
    if shutil.which("ffmpeg"):
        assert index_video(str(follow(str(raised.value), path))).pix_fmt == "yuv420p"
        if codec == "libvpx-vp9":
            assert index_video(str(follow(str(raised.value), path, number=1)), alpha="keep").num_frames == 3
    assert index_video(str(path), purpose="corpus").num_frames == 3


def test_what_is_no_picture_of_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nut"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "bayer_bggr8"
        container.mux([packet for _ in range(2) for packet in stream.encode(noise("bayer_bggr8", 96, 64))])
    with pytest.raises(VideoError, match=r"pixel format bayer_bggr8 is none of YUV, RGB or gray") as raised:
        index_video(str(path))
    if shutil.which("ffmpeg"):
        assert index_video(str(follow(str(raised.value), path))).num_frames == 2


def test_the_matrix_that_a_codec_has_by_rule_is_written(tmp_path: Path) -> None:
    """VP8 is BT.601 whatever its size; players would take an untagged 720p for BT.709."""
    path = make_video(tmp_path / "a.webm", num_frames=3, codec="libvpx", width=1280, height=720)
    with av.open(str(path)) as container:
        told = next(container.decode(video=0)).colorspace
    assert told in (5, 6)
    assert index_video(str(path)).color[1] == told
    output = reencode(path, tmp_path / "out", cuts=(0, 2))
    with av.open(str(output)) as container:
        assert container.streams.video[0].codec_context.colorspace == told
        assert next(container.decode(video=0)).colorspace == told
