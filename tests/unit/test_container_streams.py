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

from tests.media import SAMPLE_RATE, frame_hashes, frame_times, make_pictures, make_video, mux_together
from tests.unit.test_video_encode_assemble import reencode

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
