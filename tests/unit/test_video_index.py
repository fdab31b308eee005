import hashlib
import io
import json
import shutil
import struct
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from sttn_ray.errors import VideoError
from sttn_ray.video.index import OtherStream, VideoIndex, index_video
from tests.media import frame_times, make_damaged_copy, make_video, mux_together
from tests.remedies import follow

VARIABLE_PTS = [1000, 1010, 1500, 1502, 1503, 2000, 2900, 2901, 4000, 4100, 4101, 7000]


def remux(source: Path, target: Path, *, shift_s: Fraction = Fraction(0), matrix: list[int] | None = None) -> Path:
    """Copy a file's streams packet by packet, all times moved by `shift_s`."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        copies = {s.index: output.add_stream_from_template(s) for s in container.streams}
        if matrix is not None:
            copies[0].set_display_matrix(matrix)
        for packet in container.demux():
            if packet.size:
                packet.pts += round(shift_s / packet.time_base)
                packet.dts += round(shift_s / packet.time_base)
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
    return target


def make_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        stream.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_index_holds_what_was_written(tmp_path: Path):
    path = make_video(
        tmp_path / "a.mp4",
        num_frames=30,
        gop=10,
        audio=True,
        color=(1, 1, 1, 1),
        sample_aspect=Fraction(4, 3),
    )
    index = index_video(str(path))
    data = path.read_bytes()
    assert (index.path, index.num_bytes, index.sha256) == (
        str(path),
        len(data),
        hashlib.sha256(data).hexdigest(),
    )
    assert (index.codec, index.pix_fmt, index.width, index.height) == ("h264", "yuv420p", 96, 64)
    assert index.num_frames == 30
    assert index.time_base == Fraction(1, 12800)
    assert index.rate == 25
    assert index.pts == tuple(range(0, 30 * 512, 512))
    assert index.keyframe_pts == (0, 10 * 512, 20 * 512)
    assert index.color == (1, 1, 1, 1)
    assert index.sample_aspect == Fraction(4, 3)
    assert (index.rotation, index.displayed_size, index.display_matrix) == (0, (96, 64), None)
    priming_s = Fraction(-1024, 48000)
    assert index.others == (OtherStream(index=1, kind="audio", codec="aac", num_packets=57, start_s=priming_s),)
    assert index.frames_skipped == 0


def test_variable_frame_times_and_a_late_start_are_kept(tmp_path: Path):
    path = make_video(
        tmp_path / "vfr.mp4", num_frames=12, time_base=Fraction(1, 1000), pts=VARIABLE_PTS, options={"bf": "0"}
    )
    index = index_video(str(path))
    assert [p * index.time_base for p in index.pts] == frame_times(path)
    assert np.array_equal(np.diff(index.pts), np.diff(VARIABLE_PTS))
    assert index.pts[0] > 900
    assert index.times_s()[:3] == [0.0, 0.01, 0.5]
    assert index.times_s(1, 3) == [0.01, 0.5]
    assert index.times_s() == [float((pts - index.pts[0]) * index.time_base) for pts in index.pts]


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path):
    whole = make_video(tmp_path / "whole.mp4", num_frames=30, audio=True)
    path = remux(whole, tmp_path / "cut.mp4", shift_s=Fraction(-10, 25))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 30  # the header counts them
    index = index_video(str(path))
    assert (index.num_frames, index.frames_skipped) == (20, 0)
    assert [p * index.time_base for p in index.pts] == frame_times(path)


def test_frames_before_the_first_that_decodes_are_counted_apart(tmp_path: Path):
    whole = make_video(tmp_path / "whole.ts", num_frames=40, open_gop=True)
    data = whole.read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(data[188 * (len(data) // 188 // 5) :])
    index = index_video(str(path))
    assert index.frames_skipped > 0
    assert index.num_frames + index.frames_skipped < 40
    assert [p * index.time_base for p in index.pts] == frame_times(path)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
def test_a_damaged_beginning_is_no_cut_one(tmp_path: Path, codec: str):
    whole = make_video(tmp_path / "whole.mp4", num_frames=40, codec=codec)
    with av.open(str(whole)) as container:
        packet = next(container.demux(container.streams.video[0]))
        assert packet.pos is not None
        size = whole.stat().st_size
        share = {"start": packet.pos / size, "stop": (packet.pos + packet.size) / size}
    path = str(make_damaged_copy(whole, tmp_path / "damaged.mp4", **share))
    with pytest.raises(VideoError, match=r"damaged\.mp4: damaged: its first frame cannot be decoded"):
        index_video(path)
    index = index_video(path, on_damage="conceal")
    assert (index.frames_skipped, index.pts) == (0, index_video(str(whole)).pts)


def test_a_cut_beginning_is_no_damage(tmp_path: Path):
    whole = make_video(tmp_path / "whole.ts", num_frames=40, open_gop=True)
    data = whole.read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(data[188 * (len(data) // 188 // 5) :])
    assert index_video(str(path), on_damage="conceal") == index_video(str(path))


@pytest.mark.parametrize(("rotation", "displayed"), [(90, (64, 96)), (180, (96, 64)), (270, (64, 96))])
def test_rotation_turns_the_displayed_size(tmp_path: Path, rotation: int, displayed: tuple[int, int]):
    index = index_video(str(make_video(tmp_path / "turned.mp4", num_frames=3, rotation=rotation)))
    assert index.rotation == rotation
    assert (index.width, index.height) == (96, 64)
    assert index.displayed_size == displayed
    assert index.display_matrix is not None
    assert len(index.display_matrix) == 9


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_index_survives_json(tmp_path: Path, suffix: str):
    path = make_video(tmp_path / f"a{suffix}", num_frames=14, audio=True, rotation=90 if suffix == ".mp4" else 0)
    index = index_video(str(path))
    again = VideoIndex.from_dict(json.loads(json.dumps(index.as_dict())))
    assert again == index
    assert {name: type(value) for name, value in asdict(again).items()} == {
        name: type(value) for name, value in asdict(index).items()
    }


def test_content_decides_not_the_extension(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", num_frames=5).rename(tmp_path / "a.mkv")
    index = index_video(str(path))
    assert index.num_frames == 5
    assert "mp4" in index.format


def test_one_changed_byte_is_another_video(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", num_frames=5, metadata={"title": "first"})
    before = index_video(str(path))
    path.write_bytes(path.read_bytes().replace(b"first", b"later"))
    after = index_video(str(path))
    assert after.pts == before.pts
    assert after.sha256 != before.sha256


def test_missing_file(tmp_path: Path):
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        index_video(str(tmp_path / "none.mp4"))


def test_empty_file(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty\.mp4: the file is empty \(0 bytes\)"):
        index_video(str(tmp_path / "empty.mp4"))


def test_text_with_a_videos_extension(tmp_path: Path):
    (tmp_path / "notes.mp4").write_text("not a video\n" * 100)
    with pytest.raises(VideoError, match=r"notes\.mp4: cannot be read as a video"):
        index_video(str(tmp_path / "notes.mp4"))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "img%03d.jpg", "jpeg.mp4"])
def test_a_still_image_is_no_video(tmp_path: Path, name: str):
    for place in (tmp_path / name, tmp_path / "img001.jpg"):
        Image.new("RGB", (64, 48)).save(place, "jpeg" if place.suffix == ".mp4" else None)
    with pytest.raises(VideoError, match="a picture"):
        index_video(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.m3u8", "playlist.mp4", "concat.mp4"])
def test_a_list_of_other_files_is_no_video(tmp_path: Path, name: str):
    film = make_video(tmp_path / "film.ts", num_frames=10)
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film}\n"  # without an end: it would be waited for
    (tmp_path / name).write_text("ffconcat version 1.0\nfile film.ts\n" if name == "concat.mp4" else text)
    with pytest.raises(VideoError, match="cannot be read as a video"):
        index_video(str(tmp_path / name))


def test_frames_with_data_that_nobody_reads(tmp_path: Path):
    """PyAV knows no EXIF, and gives nothing else then: also not how the picture is turned."""
    picture, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(picture, "jpeg", exif=exif)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        packet = av.Packet(picture.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 1000)
        packet.is_keyframe = True
        container.mux(packet)
    with pytest.raises(VideoError, match=r"a\.mkv: its frames carry data of a kind that is not read here") as raised:
        index_video(str(tmp_path / "a.mkv"))
    if shutil.which("ffmpeg"):
        assert index_video(str(follow(str(raised.value), tmp_path / "a.mkv"))).num_frames == 1


def test_a_pixel_format_that_is_not_read_names_the_video(tmp_path: Path):
    index = index_video(str(make_video(tmp_path / "a.mkv", num_frames=2)))
    with pytest.raises(VideoError, match=r"a\.mkv: .*xyz12le"):
        replace(index, pix_fmt="xyz12le").color_format()


def test_mp4_without_its_end(tmp_path: Path):
    for name, share in (("a.mp4", 0.5), ("a.mov", 0.1), ("b.mp4", 0.9)):
        path = make_video(tmp_path / name, num_frames=10)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(VideoError, match=r"cannot be read as a video .*; its header, moov, is missing"):
            index_video(str(path))


def test_sound_alone(tmp_path: Path):
    with pytest.raises(VideoError, match="no video stream; its streams: audio"):
        index_video(str(make_sound(tmp_path / "sound.mp4")))


def test_interlaced(tmp_path: Path):
    path = make_video(tmp_path / "tv.mp4", num_frames=5, options={"x264-params": "interlaced=1"})
    with pytest.raises(VideoError, match=r"is interlaced.*deinterlace it first"):
        index_video(str(path))


def test_transparent(tmp_path: Path):
    path = make_video(tmp_path / "logo.webm", num_frames=3, codec="libvpx-vp9", pix_fmt="yuva420p")
    with pytest.raises(VideoError, match="transparency"):
        index_video(str(path))


def test_turned_by_no_right_angle(tmp_path: Path):
    whole = make_video(tmp_path / "whole.mp4", num_frames=3)
    path = remux(whole, tmp_path / "slanted.mp4", matrix=[46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30])
    with pytest.raises(VideoError, match=r"turned by -?\d+ degrees, which is no right angle") as raised:
        index_video(str(path))
    if shutil.which("ffmpeg"):
        assert index_video(str(follow(str(raised.value), path))).num_frames == 3


def test_a_display_matrix_of_nothing(tmp_path: Path):
    whole = make_video(tmp_path / "whole.mp4", num_frames=3)
    path = remux(whole, tmp_path / "nothing.mp4", matrix=[0, 0, 0, 0, 0, 0, 0, 0, 1 << 30])
    with pytest.raises(VideoError, match="its display matrix leaves nothing of the picture") as raised:
        index_video(str(path))
    assert "degrees" not in str(raised.value)
    if shutil.which("ffmpeg"):
        assert index_video(str(follow(str(raised.value), path))).num_frames == 3


@pytest.mark.parametrize("count", [2_000_000, 60_000_000, 10**9])
def test_a_table_that_claims_more_than_the_file_holds(tmp_path: Path, count: int):
    path = make_video(tmp_path / "a.mp4", num_frames=5)
    data = bytearray(path.read_bytes())
    for box, place, values in ((b"stsz", 8, (1, count)), (b"stsc", 16, (count,)), (b"stts", 12, (count,))):
        struct.pack_into(f">{len(values)}I", data, data.index(box) + place, *values)
    path.write_bytes(data)
    with pytest.raises(
        VideoError, match=rf"a\.mp4: claims {count} samples of {count} bytes, and has {len(data)} bytes"
    ):
        index_video(str(path))


def test_samples_of_one_size_are_no_lie(tmp_path: Path):
    path = make_video(tmp_path / "a.mov", num_frames=25, audio="pcm_s16le", codec="rawvideo", pix_fmt="uyvy422")
    data = path.read_bytes()
    sizes = [struct.unpack_from(">II", data, at + 8) for at in (data.find(b"stsz"), data.rfind(b"stsz"))]
    assert sizes[0] == (96 * 64 * 2, 25)
    assert sizes[1][0] == 2  # a sample of sound
    assert index_video(str(path)).num_frames == 25


def test_a_stream_that_begins_after_megabytes_is_named_and_the_advice_works(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    source = make_video(
        tmp_path / "source.mp4",
        num_frames=70,
        width=320,
        height=240,
        audio=True,
        options={"crf": "1", "preset": "ultrafast"},
        picture=lambda _: noise.random((240, 320, 3)),
    )
    data = mux_together(tmp_path / "whole.flv", source).read_bytes()
    late, at = data[:4] + b"\1" + data[5:13], 13  # a header that tells of video alone, and sound from 2.5 s on
    while at < len(data):
        end = at + 15 + int.from_bytes(data[at + 1 : at + 4], "big")
        tag, time_ms = data[at:end], int.from_bytes(data[at + 4 : at + 7], "big")
        if tag[0] != 8:
            late += tag
        elif tag[12] == 0:  # what the decoder needs, which comes first
            setup = tag[:4] + (2500).to_bytes(3, "big") + tag[7:]
        elif time_ms >= 2500:
            late, setup = late + setup + tag, b""
        at = end
    (tmp_path / "late.flv").write_bytes(late)
    with pytest.raises(VideoError, match=r"begins late.*ffmpeg -analyzeduration 2G -probesize 2G -i IN -map 0 -c copy"):
        index_video(str(tmp_path / "late.flv"))
    options = {"analyzeduration": "2000000000", "probesize": "2000000000"}
    with av.open(tmp_path / "late.flv", options=options) as found, av.open(tmp_path / "out.mkv", "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in found.streams}
        for packet in found.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    index = index_video(str(tmp_path / "out.mkv"))
    assert (index.num_frames, [other.kind for other in index.others]) == (70, ["audio"])
