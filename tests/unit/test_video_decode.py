import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sttn_ray.errors import VideoError
from sttn_ray.video import source
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video
from tests.media import frame_hash, frame_hashes, make_damaged_copy, make_video

UNEVEN_PTS = (1000 + np.random.default_rng(1).integers(1, 900, 40).cumsum()).tolist()
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "closed groups": ("a.mp4", {}),
    "open groups, H.264, mp4": ("a.mp4", {"open_gop": True}),
    "open groups, H.264, mkv": ("a.mkv", {"open_gop": True}),
    "open groups, HEVC, mp4": ("a.mp4", {"open_gop": True, "codec": "libx265"}),
    "open groups, HEVC, mkv": ("a.mkv", {"open_gop": True, "codec": "libx265"}),
    "MPEG-TS": ("a.ts", {"audio": True}),
    "MPEG-TS, open groups": ("a.ts", {"open_gop": True}),
    "uneven times": ("a.mp4", {"pts": UNEVEN_PTS}),
    "groups shorter than the reordering": ("a.mp4", {"gop": 2}),
    "no keyframe but the first": ("a.mp4", {"gop": 250}),
    "intra refresh": ("a.mkv", {"options": {"x264-params": "intra-refresh=1:keyint=12"}}),
    "VP9": ("a.webm", {"codec": "libvpx-vp9"}),
}
LOSES_FRAMES = ["open groups, H.264, mp4", "open groups, HEVC, mp4", "MPEG-TS", "MPEG-TS, open groups"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "a.mp4", num_frames=60)


def hashes(index: VideoIndex, start: int, stop: int, threads: int = 1) -> list[str]:
    return [frame_hash(frame) for frame in decode_range(index, start, stop, threads=threads)]


def plain_seek(index: VideoIndex, number: int) -> str | None:
    """The first frame at or after a frame's time after a seek to that time: what is not good enough."""
    with av.open(index.path) as container:
        stream = container.streams.video[0]
        container.seek(index.pts[number], stream=stream)
        for frame in container.decode(stream):
            if frame.pts >= index.pts[number]:
                return frame_hash(frame)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_ranges_are_the_frames_of_sequential_decoding(tmp_path: Path, kind: str):
    name, how = KINDS[kind]
    path = make_video(tmp_path / name, num_frames=40, **how)
    everything = frame_hashes(path)
    assert len(set(everything)) == 40
    index = index_video(str(path))
    ranges = [(start, min(start + 4, 40)) for start in range(0, 40, 3)] + [(0, 40), (12, 13), (39, 40)]
    wrong = [(a, b) for a, b in ranges if hashes(index, a, b) != everything[a:b]]
    assert wrong == []


@pytest.mark.parametrize("kind", LOSES_FRAMES)
def test_plain_seeking_would_lose_frames(tmp_path: Path, kind: str):
    name, how = KINDS[kind]
    path = make_video(tmp_path / name, num_frames=40, **how)
    everything = frame_hashes(path)
    index = index_video(str(path))
    assert any(plain_seek(index, number) != everything[number] for number in range(40))


def test_threads_do_not_change_frames(video: Path):
    index = index_video(str(video))
    assert hashes(index, 7, 41, threads=2) == frame_hashes(video)[7:41]


def test_frames_carry_the_index_times(video: Path):
    index = index_video(str(video))
    assert [frame.pts for frame in decode_range(index, 20, 30)] == list(index.pts[20:30])


def test_empty_range(video: Path):
    index = index_video(str(video))
    assert list(decode_range(index, 5, 5)) == []
    assert list(decode_range(index, 60, 70)) == []


def test_damage_stops_the_range_that_holds_it_and_no_other(video: Path, tmp_path: Path):
    path = make_damaged_copy(video, tmp_path / "damaged.mp4", start=0.5, stop=0.53)
    index = index_video(str(path))
    everything = frame_hashes(video)
    assert hashes(index, 0, 20) == everything[:20]
    assert hashes(index, 50, 60) == everything[50:]
    with pytest.raises(VideoError, match=r"damaged\.mp4: damaged: "):
        hashes(index, 20, 50)


def test_frames_that_the_decoder_patches_up_are_damage(tmp_path: Path):
    # Matroska finds the next packet by itself, so that decoding goes on with what is left.
    whole = make_video(tmp_path / "a.mkv", num_frames=60)
    path = make_damaged_copy(whole, tmp_path / "damaged.mkv", start=0.5, stop=0.53)
    index = index_video(str(path))
    assert hashes(index, 0, 20) == frame_hashes(whole)[:20]
    with pytest.raises(VideoError, match=r"damaged\.mkv: damaged: frame \d+ decodes with errors"):
        hashes(index, 20, 40)


def test_a_file_that_ends_early(tmp_path: Path):
    path = make_video(tmp_path / "a.mkv", num_frames=40, options={"bf": "0", "x264-params": "keyint=12"})
    index = index_video(str(path))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"frame \d+ of 40 cannot be decoded: expected pts .*the end of the stream"):
        hashes(index, 0, 40)


def test_a_frame_at_another_time_than_indexed(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", num_frames=20, time_base=Fraction(1, 1000))
    index = index_video(str(path))
    pts = [n * 40 for n in range(20)]
    make_video(path, num_frames=20, time_base=Fraction(1, 1000), pts=[*pts[:9], pts[9] + 3, *pts[10:]])
    assert len(hashes(index, 0, 9)) == 9
    with pytest.raises(VideoError, match=r"frame 9 of 20 cannot be decoded: expected pts 360.*got pts 363"):
        hashes(index, 0, 20)


def test_a_picture_of_another_size_than_indexed(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", num_frames=5)
    index = index_video(str(path))
    make_video(path, num_frames=5, width=64, height=64)
    with pytest.raises(VideoError, match=r"frame 0 is 64x64 yuv420p, the first one 96x64 yuv420p.*change size"):
        hashes(index, 0, 5)


def test_a_file_that_is_gone(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", num_frames=5)
    index = index_video(str(path))
    path.unlink()
    with pytest.raises(VideoError, match=r"a\.mp4"):
        hashes(index, 0, 5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("when", [1, 5, 12])
def test_an_interrupt_while_a_store_is_read_is_not_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """PyAV prints what is no `Exception` and reads on, without the bytes that were read when it came."""
    video = make_video(tmp_path / "film.ts", num_frames=200, width=256, height=192)
    index = index_video(str(video))

    class Interrupted(io.FileIO):
        num_reads = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.num_reads += 1
            if self.num_reads == when:
                raise KeyboardInterrupt
            return data

    monkeypatch.setattr(source, "is_remote", lambda _: True)
    monkeypatch.setattr(source, "open_binary", lambda path, ahead: Interrupted(path))
    with pytest.raises(KeyboardInterrupt):
        index_video(str(video))
    with pytest.raises(KeyboardInterrupt):
        list(decode_range(index, 0, index.num_frames))
