"""What a file holds beside its pictures: other streams, what these are for, and frames that it hides."""

import io
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import plan_video
from sttn_ray.video.container import choose_container
from sttn_ray.video.copied import _units_by_length, _units_by_start_code, source_packets
from sttn_ray.video.index import index_video
from tests.media import (
    SAMPLE_RATE,
    audio_packet_hash,
    frame_hashes,
    frame_times,
    make_pictures,
    make_video,
    mux_together,
)
from tests.plans import SETTINGS
from tests.unit.test_video_encode_assemble import encoder_settings, reencode, sound_times

ATTACHMENTS = [("letters.ttf", "font/ttf", bytes(range(256)) * 40), ("notes.txt", "text/plain", b"to whom it concerns")]


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(make_pictures(1, width=48, height=32)[0]).save(file, "JPEG")
    return file.getvalue()


COVER = ("front.jpg", "image/jpeg", jpeg())
# Language and disposition of the streams of `make_spoken`.
PURPOSES = [
    ("eng", Disposition.default),
    ("eng", Disposition.default | Disposition.original),
    ("deu", Disposition.dub),
    ("fra", Disposition.hearing_impaired),
    ("deu", Disposition.forced),
    ("fra", Disposition.default | Disposition.hearing_impaired),
]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("films") / "film.mp4", num_frames=30, audio=True)


def remux(
    source: Path,
    path: Path,
    *,
    attachments: Sequence[tuple[str, str, bytes]] = (),
    cover: bytes | None = None,
    earlier_s: Fraction = Fraction(0),
) -> Path:
    """Copy a file's streams, with some more of them, or to earlier times: what comes before zero is hidden in mp4."""
    with av.open(str(source)) as pictures, av.open(str(path), "w") as container:
        copies = [container.add_stream_from_template(stream) for stream in pictures.streams]
        for attachment in attachments:
            container.add_attachment(*attachment)
        if cover is not None:
            picture = container.add_stream("mjpeg", width=48, height=32, pix_fmt="yuvj420p")
            picture.disposition = Disposition.attached_pic
            container.start_encoding()
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts, packet.time_base = picture, 0, 0, Fraction(1, 25)
            container.mux(packet)
        for packet in pictures.demux():
            if packet.size:
                packet.pts -= round(earlier_s / packet.time_base)
                packet.dts -= round(earlier_s / packet.time_base)
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
    return path


def test_attachments_are_copied(tmp_path: Path, film: Path) -> None:
    source = remux(film, tmp_path / "film.mkv", attachments=ATTACHMENTS)
    output = reencode(source, tmp_path / "out")
    assert output.suffix == ".mkv"
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio", "attachment", "attachment"]
        found = [(stream.name, stream.mimetype, bytes(stream.data)) for stream in container.streams.attachments]
    assert found == ATTACHMENTS


def covers(path: Path) -> list[tuple[int, bytes]]:
    """Numbers and pictures of the streams that are cover pictures."""
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams.video if stream.disposition & Disposition.attached_pic]
        return [(p.stream_index, bytes(p)) for p in container.demux(streams) if p.size] if streams else []


def test_a_cover_picture_stays_one(tmp_path: Path, film: Path) -> None:
    source = remux(film, tmp_path / "film.mp4", cover=COVER[2])
    assert covers(source) == [(2, COVER[2])]
    output = reencode(source, tmp_path / "out")
    assert output.suffix == ".mp4"
    assert covers(output) == [(2, COVER[2])]
    assert len(frame_times(output)) == 30


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
@pytest.mark.parametrize("is_first", [True, False])
def test_players_show_the_completed_film(tmp_path: Path, film: Path, suffix: str, codec: str, is_first: bool) -> None:
    """Both films of a file say that they are the one to show."""
    large = make_video(tmp_path / "large.mp4", num_frames=30, width=192, height=128)
    source = mux_together(tmp_path / f"two{suffix}", *([large, film] if is_first else [film, large]), shown=None)

    def films(path: Path) -> tuple[int, list[int], list[bool]]:
        """The place of the one that players show, widths, and which of them say that they are shown."""
        with av.open(str(path)) as container:
            streams = list(container.streams.video)
            best = container.streams.best("video")
            widths = [stream.codec_context.width for stream in streams]
            return streams.index(best), widths, [bool(s.disposition & Disposition.default) for s in streams]

    best, widths, are_shown = films(source)
    assert are_shown == [True, True]
    wanted = [widths[best], widths[1 - best]]
    assert films(reencode(source, tmp_path / "out", codec=codec)) == (0, wanted, [True, False])


def make_spoken(path: Path, film: Path) -> Path:
    """A film with three sounds and two subtitles, each for somebody else, though all say the same."""
    subtitles = path.with_suffix(".srt")
    subtitles.write_text("1\n00:00:00,100 --> 00:00:00,900\nHello\n\n")
    with av.open(str(film)) as pictures, av.open(str(subtitles)) as words, av.open(str(path), "w") as container:
        templates = [pictures.streams[n] for n in (0, 1, 1, 1)] + [words.streams[0]] * 2
        copies = [container.add_stream_from_template(template) for template in templates]
        for stream, (language, disposition) in zip(copies, PURPOSES, strict=True):
            stream.metadata.update(language=language, title=f"{stream.type} in {language}")
            stream.disposition = disposition
        for packet in [*words.demux(), *pictures.demux()]:
            for template, stream in zip(templates, copies, strict=True):
                if packet.size and packet.stream is template:
                    copy = av.Packet(bytes(packet))
                    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                    copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
                    container.mux(copy)
    return path


def purposes(path: Path) -> list[tuple[str, str, Disposition]]:
    with av.open(str(path)) as container:
        return [(s.metadata["title"], s.metadata["language"], Disposition(s.disposition)) for s in container.streams]


def test_what_streams_are_for_is_kept(tmp_path: Path, film: Path) -> None:
    source = make_spoken(tmp_path / "film.mkv", film)
    before = purposes(source)
    assert [(language, disposition) for _, language, disposition in before] == PURPOSES
    output = reencode(source, tmp_path / "out")
    assert output.suffix == ".mkv"
    assert purposes(output) == before


def sound(path: Path) -> tuple[Fraction, NDArray[np.float32]]:
    """When the sound begins, in seconds, and all its samples."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    gaps = {b.pts - a.pts - a.samples for a, b in pairwise(frames)}
    assert gaps == {0}
    return frames[0].pts * frames[0].time_base, np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.mark.parametrize("num_hidden", [8, 12])  # from within a group of pictures, and from its first one
def test_what_an_edit_list_hides_stays_hidden(tmp_path: Path, film: Path, num_hidden: int) -> None:
    source = remux(film, tmp_path / "cut.mp4", earlier_s=Fraction(num_hidden, 25))
    assert source.read_bytes().count(b"elst") == 2
    output = reencode(source, tmp_path / "out", codec="x264-lossless", cuts=(0, 11, 12))
    assert frame_times(output) == [Fraction(n, 25) for n in range(30 - num_hidden)]
    assert frame_hashes(output) == frame_hashes(film)[num_hidden:]
    (start, samples), (_, all_samples) = sound(output), sound(film)
    assert start == 0
    # By its phase, 440 Hz; the decoder needs two packets to come to the same numbers.
    first = num_hidden * SAMPLE_RATE // 25
    np.testing.assert_allclose(samples[2048:], all_samples[first + 2048 :], atol=1e-6)


@pytest.mark.parametrize("attachments", [[COVER], [COVER, ATTACHMENTS[0]], [ATTACHMENTS[0], COVER]])
def test_a_cover_picture_of_matroska_stays_one(
    tmp_path: Path, film: Path, attachments: list[tuple[str, str, bytes]]
) -> None:
    source = remux(film, tmp_path / "film.mkv", attachments=attachments)
    output = reencode(source, tmp_path / "out")
    assert [data for _, data in covers(output)] == [COVER[2]]
    with av.open(str(output)) as container:
        tags = [
            {name.lower(): value for name, value in stream.metadata.items()} for stream in list(container.streams)[2:]
        ]
    assert [(told["filename"], told["mimetype"]) for told in tags] == [a[:2] for a in attachments]


@pytest.mark.parametrize(("audio", "packets"), [("pcm_s16le", 1), (True, 2)])
def test_what_an_edit_list_hides_stays_hidden_in_matroska(tmp_path: Path, audio: bool | str, packets: int) -> None:
    """But for the packet in which what is heard begins, and the one before it that AAC's decoder needs."""
    whole = make_video(tmp_path / "whole.mov", num_frames=60, audio=audio)
    source = remux(whole, tmp_path / "cut.mov", earlier_s=Fraction(20, 25))
    output = reencode(source, tmp_path / "out", codec="ffv1")
    assert frame_times(output)[0] == 0
    with av.open(str(output)) as container:
        first = next(container.decode(audio=0))
        assert -packets * 1024 / SAMPLE_RATE < first.pts * first.time_base <= 0


LATE_SOUNDS = [
    ("a.mp4", 25, "aac", 44100, "0.4"),
    ("a.mp4", Fraction(30000, 1001), "aac", 48000, "0.0333"),
    ("a.mp4", Fraction(24000, 1001), "ac3", 44100, "1.2345678"),
    ("a.m4v", 25, "aac", 22050, "0.123"),
    ("a.mov", 30, "pcm_s16le", 44100, "0.777"),
    ("a.mov", 25, "alac", 44100, "0.01"),
    ("a.mp4", 90, "libmp3lame", 24000, "2.01"),
    ("a.mp4", 25, "aac", 44100, "-0.2"),
]


@pytest.mark.parametrize(("name", "rate", "codec", "samples", "delay"), LATE_SOUNDS)
def test_sound_that_begins_later_than_the_picture(
    tmp_path: Path, name: str, rate: int, codec: str, samples: int, delay: str
) -> None:
    silent = make_video(tmp_path / f"silent-{name}", num_frames=12, rate=rate)
    source = tmp_path / name
    with av.open(str(silent)) as film, av.open(str(source), "w", options={"movie_timescale": "1000000"}) as target:
        video = target.add_stream_from_template(film.streams.video[0])
        track = target.add_stream(codec, rate=samples, layout="mono")
        target.start_encoding()
        for packet in [packet for packet in film.demux() if packet.size]:
            packet.stream = video
            target.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = samples, Fraction(1, samples), round(Fraction(delay) * samples)
        for packet in [*track.encode(frame), *track.encode(None)]:
            target.mux(packet)
    output = reencode(source, tmp_path / "out", cuts=(0, 5))
    assert output.suffix == source.suffix
    before, after = sound_times(source), sound_times(output)
    assert after == before
    assert frame_times(output) == frame_times(source)


def test_sound_that_begins_before_zero_is_kept_to_its_end(tmp_path: Path) -> None:
    """In ticks of a film of 25 a second what is heard would end before the last packet."""
    even = make_video(tmp_path / "even.mp4", num_frames=22, time_base=Fraction(1, 25), audio=True)
    source = tmp_path / "a.mp4"
    options = {"video_track_timescale": "25", "movie_timescale": str(SAMPLE_RATE)}
    with av.open(str(even)) as film, av.open(str(source), "w", options=options) as target:
        copies = [target.add_stream_from_template(stream) for stream in film.streams]
        for packet in [packet for packet in film.demux() if packet.size]:
            if packet.stream.type == "audio":
                packet.pts = packet.dts = packet.pts - 1184
            packet.stream = copies[packet.stream_index]
            target.mux(packet)
    output = reencode(source, tmp_path / "out", cuts=(0, 5))
    assert output.suffix == ".mp4"
    assert sound_times(output) == sound_times(source)


def test_a_start_that_no_timescale_holds_is_as_near_as_can_be(tmp_path: Path, film: Path) -> None:
    """Film in nanoseconds, sound at 44.1 kHz: their ticks have no common measure that mp4 holds."""
    pts = [10**9 + 40_000_000 * n for n in range(12)]
    slow = make_video(tmp_path / "film.mp4", num_frames=12, time_base=Fraction(1, 10**9), pts=pts, options={"bf": "0"})
    index = index_video(str(mux_together(tmp_path / "a.mp4", slow, film)))
    assert index.pts[0] * index.time_base == 1
    output = reencode(Path(index.path), tmp_path / "out", cuts=(0, 5))
    assert frame_times(output) == frame_times(Path(index.path))


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mkv"])
@pytest.mark.parametrize("num_chapters", [1, 3])
def test_chapters_and_a_cover_together(tmp_path: Path, film: Path, suffix: str, num_chapters: int) -> None:
    """MP4 keeps chapters as a track, too, which is read back before the cover."""
    covered = remux(film, tmp_path / "covered.mp4", cover=COVER[2])
    source = tmp_path / f"film{suffix}"
    parts = [(400 * n, 400 * (n + 1), f"part {n}") for n in range(num_chapters)]
    muxer = "matroska" if suffix == ".mkv" else "mp4"
    with av.open(str(covered)) as pictures, av.open(str(source), "w", format=muxer) as container:
        kept = list(pictures.streams)[: 2 if suffix == ".mkv" else 3]
        copies = {stream.index: container.add_stream_from_template(stream) for stream in kept}
        if suffix == ".mkv":
            container.add_attachment(*COVER)
        else:
            copies[2].disposition = Disposition.attached_pic
        container.set_chapters(
            [
                {"id": n, "start": start, "end": stop, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                for n, (start, stop, title) in enumerate(parts)
            ]
        )
        for packet in pictures.demux(kept):
            if packet.size:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
    output = reencode(source, tmp_path / "out")
    assert output.suffix == suffix
    assert [data for _, data in covers(output)] == [COVER[2]]
    assert chapters(output) == chapters(source) == [(start, title) for start, _, title in parts]
    plan = plan_video(Item(video=str(source), mask=None, boxes="1,2,3,4", output="a"), SETTINGS)
    assert not any("hold nothing" in note for note in plan.notes)


def chapters(path: Path) -> list[tuple[int, str]]:
    with av.open(str(path)) as container:
        found = container.chapters()
    return [(round(c["start"] * c["time_base"] * 1000), c["metadata"]["title"]) for c in found]


def with_empty_track(path: Path, film: Path, kind: str) -> Path:
    """A film that declares a track which holds nothing, as fragmented mp4 does of a microphone that was off."""
    fragments = {"movflags": "frag_keyframe+empty_moov+delay_moov"} if path.suffix == ".mp4" else {}
    with av.open(str(film)) as pictures, av.open(str(path), "w", options=fragments) as container:
        empty_film = None
        if kind == "film before":
            empty_film = container.add_stream("libx264", rate=25)
        copies = [container.add_stream_from_template(stream) for stream in pictures.streams]
        if kind == "sound":
            container.add_stream("aac", rate=48000, layout="stereo")
        elif kind == "film behind":
            empty_film = container.add_stream("libx264", rate=25)
        if empty_film is not None:
            empty_film.width, empty_film.height, empty_film.pix_fmt = 192, 128, "yuv420p"
        container.start_encoding()
        for packet in pictures.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                container.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("kind", ["sound", "film before", "film behind"])
def test_a_track_that_holds_nothing_is_left_out(tmp_path: Path, film: Path, suffix: str, kind: str) -> None:
    source = with_empty_track(tmp_path / f"film{suffix}", film, kind)
    index = index_video(str(source))
    if suffix == ".mkv" or kind != "film behind":
        assert [stream.is_empty for stream in index.others].count(True) == 1
    plan = plan_video(Item(video=str(source), mask=None, boxes="1,2,3,4", output="a"), SETTINGS)
    noted = [note for note in plan.notes if note.startswith("left out, since they hold nothing: ")]
    assert len(noted) == [stream.is_empty for stream in index.others].count(True)
    output = reencode(source, tmp_path / "out")
    assert output.suffix == suffix
    with av.open(str(output)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    assert len(frame_times(output)) == 30


def test_what_a_container_loses_is_known_before_all_work(tmp_path: Path, film: Path) -> None:
    """QuickTime of this muxer has no covers: the output is Matroska."""
    covered = remux(film, tmp_path / "film.mp4", cover=COVER[2])
    source = covered.rename(tmp_path / "film.mov")
    index = index_video(str(source))
    assert choose_container(index, encoder_settings(index)).suffix == ".mkv"
    output = reencode(source, tmp_path / "out")
    assert [data for _, data in covers(output)] == [COVER[2]]


def test_a_stream_that_begins_late_is_tried_too(tmp_path: Path, film: Path) -> None:
    words = tmp_path / "words.srt"
    words.write_text("1\n00:01:30,000 --> 00:01:31,000\nLate\n\n")
    long = make_video(tmp_path / "long.mp4", num_frames=2500, width=32, height=32, options={"preset": "ultrafast"})
    source = mux_together(tmp_path / "film.mkv", long, words)
    with av.open(str(source)) as container:
        (packet,) = source_packets(container, [1], "mp4", {1: Fraction(90)})
        assert bytes(packet) == b"Late"
    index = index_video(str(source))
    assert [stream.start_s for stream in index.others] == [90]
    assert choose_container(index, encoder_settings(index)).copied == (1,)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_another_film_of_a_transport_stream_is_copied(tmp_path: Path, film: Path, codec: str) -> None:
    """There its units begin with start codes, in mp4 with their lengths."""
    # x265 4.2 writes beyond its memory where pictures are narrower than 64.
    other = make_video(tmp_path / "other.mp4", num_frames=30, codec=codec, width=64, height=48)
    source = mux_together(tmp_path / "both.ts", film, other)
    output = reencode(source, tmp_path / "out", codec="x264-lossless")
    assert output.suffix == ".mp4"
    with av.open(str(output)) as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "video", "video"]
        kept = [frame.to_ndarray() for frame in container.decode(video=1)]
    with av.open(str(other)) as container:
        np.testing.assert_array_equal(kept, [frame.to_ndarray() for frame in container.decode(video=0)])


def test_a_packet_too_short_to_be_a_frame_is_copied_as_it_is(tmp_path: Path) -> None:
    whole, source = make_video(tmp_path / "whole.mkv", num_frames=12, audio=True), tmp_path / "a.mkv"
    with av.open(str(whole)) as film, av.open(str(source), "w") as target:
        copies = [target.add_stream_from_template(stream) for stream in film.streams]
        for number, packet in enumerate(packet for packet in film.demux() if packet.size):
            short = av.Packet(b"\xff")
            short.pts, short.dts, short.time_base = packet.pts, packet.dts, packet.time_base
            copy = short if packet.stream.type == "audio" and number > 9 else packet
            copy.stream = copies[packet.stream_index]
            target.mux(copy)
    output = reencode(source, tmp_path / "out", cuts=(0, 5))
    assert audio_packet_hash(output) == audio_packet_hash(source) != audio_packet_hash(whole)


def test_units_are_told_apart_by_lengths_of_any_size_and_by_start_codes() -> None:
    units = [b"\x65one", b"\x41second"]
    for size in (1, 2, 4):
        data = b"".join(len(unit).to_bytes(size, "big") + unit for unit in units)
        assert list(_units_by_length(data, size)) == units
    assert list(_units_by_start_code(b"\0\0\0\1" + units[0] + b"\0\0\1" + units[1])) == units
