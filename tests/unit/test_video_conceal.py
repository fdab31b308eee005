import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sttn_ray.errors import StorageError, VideoError
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video
from tests.media import frame_hash, frame_hashes, make_damaged_copy, make_video

CHECKSUMS = {"level": "3", "slicecrc": "1"}
# Name, how the video is made, which share of the file is zeroed, which frames are lost thereby.
DAMAGES: dict[str, tuple[str, dict[str, Any], tuple[float, float], set[int]]] = {
    "packets that do not decode": ("a.mp4", {}, (0.5, 0.53), {*range(29, 33), 35}),
    "one that frames before it refer to": ("a.mp4", {}, (0.48, 0.482), {28}),
    "two keyframes": ("a.mp4", {}, (0.6, 0.75), {*range(36, 49)}),
    "open groups": ("a.mp4", {"open_gop": True}, (0.6, 0.75), {*range(33, 45), 48}),
    "open groups, mkv": ("a.mkv", {"open_gop": True}, (0.5, 0.53), {*range(21, 25)}),
    "a frame that is patched up": ("a.mkv", {}, (0.5, 0.53), {24}),
    "MPEG-TS": ("a.ts", {}, (0.6, 0.75), {*range(33, 39)}),
    "HEVC": ("a.mp4", {"codec": "libx265"}, (0.6, 0.75), {*range(37, 49)}),
    "the first frame": ("a.mp4", {"codec": "mpeg4"}, (0.1, 0.12), {0}),
    "a first frame that does not decode": ("a.mp4", {}, (0.01, 0.06), {*range(12)}),
    "the first two keyframes": ("a.mp4", {}, (0.01, 0.23), {*range(24)}),
    "FFV1": ("a.mkv", {"codec": "ffv1", "gop": 1, "options": CHECKSUMS}, (0.5, 0.51), {30}),
    "FFV1 in groups": ("a.mkv", {"codec": "ffv1", "options": CHECKSUMS}, (0.51, 0.512), {*range(30, 36)}),
    "a first frame of HEVC": ("a.mp4", {"codec": "libx265"}, (0.0013, 0.06), {*range(12)}),
}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "a.mp4", num_frames=60)


def conceal(index: VideoIndex, start: int, stop: int) -> tuple[list[av.VideoFrame], set[int]]:
    concealed: set[int] = set()
    return list(decode_range(index, start, stop, on_damage="conceal", concealed=concealed)), concealed


def samples(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


@pytest.fixture(params=DAMAGES)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[VideoIndex, set[int]]:
    name, how, (start, stop), lost = DAMAGES[request.param]
    whole = make_video(tmp_path / name, num_frames=60, **how)
    path = make_damaged_copy(whole, tmp_path / f"damaged_{name}", start=start, stop=stop)
    return index_video(str(path), on_damage="conceal"), lost


def test_every_frame_comes_at_its_time_and_the_lost_ones_are_told(damaged: tuple[VideoIndex, set[int]]):
    index, lost = damaged
    frames, concealed = conceal(index, 0, index.num_frames)
    assert [frame.pts for frame in frames] == list(index.pts)
    assert {frame.time_base for frame in frames} == {index.time_base}
    assert concealed == lost
    for number in sorted(lost):
        stand_in = next((n for n in range(number, -1, -1) if n not in lost), 1)
        assert frame_hash(frames[number]) == frame_hash(frames[stand_in])


def test_a_picture_does_not_depend_on_the_range(damaged: tuple[VideoIndex, set[int]]):
    index, lost = damaged
    everything = [frame_hash(frame) for frame in conceal(index, 0, index.num_frames)[0]]
    for length in (1, 5, 13):
        for start in range(0, index.num_frames, 3):
            numbers = set(range(start, min(start + length, index.num_frames)))
            if numbers <= lost:
                with pytest.raises(VideoError, match=rf"none of the frames {start} to \d+ can be decoded"):
                    conceal(index, start, start + length)
                continue
            frames, concealed = conceal(index, start, start + length)
            assert [frame_hash(frame) for frame in frames] == everything[start : start + length]
            assert concealed == lost & numbers


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_without_damage_nothing_is_concealed(tmp_path: Path, name: str):
    path = make_video(tmp_path / name, num_frames=40, open_gop=True)
    index, everything = index_video(str(path)), frame_hashes(path)
    for start, stop in ((0, 40), (7, 9), (11, 14), (24, 25), (39, 60)):
        frames, concealed = conceal(index, start, stop)
        assert [frame_hash(frame) for frame in frames] == everything[start:stop]
        assert concealed == set()
    assert conceal(index, 40, 50) == ([], set())


def test_frames_before_and_after_the_damage_are_the_sources(video: Path, tmp_path: Path):
    index = index_video(str(make_damaged_copy(video, tmp_path / "damaged.mp4", start=0.5, stop=0.53)))
    frames, _ = conceal(index, 0, 60)
    hashes, everything = [frame_hash(frame) for frame in frames], frame_hashes(video)
    assert (hashes[:29], hashes[36:]) == (everything[:29], everything[36:])


def test_a_file_that_ends_early_is_filled_up(tmp_path: Path):
    path = make_video(tmp_path / "a.mkv", num_frames=40, options={"bf": "0", "x264-params": "keyint=12"})
    index, everything = index_video(str(path)), frame_hashes(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, concealed = conceal(index, 0, 40)
    first = min(concealed)
    assert concealed == set(range(first, 40))
    # The packet in which the file ends decodes in part, unmarked.
    assert [frame_hash(frame) for frame in frames[: first - 1]] == everything[: first - 1]
    assert len({frame_hash(frame) for frame in frames[first - 1 :]}) == 1


def test_writing_into_a_frame_does_not_change_those_that_stand_in(video: Path, tmp_path: Path):
    index = index_video(str(make_damaged_copy(video, tmp_path / "damaged.mp4", start=0.5, stop=0.53)))
    before = [frame_hash(frame) for frame in conceal(index, 0, 60)[0]]
    hashes = []
    for frame in decode_range(index, 0, 60, on_damage="conceal"):
        hashes.append(frame_hash(frame))
        frame.make_writable()
        samples(frame)[:] = 0
    assert hashes == before


def test_stand_ins_keep_the_color_tags(tmp_path: Path):
    whole = make_video(tmp_path / "a.mp4", num_frames=60, color=(1, 9, 9, 16))
    index = index_video(str(make_damaged_copy(whole, tmp_path / "damaged.mp4", start=0.5, stop=0.53)))
    frames, concealed = conceal(index, 0, 60)
    assert concealed
    assert {(f.color_range, f.colorspace, f.color_primaries, f.color_trc) for f in frames} == {(1, 9, 9, 16)}


def test_another_size_is_no_damage(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", num_frames=5)
    index = index_video(str(path))
    make_video(path, num_frames=5, width=64, height=64)
    with pytest.raises(VideoError, match=r"frame 0 is 64x64 yuv420p, the first one 96x64 yuv420p"):
        conceal(index, 0, 5)


class FailingFile(io.FileIO):
    """A file that cannot be read beyond its first half."""

    name = "a.mkv"

    def read(self, size: int = -1) -> bytes:
        if self.tell() > Path(self.path).stat().st_size // 2:
            raise OSError("the store is gone")
        return super().read(size)

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path


def test_a_store_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = make_video(tmp_path / "a.mkv", num_frames=400)
    index = replace(index_video(str(path)), path="s3://bucket/a.mkv")
    monkeypatch.setattr("sttn_ray.video.source.open_binary", lambda *_, **__: FailingFile(path))
    with pytest.raises(StorageError, match=r"a\.mkv: cannot be read \(the store is gone\)"):
        conceal(index, 0, 400)


def test_pictures_with_a_palette(tmp_path: Path):
    """A palette is a plane without lines, which is copied with the picture."""
    random = np.random.default_rng(0)
    palette = random.integers(0, 256, (256, 4), np.uint8)
    palette[:, 0] = 255  # opaque
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "pal8"
        for _ in range(6):
            picture = random.integers(0, 256, (64, 96), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray((picture, palette), format="pal8")))
        container.mux(stream.encode(None))
    whole = [frame_hash(frame) for frame in decode_range(index_video(str(path)), 0, 6)]
    assert len(set(whole)) == 6
    with av.open(str(path)) as container:
        lost = [(packet.pos, packet.size) for packet in container.demux(video=0)][3]
    data = bytearray(path.read_bytes())
    data[lost[0] : sum(lost)] = b"\xff" * lost[1]
    path.write_bytes(data)
    frames, concealed = conceal(index_video(str(path), on_damage="conceal"), 0, 6)
    assert concealed == {3}
    assert [frame_hash(frame) for frame in frames] == [*whole[:3], whole[2], *whole[4:]]
