import struct
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import plan_video
from sttn_ray.choices import Alpha, Sound
from sttn_ray.errors import VideoError
from sttn_ray.video.assemble import Container, join_segments
from sttn_ray.video.container import choose_container
from sttn_ray.video.copied import read_copied
from sttn_ray.video.decode import decode_range
from sttn_ray.video.encode import EncodedSegment, EncoderSettings, check_encoder, choose_encoder, encode_segment
from sttn_ray.video.index import VideoIndex, index_video
from sttn_ray.video.verify import verify_output
from tests.boxes import box, change_file
from tests.media import add_captions, audio_packet_hash, frame_hashes, frame_times, make_video, mux_together
from tests.plans import SETTINGS

UNEVEN_PTS = (1000 + np.random.default_rng(1).integers(1, 900, 30).cumsum()).tolist()
UNEVEN_MS = (1000 + np.random.default_rng(1).integers(1, 90, 30).cumsum()).tolist()
LATE_PTS = [6144 + 512 * n for n in range(30)]
CUTS = (0, 13, 14, 22)


def encoder_settings(index: VideoIndex, codec: str = "libx264", crf: int = 8) -> EncoderSettings:
    return EncoderSettings.for_video(index, codec=codec, crf=crf, preset="veryfast", threads=1)


def encode_all(
    index: VideoIndex, settings: EncoderSettings, folder: Path, cuts: Sequence[int] = CUTS
) -> tuple[list[Path], list[EncodedSegment]]:
    folder.mkdir(exist_ok=True)
    stops = [*cuts[1:], index.num_frames]
    paths, encoded = [], []
    for start, stop in zip(cuts, stops, strict=True):
        paths.append(folder / f"{start}.mp4")
        encoded.append(
            encode_segment(paths[-1], decode_range(index, start, stop), index.pts[start:stop], index, settings)
        )
    return paths, encoded


def reencode(
    source: Path,
    folder: Path,
    *,
    codec: str = "libx264",
    cuts: Sequence[int] = CUTS,
    sound: Sound = "copy",
    alpha: Alpha = "refuse",
) -> Path:
    """The whole way of a video whose pictures nobody changes."""
    index = index_video(str(source), alpha=alpha)
    settings = encoder_settings(index, codec)
    check_encoder(index, settings)
    container = choose_container(index, settings, sound=sound)
    segments, encoded = encode_all(index, settings, folder, cuts)
    assert len({segment.extradata_sha256 for segment in encoded}) == 1
    output = folder / f"output{container.suffix}"
    join_segments(output, segments, cuts, index, container)
    verify_output(output, segments, index, container)
    return output


def sound_times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [packet.pts * packet.time_base for packet in container.demux(audio=0) if packet.size]


def luma(frame: av.VideoFrame) -> NDArray[np.uint8]:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def largest_mean_error(first: Path, second: Path) -> float:
    with av.open(str(first)) as a, av.open(str(second)) as b:
        pairs = zip(a.decode(video=0), b.decode(video=0), strict=True)
        return max(np.abs(luma(x).astype(int) - luma(y)).mean() for x, y in pairs)


EXACT_TIMES: dict[str, tuple[str, dict[str, Any]]] = {
    "even": ("a.mp4", {}),
    "uneven": ("a.mp4", {"pts": UNEVEN_PTS}),
    "late start": ("a.mp4", {"pts": LATE_PTS}),
    "NTSC": ("a.mp4", {"rate": Fraction(30000, 1001)}),
    "mov": ("a.mov", {"audio": "pcm_s16le"}),
    "m4v": ("a.m4v", {}),
    "milliseconds": ("a.mkv", {"time_base": Fraction(1, 1000), "pts": UNEVEN_MS}),
    "avi with JPEG": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "audio": "pcm_s16le"}),
}


@pytest.mark.parametrize("kind", EXACT_TIMES)
def test_joined_segments_keep_every_time_and_the_sound(tmp_path: Path, kind: str):
    name, how = EXACT_TIMES[kind]
    source = make_video(tmp_path / name, num_frames=30, **{"audio": True} | how)
    output = reencode(source, tmp_path / "out")
    assert frame_times(output) == frame_times(source)
    assert audio_packet_hash(output) == audio_packet_hash(source)
    assert sound_times(output) == sound_times(source)
    assert largest_mean_error(source, output) < 4  # of neighboring frames: 20


def test_matroska_is_within_half_a_tick(tmp_path: Path):
    # Prores in mov at 30000/1001; FFV1 has no place in mov, and mkv counts milliseconds.
    rate = Fraction(30000, 1001)
    source = make_video(
        tmp_path / "a.mov",
        num_frames=30,
        codec="prores_ks",
        pix_fmt="yuv422p10le",
        rate=rate,
        audio="pcm_s16le",
    )
    output = reencode(source, tmp_path / "out", codec="ffv1")
    assert output.suffix == ".mkv"
    gaps = [abs(a - b) for a, b in zip(frame_times(source), frame_times(output), strict=True)]
    assert 0 < max(gaps) <= Fraction(1, 2000)
    assert frame_hashes(output) == frame_hashes(source)
    assert audio_packet_hash(output) == audio_packet_hash(source)


def test_webm_becomes_mkv(tmp_path: Path):
    source = make_video(tmp_path / "a.webm", num_frames=30, codec="libvpx-vp9", audio=True)
    output = reencode(source, tmp_path / "out")
    assert output.suffix == ".mkv"
    assert frame_times(output) == frame_times(source)
    assert audio_packet_hash(output) == audio_packet_hash(source)
    assert index_video(str(output)).codec == "h264"


def test_a_file_of_one_frame(tmp_path: Path):
    source = make_video(tmp_path / "a.mp4", num_frames=1)
    assert frame_times(reencode(source, tmp_path / "out", cuts=(0,))) == frame_times(source)


LOSSLESS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ffv1": ("ffv1", "a.mp4", {}),
    "ffv1, 10 bits": ("ffv1", "a.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p10le"}),
    "ffv1, 4:2:2, 12 bits": ("ffv1", "a.mkv", {"codec": "ffv1", "pix_fmt": "yuv422p12le"}),
    "ffv1, gray": ("ffv1", "a.mkv", {"codec": "ffv1", "pix_fmt": "gray"}),
    "ffv1, full range": ("ffv1", "a.mp4", {"pix_fmt": "yuvj420p", "color": (2, 1, 1, 1)}),
    "x264": ("x264-lossless", "a.mp4", {}),
    "x264, full range": ("x264-lossless", "a.mp4", {"pix_fmt": "yuvj420p", "color": (2, 1, 1, 1)}),
    "x264, 4:2:2": ("x264-lossless", "a.mkv", {"codec": "ffv1", "pix_fmt": "yuv422p"}),
    "x264, 4:4:4, odd size": ("x264-lossless", "a.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p", "width": 95}),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_codecs_keep_every_sample(tmp_path: Path, kind: str):
    codec, name, how = LOSSLESS[kind]
    source = make_video(tmp_path / name, num_frames=24, **how)
    output = reencode(source, tmp_path / "out", codec=codec, cuts=(0, 11))
    hashes = frame_hashes(source)
    assert len(set(hashes)) == 24
    assert frame_hashes(output) == hashes
    before, after = index_video(str(source)), index_video(str(output))
    assert after.color == before.color
    assert after.pix_fmt.replace("yuvj", "yuv") == before.pix_fmt.replace("yuvj", "yuv")


@pytest.mark.parametrize("color", [(1, 1, 1, 1), (2, 1, 1, 1), (1, 9, 9, 16), (1, 6, 6, 6)])
def test_color_tags_and_pixel_shape_are_kept(tmp_path: Path, color: tuple[int, int, int, int]):
    pix_fmt = "yuvj420p" if color[0] == 2 else "yuv420p"
    source = make_video(tmp_path / "a.mp4", num_frames=6, pix_fmt=pix_fmt, color=color, sample_aspect=Fraction(12, 11))
    index = index_video(str(reencode(source, tmp_path / "out", cuts=(0, 3))))
    assert index.color == color
    assert index.sample_aspect == Fraction(12, 11)
    assert index.pix_fmt == pix_fmt


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_kept(tmp_path: Path, rotation: int, suffix: str):
    source = make_video(tmp_path / f"a{suffix}", num_frames=4, rotation=rotation)
    output = reencode(source, tmp_path / "out", cuts=(0, 2))
    before, after = index_video(str(source)), index_video(str(output))
    assert after.rotation == before.rotation == rotation
    assert after.display_matrix == before.display_matrix
    assert (after.width, after.height) == (96, 64)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_done_twice_gives_the_same_bytes(tmp_path: Path, suffix: str):
    source = make_video(tmp_path / f"a{suffix}", num_frames=30, audio=True)
    first, second = (reencode(source, tmp_path / name) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("codec", ["libx264", "x264-lossless"])
def test_an_encode_of_the_same_frames_repeats_itself(tmp_path: Path, codec: str):
    index = index_video(str(make_video(tmp_path / "a.mp4", num_frames=60)))
    settings = replace(encoder_settings(index, codec), preset="fast")
    hashes = {encode_all(index, settings, tmp_path / "out", cuts=(0,))[1][0].sha256 for _ in range(25)}
    assert len(hashes) == 1


def test_titles_chapters_and_subtitles_are_copied(tmp_path: Path):
    plain = make_video(tmp_path / "plain.mp4", num_frames=30, audio="libmp3lame")
    (tmp_path / "words.srt").write_text("1\n00:00:00,100 --> 00:00:00,900\nHello\n\n")
    chapter = {"id": 1, "start": 0, "end": 800, "time_base": Fraction(1, 1000), "metadata": {"title": "one"}}
    source = tmp_path / "source.mkv"
    with (
        av.open(str(plain)) as pictures,
        av.open(str(tmp_path / "words.srt")) as words,
        av.open(str(source), "w") as container,
    ):
        copies = {s: container.add_stream_from_template(s) for s in [*pictures.streams, *words.streams]}
        copies[pictures.streams[0]].codec_context.framerate = Fraction(25)
        copies[words.streams[0]].metadata["language"] = "deu"
        container.metadata["title"] = "A day"
        container.set_chapters([chapter])
        packets = [p for p in [*pictures.demux(), *words.demux()] if p.size]
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            packet.stream = copies[packet.stream]
            container.mux(packet)
    output = reencode(source, tmp_path / "out")
    with av.open(str(output)) as container:
        assert [s.type for s in container.streams] == ["video", "audio", "subtitle"]
        assert container.metadata["title"] == "A day"
        assert container.streams[2].metadata["language"] == "deu"
        assert [c["metadata"]["title"] for c in container.chapters()] == ["one"]
        assert [bytes(p) for p in container.demux(subtitles=0) if p.size] == [b"Hello"]


def test_streams_that_no_container_takes_are_named(tmp_path: Path):
    source = make_video(tmp_path / "a.mov", num_frames=4, audio=True, metadata={"timecode": "01:00:00:00"})
    index = index_video(str(source))
    container = choose_container(index, encoder_settings(index))
    assert container.copied == (1,)
    assert len(container.dropped) == 1
    assert container.dropped[0].startswith("2 data")


@pytest.mark.parametrize(
    ("name", "codec", "suffix"),
    [
        ("a.mp4", "libx264", ".mp4"),
        ("a.mp4", "ffv1", ".mp4"),
        ("a.mov", "libx264", ".mov"),
        ("a.mov", "ffv1", ".mkv"),
        ("a.mkv", "libx264", ".mkv"),
        ("a.ts", "libx264", ".mp4"),
    ],
)
def test_container_is_the_sources_where_it_can_be(tmp_path: Path, name: str, codec: str, suffix: str):
    index = index_video(str(make_video(tmp_path / name, num_frames=3, audio=True)))
    container = choose_container(index, encoder_settings(index, codec))
    assert container.suffix == suffix
    assert container.copied == (1,)
    assert container.dropped == ()


@pytest.mark.parametrize("codec", ["libx264", "x264-lossless"])
@pytest.mark.parametrize(
    ("width", "height", "pix_fmt"), [(95, 64, "yuv420p"), (96, 63, "yuv420p"), (95, 64, "yuv422p")]
)
def test_odd_sizes_are_refused_with_the_remedy(tmp_path: Path, width: int, height: int, pix_fmt: str, codec: str):
    source = make_video(tmp_path / "a.mkv", num_frames=2, codec="ffv1", pix_fmt=pix_fmt, width=width, height=height)
    index = index_video(str(source))
    with pytest.raises(VideoError) as raised:
        check_encoder(index, encoder_settings(index, codec))
    for word in (str(source), codec, f"{width}x{height}", pix_fmt, "odd size", "encode.codec=ffv1"):
        assert word in str(raised.value)


def test_odd_sizes_of_other_formats_pass(tmp_path: Path):
    source = make_video(tmp_path / "a.mkv", num_frames=4, codec="ffv1", pix_fmt="yuv422p", width=96, height=63)
    assert index_video(str(reencode(source, tmp_path / "out", cuts=(0, 2)))).height == 63


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "message"),
    [
        ("yuv420p10le", "x264-lossless", "lossless at 8 bits only and the video is yuv420p10le"),
        ("yuv422p12le", "libx264", "libx264 cannot encode its pixel format yuv422p12le"),
    ],
)
def test_bit_depths_that_x264_lacks_are_refused(tmp_path: Path, pix_fmt: str, codec: str, message: str):
    index = index_video(str(make_video(tmp_path / "a.mkv", num_frames=2, codec="ffv1", pix_fmt=pix_fmt)))
    with pytest.raises(VideoError, match=rf"{message}; set encode\.codec=ffv1"):
        check_encoder(index, encoder_settings(index, codec))


FALLBACKS: dict[str, tuple[str, dict[str, Any], str]] = {
    "odd size": ("libx264", {"width": 95, "height": 63}, "libx264 cannot hold 95x63 yuv420p"),
    "odd size, lossless": ("x264-lossless", {"width": 95}, "x264-lossless cannot hold 95x64 yuv420p"),
    "10 bits, lossless": ("x264-lossless", {"pix_fmt": "yuv420p10le"}, "x264-lossless cannot hold 96x64 yuv420p10le"),
    "gray, lossless": ("x264-lossless", {"pix_fmt": "gray"}, "x264-lossless cannot hold 96x64 gray"),
    "12 bits": ("libx264", {"pix_fmt": "yuv422p12le"}, "libx264 cannot hold 96x64 yuv422p12le"),
    "too wide": ("libx264", {"width": 17000, "height": 16}, "libx264 cannot hold 17000x16 yuv420p"),
}


@pytest.mark.parametrize("kind", FALLBACKS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_the_encoder_cannot_hold_is_encoded_as_ffv1(tmp_path: Path, kind: str, suffix: str):
    codec, how, reason = FALLBACKS[kind]
    source = make_video(tmp_path / f"a{suffix}", num_frames=4, **{"codec": "ffv1"} | how)
    index = index_video(str(source))
    settings, note = choose_encoder(index, codec=codec, crf=18, preset="veryfast", threads=1)
    assert settings == encoder_settings(index, "ffv1", crf=18)
    assert note == f"encoded as ffv1: {reason}"
    container = choose_container(index, settings)
    assert container.suffix == suffix
    segments, _ = encode_all(index, settings, tmp_path / "out", cuts=(0, 2))
    output = tmp_path / f"output{suffix}"
    join_segments(output, segments, (0, 2), index, container)
    verify_output(output, segments, index, container)
    assert frame_hashes(output) == frame_hashes(source)


def test_a_mov_that_is_encoded_as_ffv1_becomes_mkv(tmp_path: Path):
    source = make_video(tmp_path / "a.mov", num_frames=3, codec="prores_ks", pix_fmt="yuv422p10le", audio="pcm_s16le")
    index = index_video(str(source))
    settings, note = choose_encoder(index, codec="x264-lossless", crf=18, preset="veryfast", threads=1)
    assert note == "encoded as ffv1: x264-lossless cannot hold 96x64 yuv422p10le"
    assert choose_container(index, settings).suffix == ".mkv"


@pytest.mark.parametrize("codec", ["libx264", "x264-lossless", "ffv1"])
def test_the_wanted_encoder_is_taken_where_it_can_be(tmp_path: Path, codec: str):
    index = index_video(str(make_video(tmp_path / "a.mp4", num_frames=2)))
    chosen = choose_encoder(index, codec=codec, crf=18, preset="veryfast", threads=1)
    assert chosen == (encoder_settings(index, codec, crf=18), None)


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_what_no_encoder_holds_is_refused(tmp_path: Path, codec: str):
    index = replace(index_video(str(make_video(tmp_path / "a.mp4", num_frames=2))), pix_fmt="nv24")
    with pytest.raises(VideoError, match=r"ffv1 cannot encode its pixel format nv24; convert it first \(ffmpeg"):
        choose_encoder(index, codec=codec, crf=18, preset="veryfast", threads=1)


def test_other_quality_has_other_parameter_sets(tmp_path: Path):
    # Joined, such segments decode to wrong pictures without any error.
    index = index_video(str(make_video(tmp_path / "a.mp4", num_frames=12)))
    hashes = set()
    for crf in (16, 30):
        _, encoded = encode_all(index, encoder_settings(index, crf=crf), tmp_path / str(crf), cuts=(0, 6))
        assert len({segment.extradata_sha256 for segment in encoded}) == 1
        hashes |= {segment.extradata_sha256 for segment in encoded}
    assert len(hashes) == 2


def test_encoded_segment_describes_its_file(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "a.mp4", num_frames=12)))
    paths, encoded = encode_all(index, encoder_settings(index), tmp_path / "out", cuts=(0, 5))
    assert [segment.num_frames for segment in encoded] == [5, 7]
    assert [segment.num_bytes for segment in encoded] == [path.stat().st_size for path in paths]
    assert frame_times(paths[1])[0] == 0


def test_keyframes_are_the_encoders_choice_not_the_sources(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "a.mp4", num_frames=12, gop=2)))
    assert len(index.keyframe_pts) == 6
    paths, _ = encode_all(index, encoder_settings(index), tmp_path / "out", cuts=(0, 5))
    assert [index_video(str(path)).keyframe_pts for path in paths] == [(0,), (0,)]


def test_lossless_means_the_frames_given_not_the_sources(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "a.mp4", num_frames=4)))
    frames = list(decode_range(index, 0, 4))
    frames[2].make_writable()
    luma(frames[2])[10:20, 10:20] = 200
    path = tmp_path / "changed.mp4"
    encode_segment(path, iter(frames), index.pts, index, encoder_settings(index, "x264-lossless"))
    source, changed = frame_hashes(Path(index.path)), frame_hashes(path)
    assert [a == b for a, b in zip(source, changed, strict=True)] == [True, True, False, True]


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoIndex, Container, Path]:
    folder = tmp_path_factory.mktemp("joined")
    source = make_video(folder / "a.mp4", num_frames=30, audio=True)
    index = index_video(str(source))
    return index, choose_container(index, encoder_settings(index)), reencode(source, folder / "out")


def segments_of(output: Path) -> list[Path]:
    """The segments that `reencode` made an output of."""
    return [output.with_name(f"{start}.mp4") for start in CUTS]


def test_verification_finds_other_pictures(joined: tuple[VideoIndex, Container, Path], tmp_path: Path):
    index, container, output = joined
    settings = encoder_settings(index, crf=20)
    others, _ = encode_all(index, settings, tmp_path / "out")
    with pytest.raises(VideoError, match="the output does not hold the pictures of its segments"):
        verify_output(output, others, index, container)


def test_verification_finds_a_missing_frame(joined: tuple[VideoIndex, Container, Path]):
    index, container, output = joined
    longer = replace(index, pts=(*index.pts, index.pts[-1] + 512))
    with pytest.raises(VideoError, match="the output holds 30 frames, the source 31"):
        verify_output(output, segments_of(output), longer, container)


def test_verification_finds_a_moved_frame(joined: tuple[VideoIndex, Container, Path]):
    index, container, output = joined
    moved = replace(index, pts=(*index.pts[:7], index.pts[7] + 1, *index.pts[8:]))
    with pytest.raises(VideoError, match=r"frame 7 of the output is at 0\.280000 s, in the source at 0\.280078 s"):
        verify_output(output, segments_of(output), moved, container)


def test_frames_that_matroska_would_show_at_one_time_go_elsewhere(tmp_path: Path):
    how = {"codec": "prores_ks", "pix_fmt": "yuv422p10le", "rate": 2000}
    source = make_video(tmp_path / "fast.mov", num_frames=8, **how)
    output = reencode(source, tmp_path / "out", codec="ffv1", cuts=(0, 3))
    assert output.suffix == ".mp4"
    assert frame_times(output) == frame_times(source)
    # As slow as Matroska can tell, at times between its own.
    pts = [2 * n + 1 for n in range(8)]
    slower = make_video(tmp_path / "slower.mov", num_frames=8, **{**how, "time_base": Fraction(1, 2000), "pts": pts})
    assert reencode(slower, tmp_path / "out", codec="ffv1", cuts=(0, 3)).suffix == ".mkv"


def test_a_segment_keeps_a_last_frame_shorter_than_a_millisecond(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "fast.mp4", num_frames=7, rate=2000)))
    _, (encoded,) = encode_all(index, encoder_settings(index), tmp_path, (0,))
    assert encoded.num_frames == 7


def test_verification_finds_frames_at_one_time(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "fast.mp4", num_frames=8, rate=2000)))
    settings = encoder_settings(index)
    segments, _ = encode_all(index, settings, tmp_path, (0, 4))
    container = Container(suffix=".mkv", muxer="matroska", copied=())
    join_segments(tmp_path / "output.mkv", segments, (0, 4), index, container)
    with pytest.raises(VideoError, match=r"frames 1 and 2 of the output are both at 0\.001000 s"):
        verify_output(tmp_path / "output.mkv", segments, index, container)


def test_verification_finds_other_sound(joined: tuple[VideoIndex, Container, Path], tmp_path: Path):
    index, container, output = joined
    other = make_video(tmp_path / "other.mp4", num_frames=30, audio="libmp3lame")
    with pytest.raises(VideoError, match="stream 1 was not copied byte for byte"):
        verify_output(output, segments_of(output), replace(index, path=str(other)), container)


def test_verification_finds_sound_that_is_late(joined: tuple[VideoIndex, Container, Path], tmp_path: Path):
    index, container, output = joined
    late = tmp_path / "late.mp4"
    with av.open(index.path) as source, av.open(str(late), "w") as target:
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                if packet.stream.type == "audio" and (packet.pts or 0) > 20_000:
                    packet.pts = packet.dts = packet.pts + 480
                packet.stream = streams[packet.stream]
                target.mux(packet)
    with pytest.raises(VideoError, match=r"packet 21 of stream 1 is at 0\.\d+ s in the output, at 0\.\d+ s in the"):
        verify_output(output, segments_of(output), replace(index, path=str(late)), container)


def test_copied_packets_are_per_stream(joined: tuple[VideoIndex, Container, Path]):
    index, _, output = joined
    (source,), (copy,) = read_copied(index.path, [1]), read_copied(str(output), [1])
    assert source == copy
    assert source.sha256 == audio_packet_hash(output)
    assert [pts * source.time_base for pts in source.pts if pts is not None] == sound_times(output)
    assert read_copied(index.path, [0]) != read_copied(str(output), [0])


@pytest.mark.parametrize("audio", [True, "ac3"])
def test_a_transport_stream_may_start_at_any_tick(tmp_path: Path, audio: bool | str):
    ticks = [n * 3600 + 8_000_000_001 for n in range(30)]
    source = make_video(tmp_path / "a.ts", num_frames=30, audio=audio, time_base=Fraction(1, 90000), pts=ticks)
    output = reencode(source, tmp_path / "out")
    assert output.suffix == ".mp4"
    assert frame_times(output) == frame_times(source)
    assert sound_times(output) == pytest.approx(sound_times(source), abs=1 / 48000)


@pytest.mark.parametrize("codec", ["libx264", "x264-lossless", "ffv1"])
def test_captions_inside_the_pictures_are_kept_where_the_encoder_can(tmp_path: Path, codec: str):
    source = add_captions(make_video(tmp_path / "film.mp4", num_frames=30), tmp_path / "a.mp4")
    index = index_video(str(source))
    assert index.frame_data == ("closed captions",)
    output = reencode(source, tmp_path / "out", codec=codec)
    wanted = captions(source)
    assert all(wanted)
    if codec == "ffv1":
        assert encoder_settings(index, codec).lost(index.frame_data) == ["closed captions"]
        assert not any(captions(output))
    else:
        assert encoder_settings(index, codec).lost(index.frame_data) == []
        assert captions(output) == wanted


def captions(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [
            b"".join(bytes(data) for data in frame.side_data if data.type.name == "A53_CC")
            for frame in container.decode(video=0)
        ]


def test_another_film_in_the_file_is_copied_and_named(tmp_path: Path):
    first = make_video(tmp_path / "first.mp4", num_frames=30)
    large = make_video(tmp_path / "large.mp4", num_frames=30, width=192, height=128, audio=True)
    path = mux_together(tmp_path / "both.mp4", first, large, shown=1)
    index = index_video(str(path))
    assert (index.stream, index.width) == (1, 192)  # what a player shows
    assert [stream.kind for stream in index.others] == ["video", "audio"]
    output = reencode(path, tmp_path / "out")
    with av.open(str(output)) as container:
        assert [(s.type, s.width) for s in container.streams.video] == [("video", 192), ("video", 96)]
    assert index_video(str(output)).stream == 0


def test_sound_that_no_container_takes_is_no_loss_to_note(tmp_path: Path):
    sound = tmp_path / "sound.flv"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("nellymoser", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="flt", layout="mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode(None)])
    path = mux_together(tmp_path / "a.flv", make_video(tmp_path / "film.mp4", num_frames=5), sound)
    index = index_video(str(path))
    assert choose_container(index, encoder_settings(index)).suffix == ".mov"
    # Which does not take FFV1.
    with pytest.raises(VideoError, match=r"a\.flv: its sound \(stream 1 audio nellymoser\) fits no container .*=flac"):
        choose_container(index, encoder_settings(index, "ffv1"))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_a_film_says_of_hdr_is_kept(tmp_path: Path, suffix: str) -> None:
    screen = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    said = f"mastering-display={screen}:cll=1000,400"
    source = make_video(
        tmp_path / f"hdr{suffix}",
        num_frames=30,
        codec="libx265",
        pix_fmt="yuv420p10le",
        color=(1, 9, 9, 16),
        options={"x265-params": f"log-level=none:master-display={screen}:max-cll=1000,400"},
    )
    index = index_video(str(source))
    assert index.hdr == said
    assert VideoIndex.from_dict(index.as_dict()) == index
    output = index_video(str(reencode(source, tmp_path / "segments")))
    assert (output.hdr, output.color) == (said, index.color)
    # FFV1 has no place for it; the plan notes that.
    assert encoder_settings(index, "ffv1").hdr == ""


@pytest.mark.parametrize(
    ("name", "how", "location"),
    [
        ("a.mp4", {"options": {"x264-params": "chromaloc=2"}}, "topleft"),
        ("a.mkv", {"options": {"x264-params": "chromaloc=3"}}, "top"),
        ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}, "center"),
        ("a.mov", {}, ""),
    ],
)
def test_where_chroma_samples_lie_is_kept(tmp_path: Path, name: str, how: dict[str, Any], location: str) -> None:
    source = make_video(tmp_path / name, num_frames=30, **how)
    index = index_video(str(source))
    assert index.chroma_location == location
    assert VideoIndex.from_dict(index.as_dict()) == index
    assert index_video(str(reencode(source, tmp_path / "out"))).chroma_location == location
    plan = plan_video(Item(video=str(source), mask=None, boxes="1,2,3,4", output="a"), replace(SETTINGS, codec="ffv1"))
    told = f"not kept: where chroma samples lie ({location}), which ffv1 does not carry"
    assert [note for note in plan.notes if "chroma" in note] == ([told] if location else [])


def test_what_a_container_hides_of_the_picture_is_noted(tmp_path: Path) -> None:
    """QuickTime's clean aperture, and Matroska's crop."""
    clap = box(b"clap", struct.pack(">8I", 88, 1, 52, 1, 0, 1, 2, 1))
    mov = make_video(tmp_path / "a.mov", num_frames=5)
    change_file(mov, b"stsd", lambda old: box(b"stsd", old[:8] + box(old[12:16], old[16:] + clap)))
    with av.open(mov) as source, av.open(tmp_path / "a.mkv", "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    told = "4 at the left, 8 at the top, 4 at the right, 4 at the bottom"
    for path in (mov, tmp_path / "a.mkv"):
        index = index_video(str(path))
        assert (index.width, index.height, index.crop) == (96, 64, (4, 8, 4, 4))
        assert VideoIndex.from_dict(index.as_dict()) == index
        plan = plan_video(Item(video=str(path), mask=None, boxes="1,2,3,4", output="a"), SETTINGS)
        wanted = f"not kept: what its container hides of the picture ({told}, in pixels), which players will show"
        assert [note for note in plan.notes if "hides" in note] == [wanted]
    assert index_video(str(make_video(tmp_path / "whole.mov", num_frames=5))).crop == ()
