"""The output's tracks beside its film: what of the source's streams goes to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
from av.stream import Disposition

from sttn_ray.errors import VideoError
from sttn_ray.video.copied import copy_stream_tags
from sttn_ray.video.sound import Sound, conversion_fault
from sttn_ray.video.source import open_video

_IMAGE_TYPES = {"mjpeg": ("image/jpeg", "jpg"), "png": ("image/png", "png"), "gif": ("image/gif", "gif")}


@dataclass(frozen=True)
class Track:
    """A track of the output, and what converts its sound, if that is not copied."""

    stream: av.stream.Stream
    sound: Sound | None = None

    def encode(self, packet: av.Packet | None) -> Iterator[av.Packet]:
        """The output's packets for the source's next one; None: those that are left."""
        if self.sound is not None:
            yield from self.sound.encode(packet)
        elif packet is not None:
            yield packet


def add_tracks(
    output: av.container.OutputContainer,
    muxer: str,
    source: av.container.InputContainer,
    path: str,
    streams: Sequence[int],
    converted: Sequence[int],
) -> dict[int, Track]:
    """Make the output's tracks for the source's streams; returns those that packets go to, by number in the source.

    Args:
        output: the file that is written, with its film.
        muxer: FFmpeg's name of its container.
        source: the file that is read.
        path: of it.
        streams: numbers of what goes to the output.
        converted: of what is converted, of those.

    Raises:
        VideoError: sound that is to be converted cannot be decoded.
    """
    tracks: dict[int, Track] = {}
    for number in streams:
        stream = source.streams[number]
        if number in converted:
            if fault := conversion_fault(stream):
                raise VideoError(f"{path}: {fault}")
            assert isinstance(stream, av.AudioStream)
            sound = Sound(output, stream)
            tracks[number] = Track(sound.stream, sound)
        elif muxer == "matroska" and stream.disposition & Disposition.attached_pic:
            # As a track it would be one more film.
            output.add_attachment(*_picture_file(path, stream))
        else:
            tracks[number] = Track(output.add_stream_from_template(stream))
            copy_stream_tags(stream, tracks[number].stream)
    return tracks


def _picture_file(path: str, stream: av.stream.Stream) -> tuple[str, str, bytes]:
    """Name, type and bytes of a cover picture."""
    codec = str(stream.codec_context.name if stream.codec_context else "unknown")
    kind, suffix = _IMAGE_TYPES.get(codec, (f"image/{codec}", codec))
    told = {name.lower(): str(value) for name, value in stream.metadata.items()}
    with open_video(path) as container:
        data = next(bytes(packet) for packet in container.demux(container.streams[stream.index]) if packet.size)
    return told.get("filename", f"cover.{suffix}"), told.get("mimetype", kind), data
