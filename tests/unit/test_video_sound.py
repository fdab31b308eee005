"""Sound that no container takes as it is."""

from collections.abc import Callable
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
from sttn_ray.errors import VideoError
from sttn_ray.video.container import choose_container
from sttn_ray.video.index import index_video
from sttn_ray.video.source import open_video
from tests.media import audio_packet_hash, frame_times, make_video
from tests.plans import SETTINGS
from tests.unit.test_video_encode_assemble import encoder_settings, reencode


def make_spoken(path: Path, sound: str, *, rate: int = 44100, **how: Any) -> Path:
    """A film with a second of noise as its sound."""
    base = Fraction(1, 25 if path.suffix == ".avi" else 1000)
    silent = make_video(path.with_name(f"silent-{path.name}"), num_frames=25, **{"time_base": base} | how)
    with av.open(str(silent)) as film, av.open(str(path), "w") as target:
        video = target.add_stream_from_template(film.streams.video[0])
        track = target.add_stream(sound, rate=rate, layout="mono")
        track.codec_context.bit_rate = 128_000
        target.start_encoding()
        for packet in [packet for packet in film.demux() if packet.size]:
            packet.stream = video
            target.mux(packet)
        noise = np.random.default_rng(0).integers(-9000, 9000, (1, rate)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        for packet in [*track.encode(frame), *track.encode(None)]:
            target.mux(packet)
    return path


def heard(path: Path) -> tuple[Fraction, NDArray[np.int64]]:
    """When the sound begins, and its samples as 24 bits."""
    with open_video(str(path)) as container:
        frames = list(container.decode(audio=0))
    resampler = av.AudioResampler(format="s32", layout="mono", rate=frames[0].sample_rate)
    start_s = frames[0].pts * frames[0].time_base
    for frame in frames:
        frame.pts = None
    parts = [part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)]
    return start_s, np.concatenate(parts).astype(np.int64) >> 8


@pytest.mark.parametrize("name", ["a.mov", "a.avi"])
def test_sound_that_quicktime_alone_holds(tmp_path: Path, name: str) -> None:
    source = make_spoken(tmp_path / name, "pcm_mulaw", rate=8000)
    output = reencode(source, tmp_path / "out", cuts=(0, 12))
    assert output.suffix == ".mov"
    assert audio_packet_hash(output) == audio_packet_hash(source)


UNCOPIED = [
    ("a.avi", "adpcm_ima_wav", {}),
    ("a.avi", "adpcm_ms", {}),
    ("a.wmv", "wmav2", {"codec": "wmv2"}),
    ("a.asf", "wmav2", {}),  # H.264 with reordered frames
]


@pytest.mark.parametrize(("name", "codec", "how"), UNCOPIED)
def test_sound_is_converted_where_it_is_asked_for(tmp_path: Path, name: str, codec: str, how: dict) -> None:
    source = make_spoken(tmp_path / name, codec, **how)
    index = index_video(str(source))
    with pytest.raises(VideoError, match=rf"its sound \(stream 1 audio {codec}\) fits no .*; encode\.sound=flac conv"):
        choose_container(index, encoder_settings(index))
    output = reencode(source, tmp_path / "out", cuts=(0, 12), sound="flac")
    assert output.suffix == ".mp4"
    assert index_video(str(output)).others[0].codec == "flac"
    (start_s, samples), (after_s, kept) = heard(source), heard(output)
    np.testing.assert_array_equal(kept, samples)
    assert abs(after_s - start_s) <= Fraction(1, 44100)
    assert len(frame_times(output)) == 25


def test_sound_that_nobody_can_decode_is_told_as_that(tmp_path: Path) -> None:
    """Advice to convert it would lead in a circle."""
    untold = make_spoken(tmp_path / "a.nut", "g726", rate=8000)
    unknown = make_spoken(tmp_path / "b.avi", "adpcm_ms")
    data = bytearray(unknown.read_bytes())
    tag = data.rindex(b"strf") + 8
    data[tag : tag + 2] = b"\x77\x77"
    unknown.write_bytes(data)
    reasons = {
        untold: "stream 1 audio g726: its header does not tell its channels or its sample rate",
        unknown: "stream 1 audio unknown: FFmpeg has no decoder for it",
    }
    for path, reason in reasons.items():
        index = index_video(str(path))
        for sound in ("copy", "flac"):
            with pytest.raises(VideoError) as raised:
                choose_container(index, encoder_settings(index), sound=sound)
            assert str(raised.value) == (
                f"{path}: its sound fits no container that is written here, and cannot be converted: {reason}; convert "
                "it, or leave it out, before (ffmpeg -i IN -map 0 -map -0:a -c copy OUT)"
            )


def test_converted_sound_is_told_and_other_sound_is_copied(tmp_path: Path) -> None:
    source = make_spoken(tmp_path / "a.avi", "adpcm_ms")
    item = Item(video=str(source), mask=None, boxes="1,2,3,4", output="a")
    plan = plan_video(item, replace(SETTINGS, sound="flac"))
    assert plan.notes == ("no container takes its sound; converted to FLAC: 1 audio adpcm_ms",)
    plain = make_video(tmp_path / "b.mp4", num_frames=5, audio=True)
    index = index_video(str(plain))
    assert choose_container(index, encoder_settings(index), sound="flac").converted == ()


def test_a_gap_in_converted_sound_is_silence(tmp_path: Path) -> None:
    source = make_spoken(tmp_path / "whole.wmv", "wmav2", codec="wmv2")
    path = with_sound_at(source, tmp_path / "a.wmv", lambda pts: pts + 2000 * (pts > 500))
    output = reencode(path, tmp_path / "out", cuts=(0, 12), sound="flac")
    (_, samples), (_, kept) = heard(path), heard(output)
    assert abs(len(kept) - len(samples) - 2 * 44100) < 4000
    assert (np.abs(kept) == 0).sum() >= 2 * 44100 - 4000


def test_converted_sound_whose_times_pass_too_slowly_stays_with_its_pictures(tmp_path: Path) -> None:
    source = make_spoken(tmp_path / "whole.wmv", "wmav2", codec="wmv2")
    path = with_sound_at(source, tmp_path / "a.wmv", lambda pts: pts * 2 // 3)
    output = reencode(path, tmp_path / "out", cuts=(0, 12), sound="flac")
    (_, samples), (_, kept) = heard(path), heard(output)
    assert abs(len(kept) - len(samples) * 2 / 3) < 0.15 * 44100
    np.testing.assert_array_equal(kept[-500:], samples[-500:])


def with_sound_at(source: Path, path: Path, when: Callable[[int], int]) -> Path:
    """A copy of a film whose sound's packets have other times, in ticks."""
    with av.open(str(source)) as whole, av.open(str(path), "w") as target:
        streams = [target.add_stream_from_template(stream) for stream in whole.streams]
        for packet in whole.demux():
            if packet.size:
                if packet.stream_index == 1:
                    packet.pts = packet.dts = when(packet.pts)
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    return path


def test_all_that_speaks_against_a_file_is_told_at_once(tmp_path: Path) -> None:
    fields = make_spoken(tmp_path / "b.avi", "adpcm_ms", options={"x264-params": "interlaced=1:bframes=0"})
    item = Item(video=str(fields), mask=None, boxes="1,2,3,4", output="a")
    with pytest.raises(VideoError) as raised:
        plan_video(item, SETTINGS)
    assert all(word in str(raised.value) for word in ("is interlaced", "adpcm_ms", "encode.sound=flac"))
    assert str(raised.value).count("b.avi") == 1
