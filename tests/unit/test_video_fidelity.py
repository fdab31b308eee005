from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.errors import VideoError
from sttn_ray.video import encode
from sttn_ray.video.decode import decode_range
from sttn_ray.video.encode import EncodedSegment, EncoderSettings, encode_segment
from sttn_ray.video.fidelity import deviation, sample_luma
from sttn_ray.video.frames import copy_frame
from sttn_ray.video.index import VideoIndex, index_video
from tests.media import make_video

Fault = Callable[[list[av.VideoFrame]], list[av.VideoFrame]]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    return index_video(str(make_video(tmp_path_factory.mktemp("film") / "film.mp4", num_frames=30)))


def encoded(
    path: Path,
    index: VideoIndex,
    *,
    crf: int = 16,
    preset: str = "veryfast",
    codec: str = "libx264",
    start: int = 0,
    holes: Iterable[NDArray[np.bool_]] | None = None,
) -> EncodedSegment:
    settings = EncoderSettings.for_video(index, codec=codec, crf=crf, preset=preset, threads=1)
    frames = decode_range(index, start, index.num_frames)
    return encode_segment(path, frames, index.pts[start:], index, settings, holes=holes)


def luma(frame: av.VideoFrame) -> NDArray[Any]:
    dtype = np.dtype(np.uint8 if frame.format.components[0].bits == 8 else np.uint16)
    rows = np.frombuffer(frame.planes[0], dtype).reshape(-1, frame.planes[0].line_size // dtype.itemsize)
    return rows[: frame.height, : frame.width]


def swap(frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
    frames[7], frames[11] = frames[11], frames[7]
    return frames


def shift(frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
    luma(frames[7])[:] = np.roll(luma(frames[7]), 4, 1)
    return frames


def squeeze_range(frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
    unit = 1 << (frames[7].format.components[0].bits - 8)
    luma(frames[7])[:] = np.round(luma(frames[7]) * (219 / 255) + 16 * unit)
    return frames


def paint(frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
    luma(frames[7])[8:40, 16:80] = 255 - luma(frames[7])[8:40, 16:80]
    return frames


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """Have the encoder given other frames than those that were handed over."""

    def set_fault(fault: Fault) -> None:
        write = encode._write

        def faulty(path: Path, frames: Iterator[av.VideoFrame], *rest: Any) -> None:
            write(path, iter(fault([copy_frame(frame) for frame in frames])), *rest)

        monkeypatch.setattr(encode, "_write", faulty)

    return set_fault


@pytest.mark.parametrize("crf", [0, 1, 10, 16, 30, 51])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuvj420p", "yuv420p10le", "gray"])
def test_what_an_encoder_does_passes(tmp_path: Path, pix_fmt: str, crf: int):
    codec = "mjpeg" if pix_fmt == "yuvj420p" else "ffv1"
    index = index_video(str(make_video(tmp_path / "a.mkv", num_frames=12, codec=codec, pix_fmt=pix_fmt)))
    psnr = encoded(tmp_path / "out.mp4", index, crf=crf).min_psnr
    assert psnr is not None
    assert 45 - crf < psnr <= 100


@pytest.mark.parametrize("preset", ["ultrafast", "slow"])
@pytest.mark.parametrize("crf", [1, 16, 32, 51])
def test_the_worst_that_an_encoder_can_be_given_passes(tmp_path: Path, crf: int, preset: str):
    def noise(number: int) -> NDArray[np.floating]:
        return (np.random.default_rng(number).random((64, 96, 1)) > 0.5).repeat(3, 2).astype(float)

    index = index_video(str(make_video(tmp_path / "a.mkv", num_frames=24, codec="ffv1", picture=noise)))
    assert encoded(tmp_path / "out.mp4", index, crf=crf, preset=preset).min_psnr is not None


@pytest.mark.parametrize("codec", ["x264-lossless", "ffv1"])
def test_lossless_codecs_need_no_measure(tmp_path: Path, film: VideoIndex, codec: str):
    assert encoded(tmp_path / "out.mp4", film, codec=codec).min_psnr is None


def test_equal_frames_have_100_db(tmp_path: Path, film: VideoIndex):
    assert encoded(tmp_path / "out.mp4", film, crf=0).min_psnr == 100


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("fault", [swap, shift, squeeze_range, paint])
def test_another_frame_is_found(tmp_path: Path, inject: Callable[[Fault], None], fault: Fault, pix_fmt: str):
    index = index_video(str(make_video(tmp_path / "a.mkv", num_frames=20, codec="ffv1", pix_fmt=pix_fmt)))
    inject(fault)
    message = r"a\.mkv: frame 7 is not kept by the encoded segment: outside the hole it has \d+\.\d dB"
    with pytest.raises(VideoError, match=message):
        encoded(tmp_path / "out.mp4", index, crf=10)


def test_a_frame_is_named_by_its_number_in_the_video(tmp_path: Path, film: VideoIndex, inject: Callable[[Fault], None]):
    inject(swap)
    with pytest.raises(VideoError, match="frame 17 is not kept"):
        encoded(tmp_path / "out.mp4", film, start=10)


def test_what_lies_in_the_hole_does_not_count(tmp_path: Path, film: VideoIndex, inject: Callable[[Fault], None]):
    hole = np.zeros((64, 96), np.bool_)
    hole[8:40, 16:80] = True
    inject(paint)
    inside = encoded(tmp_path / "out.mp4", film, holes=iter([hole] * 30)).min_psnr
    assert inside is not None
    assert inside > 30
    with pytest.raises(VideoError, match="frame 7 is not kept"):
        encoded(tmp_path / "out.mp4", film, holes=iter([~hole] * 30))


def test_where_all_is_hole_nothing_is_found(tmp_path: Path, film: VideoIndex):
    assert encoded(tmp_path / "out.mp4", film, holes=iter([np.ones((64, 96), np.bool_)] * 30)).min_psnr == 100


def test_one_hole_for_each_frame(tmp_path: Path, film: VideoIndex):
    with pytest.raises(ValueError, match="shorter"):
        encoded(tmp_path / "out.mp4", film, holes=iter([np.zeros((64, 96), np.bool_)] * 29))


@pytest.mark.parametrize(("bits", "unit"), [(8, 1), (10, 4)])
def test_decibels_are_of_the_bit_depth(bits: int, unit: int):
    given = np.full((8, 8), 100 * unit, np.uint16)
    found = given.copy()
    found[::2] += 2 * unit
    psnr, _ = deviation(given, found, np.ones((8, 8), np.bool_), bits=bits, crf=16)
    assert psnr == pytest.approx(20 * np.log10(((1 << bits) - 1) / (unit * 2**0.5)))


def test_samples_are_every_eighth(film: VideoIndex):
    (frame,) = decode_range(film, 3, 4)
    assert sample_luma(frame).tolist() == luma(frame)[::8, ::8].tolist()
