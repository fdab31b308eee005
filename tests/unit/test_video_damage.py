from collections.abc import Callable
from pathlib import Path

import av
import pytest

from sttn_ray.errors import VideoError
from sttn_ray.video.damage import has_good_slices, matroska_end, mxf_end
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import index_video
from tests.media import flip_byte, frame_hashes, make_video, mux_together

PACKET_BYTES = 188  # of MPEG-TS


def with_tables_first(path: Path) -> Path:
    """An mp4 that can be played while it is copied: what its end lacks does not keep it from being opened."""
    whole = path.rename(path.with_name(f"whole_{path.name}"))
    return mux_together(path, whole, options={"movflags": "+faststart"})


def cut(path: Path, share: float) -> Path:
    """Keep the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


CUT_FILES: dict[str, Callable[[Path], Path]] = {
    "mp4": lambda folder: with_tables_first(make_video(folder / "a.mp4", audio=True)),
    "mkv": lambda folder: make_video(folder / "a.mkv", audio=True),
    "webm": lambda folder: make_video(folder / "a.webm", codec="libvpx-vp9"),
    "mxf": lambda folder: make_video(folder / "a.mxf", codec="ffv1"),
}


@pytest.mark.parametrize("kind", CUT_FILES)
def test_an_interrupted_copy_is_no_shorter_film(tmp_path: Path, kind: str):
    whole = CUT_FILES[kind](tmp_path)
    size, everything = whole.stat().st_size, index_video(str(whole))
    assert (everything.num_frames, everything.missing_bytes) == (40, 0)
    path = cut(whole, 0.6)
    with pytest.raises(VideoError, match=rf"a\.{kind}: ends early: it has {path.stat().st_size} bytes.*copy it anew"):
        index_video(str(path))
    index = index_video(str(path), on_damage="conceal")
    assert 0 < index.num_frames < 40
    assert index.pts == everything.pts[: index.num_frames] or kind == "mp4"  # whose last frames are not in order
    assert 0.35 * size < index.missing_bytes <= size - path.stat().st_size + 1


def test_a_recording_that_was_cut_is_a_film(tmp_path: Path):
    index = index_video(str(cut(make_video(tmp_path / "a.ts"), 0.6)))
    assert (index.missing_bytes, index.damaged_pts) == (0, ())


def test_a_segment_without_a_size_says_nothing():
    head = bytes.fromhex("1a45dfa3 80 18538067 01ffffffffffffff")
    assert matroska_end(head) == 0
    assert matroska_end(bytes.fromhex("1a45dfa3 80 18538067 84")) == 14
    assert matroska_end(bytes.fromhex("1a45dfa3 80 18538067")) == 0  # ends there
    assert matroska_end(bytes.fromhex("1a45dfa3 84 00000000 18538067 4010")) == 31
    assert matroska_end(b"\x1a\x45\xdf\xa3") == 0
    assert matroska_end(b"") == 0


def test_a_partition_that_is_cut_says_nothing():
    assert mxf_end(bytes.fromhex("060e2b34020501010d01020101020400") + bytes(20)) == 0
    assert mxf_end(bytes(100)) == 0


@pytest.mark.parametrize("slices", ["4", "24"])
def test_a_changed_bit_of_ffv1_is_found(tmp_path: Path, slices: str):
    path = make_video(
        tmp_path / "a.mkv", num_frames=6, codec="ffv1", gop=1, options={"level": "3", "slicecrc": "1", "slices": slices}
    )
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        place = packets[2].pos
        data = [bytes(packet) for packet in packets]
    assert place is not None
    assert all(has_good_slices(packet) for packet in data)
    assert not has_good_slices(data[0][:-1])
    hashes = frame_hashes(path)
    flip_byte(path, place + len(data[2]) // 2)
    assert len(frame_hashes(path)) == len(hashes)  # the decoder says nothing
    with pytest.raises(VideoError, match=r"a\.mkv: damaged: 1 of its frames .* checksums, the first at 0\.080 s"):
        index_video(str(path))
    index = index_video(str(path), on_damage="conceal")
    assert index.damaged_pts == (index.pts[2],)
    assert len(list(decode_range(index, 3, 6))) == 3
    with pytest.raises(VideoError, match=r"damaged: frame 2 decodes with errors, or does not fit its checksum"):
        list(decode_range(index, 0, 6))


def test_ffv1_without_checksums_is_taken_as_it_is(tmp_path: Path):
    path = make_video(tmp_path / "a.mkv", num_frames=3, codec="ffv1", options={"level": "3", "slicecrc": "0"})
    assert index_video(str(path)).damaged_pts == ()


@pytest.mark.parametrize("lost", [1, 16, 30])
def test_lost_packets_of_a_transport_stream_are_told(tmp_path: Path, lost: int):
    path = make_video(tmp_path / "a.ts", num_frames=60, width=192, height=128)
    data = path.read_bytes()
    at = len(data) // PACKET_BYTES // 2 * PACKET_BYTES
    path.write_bytes(data[:at] + data[at + lost * PACKET_BYTES :])
    with pytest.raises(VideoError, match=r"a\.ts: damaged: 1 of its frames lack parts"):
        index_video(str(path))
    assert len(index_video(str(path), on_damage="conceal").damaged_pts) == 1
