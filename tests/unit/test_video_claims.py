"""Headers that claim more than their file holds are refused before FFmpeg believes them; true long films are not."""

import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sttn_ray.errors import VideoError
from sttn_ray.video.claims import refuse_hollow_tables
from sttn_ray.video.index import index_video
from tests.boxes import box, change_boxes, change_file, edit_list
from tests.media import frame_hashes, make_video, mux_together

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def refused(path: Path) -> str:
    """The message that refuses a video."""
    with pytest.raises(VideoError) as raised:
        index_video(str(path))
    return str(raised.value)


def make_fragmented(path: Path) -> Path:
    return mux_together(path, make_video(path.with_name("whole.mp4"), num_frames=3), options=FRAGMENTED)


def claims_samples(count: int) -> bytes:
    """A `trun` of so many samples of which it tells nothing."""
    return box(b"trun", struct.pack(">II", 0, count))


@pytest.mark.parametrize("copies", [1, 100])
def test_a_fragment_that_claims_samples_which_are_not_there(tmp_path: Path, copies: int) -> None:
    path = make_fragmented(tmp_path / "a.mp4")
    change_file(path, b"trun", lambda _: claims_samples(80_000_000 // copies) * copies)
    assert path.stat().st_size < 10_000
    assert "claims 80000000 samples of " in refused(path)


@pytest.mark.parametrize("kind", [b"fr-e", b"\xa9xyz", b"jP  ", bytes(4)])
def test_a_box_that_nobody_knows_in_front_hides_nothing(tmp_path: Path, kind: bytes) -> None:
    path = make_fragmented(tmp_path / "a.mp4")
    change_file(path, b"trun", lambda _: claims_samples(80_000_000))
    path.write_bytes(box(kind, b"") + path.read_bytes())
    assert "claims 80000000 samples of " in refused(path)


def test_the_default_size_of_a_fragments_samples_is_believed_as_far_as_the_file_goes(tmp_path: Path) -> None:
    path = make_fragmented(tmp_path / "a.mp4")
    head = struct.pack(">III", 0x020010, 1, 5)
    change_file(path, b"tfhd", lambda _: box(b"tfhd", head))
    change_file(path, b"trun", lambda _: claims_samples(2_000_000))
    assert "claims 2000000 samples of 10000000 bytes" in refused(path)


def test_a_fragment_that_claims_more_rows_than_it_has(tmp_path: Path) -> None:
    path = make_fragmented(tmp_path / "a.mp4")
    change_file(path, b"trun", lambda content: box(b"trun", content[:4] + struct.pack(">I", 90_000_000) + content[8:]))
    assert "samples of" in refused(path)


def test_many_tracks_of_one_claim_each_are_one_claim(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=3)
    change_file(path, b"stsz", lambda _: box(b"stsz", struct.pack(">III", 0, 1, 900_000)))
    change_file(path, b"trak", lambda content: box(b"trak", content) * 100)
    assert "claims 90000000 samples" in refused(path)


def packed(content: bytes) -> bytes:
    """A header as old QuickTime compresses it."""
    inner = box(b"dcom", b"zlib") + box(b"cmvd", struct.pack(">I", len(content)) + zlib.compress(content, 9))
    return box(b"moov", box(b"cmov", inner))


def test_a_compressed_header_is_looked_into(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mov", num_frames=3)
    data = change_boxes(path.read_bytes(), b"stsz", lambda _: box(b"stsz", struct.pack(">III", 0, 1, 900_000_000)))
    path.write_bytes(change_boxes(data, b"moov", lambda content: packed(box(b"moov", content))))
    assert "claims 900000000 samples" in refused(path)


def test_compressed_headers_have_one_budget(tmp_path: Path) -> None:
    """Forty of forty of them, in 25 kB, took a minute."""
    headers = box(b"free", bytes(8 << 20))
    for _ in range(2):
        headers = packed(headers) * 40
    path = tmp_path / "a.mov"
    path.write_bytes(box(b"ftyp", b"qt  " + bytes(4)) + headers)
    assert "its compressed header unpacks to more than 16777216 bytes" in refused(path)


def test_compressed_headers_within_each_other_are_left_to_ffmpeg(tmp_path: Path) -> None:
    """Not followed further than FFmpeg does; else Python's stack ends."""
    header = box(b"free", b"")
    for _ in range(1500):
        header = box(b"cmvd", struct.pack(">I", len(header)) + zlib.compress(header))
    path = tmp_path / "a.mov"
    path.write_bytes(box(b"ftyp", b"qt  " + bytes(4)) + header)
    assert "cannot be read as a video" in refused(path)


def test_compressed_sound_may_be_counted_by_samples(tmp_path: Path) -> None:
    """As QuickTime does: each of one byte and one tick, whatever its packets hold."""
    path = make_video(tmp_path / "a.mov", num_frames=25, rate=1, audio="adpcm_ima_qt", width=16, height=16)
    data, per_packet = path.read_bytes(), 64

    def of_sound(change: Callable[[bytes], bytes], kind: bytes) -> Callable[[bytes], bytes]:
        tracks = iter([lambda content: content, change])
        return lambda content: box(kind, next(tracks)(content))

    def sizes(content: bytes) -> bytes:
        return struct.pack(">III", 0, 1, per_packet * struct.unpack_from(">I", content, 8)[0])

    def durations(content: bytes) -> bytes:
        assert struct.unpack_from(">I", content, 12) == (per_packet,)
        return struct.pack(">IIII", 0, 1, per_packet * struct.unpack_from(">I", content, 8)[0], 1)

    def chunks(content: bytes) -> bytes:
        rows = np.frombuffer(content[8:], ">u4").reshape(-1, 3) * np.array([1, per_packet, 1])
        return content[:8] + rows.astype(">u4").tobytes()

    for kind, change in ((b"stsz", sizes), (b"stts", durations), (b"stsc", chunks)):
        data = change_boxes(data, kind, of_sound(change, kind))
    assert len(data) == path.stat().st_size < 1_000_000
    path.write_bytes(data)
    with av.open(path) as source:
        assert sum(frame.samples for frame in source.decode(audio=0)) > 25 * 48000 - per_packet
    assert index_video(str(path)).num_frames == 25
    path.write_bytes(data.replace(b"mhlrsoun", b"mhlrvide"))
    assert "claims 1200" in refused(path)


@pytest.mark.parametrize(("duration", "start"), [(1000, 0), (10, 900)])
def test_an_edit_list_that_shows_a_film_over_and_over(tmp_path: Path, duration: int, start: int) -> None:
    """A film of a second, 3000 times; and its last frames, for each of which all from the only keyframe on are made."""
    path = make_video(tmp_path / "a.mp4", num_frames=25, gop=25, time_base=Fraction(1, 1000), audio=True)
    change_file(path, b"edts", lambda _: edit_list([(duration, start)] * 3000))
    message = refused(path)
    assert "its edit list makes 7" in message
    assert "ffmpeg -ignore_editlist 1 -i IN -c copy OUT.mp4" in message


def test_what_the_refusal_of_an_edit_list_advises_works(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=25, gop=25, time_base=Fraction(1, 1000))
    wanted = frame_hashes(path)
    # Behind the film, so that it does not move.
    data = change_boxes(path.read_bytes(), b"edts", lambda _: edit_list([(1000, 0)] * 3000))
    path.write_bytes(data)
    assert "ignore_editlist" in refused(path)
    out = tmp_path / "out.mp4"
    with av.open(path, options={"ignore_editlist": "1"}) as source, av.open(out, "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert index_video(str(out)).num_frames == 25
    assert frame_hashes(out) == wanted


def test_an_edit_list_of_many_different_parts_is_none_of_these(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=400, gop=1, time_base=Fraction(1, 1000))
    change_file(path, b"edts", lambda _: edit_list([(160, start) for start in range(0, 16000, 160)]))
    refuse_hollow_tables(str(path), path.stat().st_size)
    change_file(path, b"edts", lambda _: edit_list([(16000, 0)] * 8))
    refuse_hollow_tables(str(path), path.stat().st_size)


@pytest.mark.parametrize("options", [{}, FRAGMENTED, {"movflags": "faststart"}])
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_ordinary_files_pass(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    source = make_video(tmp_path / f"source{suffix}", num_frames=30, audio=True)
    path = mux_together(tmp_path / f"a{suffix}", source, options=options)
    assert index_video(str(path)).num_frames == 30


@pytest.mark.parametrize(
    ("num_frames", "options"),
    [
        (5_000, {}),
        (5_000, FRAGMENTED),
        (5_000, {"movflags": "frag_every_frame+empty_moov+default_base_moof"}),
        pytest.param(10 * 3600 * 60, {}, marks=pytest.mark.slow),
        pytest.param(10 * 3600 * 60, FRAGMENTED, marks=pytest.mark.slow),
    ],
)
def test_long_films_pass(tmp_path: Path, num_frames: int, options: dict[str, str]) -> None:
    """Ten hours at 60 frames a second: the frames of a short film again and again, with times that go on."""
    short = make_video(tmp_path / "short.mp4", num_frames=50, gop=50, width=16, height=16, rate=60)
    with av.open(short) as source, av.open(tmp_path / "long.mp4", "w", options=options) as target:
        theirs = source.streams.video[0]
        stream = target.add_stream_from_template(theirs)
        packets = [packet for packet in source.demux(theirs) if packet.dts is not None]
        ticks = packets[0].duration * len(packets)
        for number in range(num_frames):
            packet, turn = packets[number % 50], number // 50
            copy = av.Packet(bytes(packet))
            copy.pts, copy.dts = packet.pts + turn * ticks, packet.dts + turn * ticks
            copy.duration, copy.time_base, copy.is_keyframe = packet.duration, packet.time_base, packet.is_keyframe
            copy.stream = stream
            target.mux(copy)
    assert index_video(str(tmp_path / "long.mp4")).num_frames == num_frames
