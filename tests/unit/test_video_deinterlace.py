from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sttn_ray.errors import VideoError
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video
from tests.media import Picture, frame_hash, frame_hashes, make_damaged_copy, make_texture, make_video

INTERLACED = {"x264-params": "interlaced=1:keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mp4": ("tv.mp4", {}),
    "MPEG-TS": ("tv.ts", {}),
    "10 bits": ("tv.mkv", {"pix_fmt": "yuv420p10le"}),
    "full range": ("tv.mp4", {"pix_fmt": "yuvj420p", "color": (2, 5, 9, 16)}),
}


def make_fields(width: int = 96, height: int = 64) -> Picture:
    """Upper fields of even, lower ones of odd moments of a texture that moves 3 pixels from each to the next."""
    texture = make_texture(width, height)

    def picture(number: int) -> np.ndarray:
        frame = texture(2 * number)
        frame[1::2] = texture(2 * number + 1)[1::2]
        return frame

    return picture


def make_interlaced(path: Path, **how: Any) -> Path:
    return make_video(path, **{"num_frames": 30, "picture": make_fields(), "options": INTERLACED} | how)


def filtered_by_hand(path: Path) -> list[str]:
    """Hashes of all frames through a filter graph of the whole file."""
    hashes = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        nodes = [graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame"), graph.add("buffersink")]
        graph.link_nodes(*nodes).configure()
        for frame in [*container.decode(stream), None]:
            graph.vpush(frame)
            while True:
                try:
                    hashes.append(frame_hash(graph.vpull()))
                except (av.BlockingIOError, av.EOFError):
                    break
    return hashes


def combing(frames: list[av.VideoFrame]) -> float:
    """How much more neighboring rows differ than every second one: large where two fields are of two moments."""
    luma = np.stack([np.frombuffer(f.planes[0], np.uint8).reshape(64, -1)[20:, :96].astype(float) for f in frames])
    return float(np.abs(np.diff(luma, axis=1)).mean() / np.abs(luma[:, 2:] - luma[:, :-2]).mean())


@pytest.fixture(params=KINDS)
def video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, how = KINDS[request.param]
    return make_interlaced(tmp_path / name, **how)


def test_any_range_is_the_same_as_in_the_whole_file(video: Path):
    index = index_video(str(video), interlaced="deinterlace")
    assert index.is_deinterlaced
    everything = filtered_by_hand(video)
    assert len(set(everything)) == 30
    assert everything != frame_hashes(video)
    for length in (1, 2, 7, 30):
        for start in range(0, 30, 1 if length < 7 else 3):
            frames = list(decode_range(index, start, start + length))
            assert [frame_hash(frame) for frame in frames] == everything[start : start + length]


def test_frames_keep_everything_but_the_fields(video: Path):
    index = index_video(str(video), interlaced="deinterlace")
    frames = list(decode_range(index, 5, 20))
    assert [frame.pts for frame in frames] == list(index.pts[5:20])
    assert {frame.time_base for frame in frames} == {index.time_base}
    assert {frame.format.name for frame in frames} == {index.pix_fmt}
    assert not any(frame.interlaced_frame for frame in frames)
    tags = {(f.color_range, f.colorspace, f.color_primaries, f.color_trc) for f in frames}
    assert tags == {index.color}


def test_uneven_times_are_kept(tmp_path: Path):
    pts = (1000 + np.random.default_rng(1).integers(1, 900, 30).cumsum()).tolist()
    path = make_interlaced(tmp_path / "tv.mp4", pts=pts, time_base=Fraction(1, 12800))
    index = index_video(str(path), interlaced="deinterlace")
    assert len(set(np.diff(index.pts))) > 20
    assert [frame.pts for frame in decode_range(index, 3, 28)] == list(index.pts[3:28])


def test_fields_are_no_longer_seen(tmp_path: Path):
    path = make_interlaced(tmp_path / "tv.mp4")
    index = index_video(str(path), interlaced="deinterlace")
    with av.open(str(path)) as container:
        before = combing(list(container.decode(video=0)))
    assert before > 1.2
    assert combing(list(decode_range(index, 0, 30))) < 0.9


def test_damage_is_concealed_before_deinterlacing(tmp_path: Path):
    whole = make_interlaced(tmp_path / "tv.mp4", num_frames=60)
    path = make_damaged_copy(whole, tmp_path / "damaged.mp4", start=0.5, stop=0.53)
    index = index_video(str(path), interlaced="deinterlace")
    lost: set[int] = set()
    frames = list(decode_range(index, 0, 60, on_damage="conceal", concealed=lost))
    assert [frame.pts for frame in frames] == list(index.pts)
    assert 0 < len(lost) < 12
    some: set[int] = set()
    part = list(decode_range(index, min(lost) - 3, min(lost), on_damage="conceal", concealed=some))
    assert some == set()
    hashes = [frame_hash(frame) for frame in frames]
    assert [frame_hash(frame) for frame in part] == hashes[min(lost) - 3 : min(lost)]
    with pytest.raises(VideoError, match="damaged"):
        list(decode_range(index, 0, 60))


def test_the_index_keeps_the_choice(tmp_path: Path):
    index = index_video(str(make_interlaced(tmp_path / "tv.mp4")), interlaced="deinterlace")
    assert VideoIndex.from_dict(index.as_dict()) == index
    later = ("is_deinterlaced", "damaged_pts", "missing_bytes", "frame_data")
    before = {key: value for key, value in index.as_dict().items() if key not in later}
    assert not VideoIndex.from_dict(before).is_deinterlaced


def test_a_progressive_video_is_left_alone(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", num_frames=10)
    index = index_video(str(path), interlaced="deinterlace")
    assert index == index_video(str(path))
    assert [frame_hash(frame) for frame in decode_range(index, 0, 10)] == frame_hashes(path)


def test_a_refusal_names_the_setting(tmp_path: Path):
    path = make_interlaced(tmp_path / "tv.mp4")
    with pytest.raises(VideoError, match=r"tv\.mp4: is interlaced.*inpaint\.interlaced=deinterlace"):
        index_video(str(path))


def test_fields_of_which_only_the_header_tells(tmp_path: Path):
    # FFV1's frames do not say that they are interlaced; Matroska's header does.
    path = tmp_path / "tv.mkv"
    make_flagged(path, "yuv420p")
    with av.open(str(path)) as container:
        assert not next(container.decode(video=0)).interlaced_frame
    with pytest.raises(VideoError, match="is interlaced"):
        index_video(str(path))
    assert index_video(str(path), interlaced="deinterlace").is_deinterlaced


def test_a_format_that_the_filter_lacks(tmp_path: Path):
    path = tmp_path / "tv.mkv"
    make_flagged(path, "gray10le")
    with pytest.raises(VideoError, match=r"frames of 96x64 gray10le cannot be deinterlaced here"):
        index_video(str(path), interlaced="deinterlace")


def make_flagged(path: Path, pix_fmt: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt, context.field_order = 96, 64, pix_fmt, 2
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(96, 64, pix_fmt)))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("on_damage", ["fail", "conceal"])
def test_interlaced_frames_that_come_later_are_refused(tmp_path: Path, on_damage: Any) -> None:
    parts = [
        make_video(tmp_path / "film.ts", num_frames=12),
        make_interlaced(tmp_path / "tv.ts", num_frames=12, pts=[512 * n for n in range(20, 32)]),
    ]
    path = tmp_path / "both.ts"
    with av.open(str(parts[0])) as first, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(first.streams.video[0])
        for part in parts:
            with av.open(str(part)) as source:
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        target.mux(packet)
    for interlaced in ("refuse", "deinterlace"):
        index = index_video(str(path), interlaced=interlaced)
        assert (index.num_frames, index.is_deinterlaced) == (24, False)
        assert len(list(decode_range(index, 0, 10))) == 10
        with pytest.raises(VideoError, match=r"both\.ts: frame 12 is interlaced, the first one is not.*deinterlace it"):
            list(decode_range(index, 0, 24, on_damage=on_damage))
