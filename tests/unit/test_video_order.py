"""Files whose packets do not tell when frames are shown, or tell of times that go back."""

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import pytest

from sttn_ray.errors import VideoError
from sttn_ray.video.container import choose_container
from sttn_ray.video.decode import decode_range
from sttn_ray.video.index import VideoIndex, index_video
from tests.boxes import change_file, edit_list
from tests.media import frame_hash, frame_hashes, frame_times, make_video
from tests.remedies import follow, needs_ffmpeg
from tests.unit.test_video_encode_assemble import encoder_settings, reencode


def decoded(index: VideoIndex, start: int, stop: int, on_damage: str = "fail") -> list[str]:
    return [frame_hash(frame) for frame in decode_range(index, start, stop, on_damage=on_damage)]


def without_times(source: Path, path: Path, *, start: int = 0) -> Path:
    """Copy a film as if frames were shown in the order in which they are coded, from a packet on, as some tools do."""
    with av.open(str(source)) as film, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(film.streams.video[0])
        for number, packet in enumerate(film.demux(video=0)):
            if packet.size:
                packet.dts += 2048  # none is before zero, where an edit list would hide it
                packet.pts = packet.pts + 2048 if number < start else packet.dts + 4096 * (start > 0)
                packet.stream = stream
                target.mux(packet)
    return path


CODERS = {
    "libx264": {},
    "mpeg4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "open": {"open_gop": True},
    "in order": {"options": {"bf": "0"}},  # FFmpeg shows these a frame late
}


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("suffix", [".avi", ".asf"])
def test_reordered_frames_of_containers_without_their_times(tmp_path: Path, coder: str, suffix: str) -> None:
    """The n-th frame that a decoder gives is shown at n / rate."""
    path = make_video(tmp_path / f"film{suffix}", time_base=Fraction(1, 25), **CODERS[coder])
    hashes = frame_hashes(path)
    index = index_video(str(path))
    assert index.num_frames == len(hashes) == 40
    assert index.times_s() == pytest.approx([n / 25 for n in range(40)], abs=0.002)
    with av.open(str(path)) as film:  # the sound begins with the first packet
        assert index.pts[0] == next(film.demux(video=0)).dts
    for start in range(0, 40, 7):
        for on_damage in ("fail", "conceal"):
            assert decoded(index, start, start + 9, on_damage) == hashes[start : start + 9]
    assert VideoIndex.from_dict(index.as_dict()) == index
    output = reencode(path, tmp_path / "out", codec="x264-lossless")
    assert frame_hashes(output) == hashes


GAPS = {
    "skipped": [*range(10), *range(16, 30), *range(34, 50)],
    "held": [0, *range(51, 90)],
    "held soon after": [0, 1, *range(51, 89)],
    "held at last": [*range(39), 60],
    "slow": range(0, 80, 2),
}


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("suffix", [".avi", ".asf"])
def test_pictures_that_stand_between_reordered_frames(tmp_path: Path, suffix: str, coder: str, gap: str) -> None:
    """Times by the encoder that made the film, of which the file holds those of decoding alone."""
    times = list(GAPS[gap])
    path = make_video(tmp_path / f"film{suffix}", time_base=Fraction(1, 25), pts=times, **CODERS[coder])
    hashes = frame_hashes(path)
    index = index_video(str(path))
    told = -1 if gap == "held at last" else None  # the last ones are guessed
    assert index.times_s()[:told] == pytest.approx([time / 25 for time in times[:told]], abs=0.002)
    if coder == "mpeg4" and suffix == ".avi":  # as FFmpeg itself plays it
        played = frame_times(path)
        assert index.times_s()[:-1] == pytest.approx([float(time - played[0]) for time in played[:-1]])
    assert decoded(index, 8, 14) == hashes[8:14]


def test_packets_without_a_picture_are_pictures_that_stand(tmp_path: Path) -> None:
    """As encoders of Theora write them; NUT keeps them too."""
    source = make_video(tmp_path / "source.mkv", num_frames=12, codec="mpeg4", gop=6)
    path, stands = tmp_path / "film.nut", (4, 5, 9)
    with av.open(str(source)) as film, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(film.streams.video[0])
        for number, packet in enumerate(packet for packet in film.demux(video=0) if packet.size):
            copy = av.Packet(b"" if number in stands else bytes(packet))
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
            target.mux(copy)
    with av.open(str(path)) as film:
        assert [number for number, packet in enumerate(film.demux(video=0)) if not packet.size] == [*stands, 12]
    index = index_video(str(path))
    assert index.times_s() == pytest.approx([n / 25 for n in range(12) if n not in stands])
    whole = decoded(index, 0, 9)
    assert len(set(whole)) == 9
    assert decoded(index, 5, 9) == whole[5:]
    concealed: set[int] = set()
    frames = decode_range(index, 0, 9, on_damage="conceal", concealed=concealed)
    assert ([frame_hash(frame) for frame in frames], concealed) == (whole, set())
    times = frame_times(reencode(path, tmp_path / "out", cuts=(0, 3)))
    assert [float(time) for time in times] == pytest.approx(index.times_s(), abs=0.001)


def test_an_avi_keeps_its_sound_beside_reordered_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.avi", audio="libmp3lame")
    output = reencode(path, tmp_path / "out")
    assert frame_times(output) == [Fraction(n, 25) for n in range(40)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_in_coding_order_are_sorted(tmp_path: Path, suffix: str) -> None:
    """Once called damaged: decoded frames came out at times that did not rise."""
    film = make_video(tmp_path / "film.mp4")
    path = without_times(film, tmp_path / f"coded{suffix}")
    index = index_video(str(path))
    assert index.num_frames == 40
    assert index.times_s() == pytest.approx([n / 25 for n in range(40)])
    assert decoded(index, 0, 40) == frame_hashes(film)
    assert decoded(index, 17, 30) == frame_hashes(film)[17:30]


def test_times_that_do_not_rise_later_are_no_damage(tmp_path: Path) -> None:
    film = make_video(tmp_path / "film.mp4")
    path = without_times(film, tmp_path / "coded.mp4", start=24)
    index = index_video(str(path))
    with pytest.raises(VideoError, match=r"its times do not rise: frame \d+ of 40, that of .*encode it") as raised:
        decoded(index, 0, 40)
    if shutil.which("ffmpeg"):
        assert len(frame_hashes(reencode(follow(str(raised.value), path), tmp_path / "out"))) == 40


@needs_ffmpeg
def test_a_packed_bitstream(tmp_path: Path) -> None:
    """Of XviD: a packet holds two frames, the next one none."""
    source = make_video(tmp_path / "source.mkv", codec="ffv1")
    command = ["ffmpeg", "-loglevel", "error", "-i", source, "-c:v", "libxvid", "-bf", "2", "-g", "12"]
    made = subprocess.run([*command, tmp_path / "film.avi"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs an ffmpeg with XviD")
    path = tmp_path / "film.avi"
    hashes = frame_hashes(path)
    index = index_video(str(path))
    assert index.times_s() == pytest.approx([n / 25 for n in range(len(hashes))])
    assert decoded(index, 0, len(hashes)) == hashes
    assert decoded(index, 20, 31) == hashes[20:31]
    remuxed = tmp_path / "film.mkv"
    command = ["ffmpeg", "-loglevel", "error", "-fflags", "+genpts", "-i", path, "-c", "copy", remuxed]
    subprocess.run(command, check=True)
    assert frame_hashes(reencode(remuxed, tmp_path / "out", codec="x264-lossless")) == hashes


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        (".ts", {"audio": True}),
        (".mpg", {"codec": "mpeg2video", "audio": "mp2", "time_base": Fraction(1, 25)}),
        (".ts", {"rate": 50}),
    ],
)
def test_recordings_that_were_put_behind_each_other(tmp_path: Path, suffix: str, how: dict) -> None:
    first = make_video(tmp_path / f"one{suffix}", **how)
    path = tmp_path / f"both{suffix}"
    path.write_bytes(first.read_bytes() * 2)
    for on_damage in ("fail", "conceal"):
        with pytest.raises(VideoError, match=r"its times go back: stream 0 \(video \w+\) from \d") as raised:
            index_video(str(path), on_damage=on_damage)
    assert ("stream 1 (audio" in str(raised.value)) == ("audio" in how)
    if shutil.which("ffmpeg"):
        output = reencode(follow(str(raised.value), path), tmp_path / "out")
        assert len(frame_times(output)) == 80


def test_a_recording_in_two_parts_whose_times_go_on(tmp_path: Path) -> None:
    """Where they were joined a packet looks as if a part of it were lost."""
    first = make_video(tmp_path / "one.ts", audio=True)
    second = make_video(tmp_path / "two.ts", pts=[512 * n for n in range(50, 90)])
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(VideoError, match=r"lack parts.*where recordings were joined nothing is missing") as raised:
        index_video(str(path))
    if shutil.which("ffmpeg"):
        assert len(frame_times(reencode(follow(str(raised.value), path), tmp_path / "out"))) == 80


def test_films_that_were_put_behind_each_other(tmp_path: Path) -> None:
    first = make_video(tmp_path / "one.mkv", audio=True)
    path = tmp_path / "both.mkv"
    path.write_bytes(first.read_bytes() * 2)
    with pytest.raises(VideoError, match="its times go back: stream 0") as raised:
        index_video(str(path))
    (tmp_path / "LIST").write_text("file 'one.mkv'\nfile 'one.mkv'\n")
    if shutil.which("ffmpeg"):
        joined = follow(str(raised.value).replace("-i LIST", "-i IN"), tmp_path / "LIST")
        assert len(frame_times(reencode(joined, tmp_path / "out"))) == 80


def test_a_film_whose_middle_is_cut_out_by_its_edit_list(tmp_path: Path) -> None:
    """Packets of what is hidden step back in time; no frame that is shown does."""
    path = make_video(tmp_path / "film.mp4", num_frames=100, gop=50)
    wanted = frame_hashes(path)
    change_file(path, b"edts", lambda _: edit_list([(480, 1024), (1000, 1024 + 75 * 512)]))
    played = frame_times(path)
    index = index_video(str(path))
    assert index.times_s() == pytest.approx([float(time) for time in played])
    assert played == [Fraction(n, 25) for n in range(37)]
    whole = decoded(index, 0, 37)
    assert whole == wanted[:12] + wanted[75:]
    for start in range(0, 37, 5):
        assert decoded(index, start, start + 6) == whole[start : start + 6]
    assert frame_times(reencode(path, tmp_path / "out")) == played


def test_sound_whose_middle_is_cut_out_by_an_edit_list(tmp_path: Path) -> None:
    path = make_video(tmp_path / "film.mp4", num_frames=50, audio=True)
    edits = iter([[(2000, 1024)], [(512, 1024), (1000, 1024 + 48000)]])
    change_file(path, b"edts", lambda _: edit_list(next(edits)))
    with pytest.raises(VideoError, match=r"its sound \(stream 1 audio aac\) fits no container.*encode\.sound=flac"):
        reencode(path, tmp_path / "copied")
    output = reencode(path, tmp_path / "out", sound="flac")
    with av.open(str(path)) as source, av.open(str(output)) as found:
        lengths = [sum(frame.samples for frame in film.decode(audio=0)) for film in (source, found)]
    assert lengths[0] == lengths[1] == pytest.approx(1.512 * 48000, abs=1024)


def test_sound_whose_times_go_back_is_told_before_all_work(tmp_path: Path) -> None:
    """As where the sound of a recording ends behind the beginning of the next one's."""
    first = make_video(tmp_path / "one.ts", audio=True)
    second = make_video(tmp_path / "two.ts", audio=True, pts=[512 * n for n in range(40, 80)])
    path = tmp_path / "film.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    index = index_video(str(path), on_damage="conceal")
    assert index.num_frames == 80
    with pytest.raises(VideoError, match=r"film\.ts: its times go back: stream 1 \(audio aac\) from"):
        choose_container(index, encoder_settings(index))


def test_a_stream_without_any_times(tmp_path: Path) -> None:
    path = make_video(tmp_path / "raw.h264", num_frames=5)
    with pytest.raises(VideoError, match=r"no usable timestamps.*encode it anew") as raised:
        index_video(str(path))
    if shutil.which("ffmpeg"):
        assert index_video(str(follow(str(raised.value), path))).num_frames == 5
