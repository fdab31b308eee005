"""Videos that tests make for themselves, and what is read back from them independently of the code under test.

Pictures are a texture that moves by a few pixels a frame, so that no two frames are equal, with a bright block in the
upper left corner of the coded picture, so that turned pictures can be told apart.
"""

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.video.encode import repeatable_x264

SAMPLE_RATE = 48000
Picture = Callable[[int], NDArray[np.floating]]


def make_black_mask(path: Path, *, width: int = 96, height: int = 64) -> Path:
    """A mask of no hole for all frames of a video; returns `path`."""
    Image.new("L", (width, height)).save(path)
    return path


def make_video(
    path: Path,
    *,
    num_frames: int = 40,
    width: int = 96,
    height: int = 64,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int | Fraction = 25,
    time_base: Fraction | None = None,
    pts: Sequence[int] | None = None,
    gop: int = 12,
    open_gop: bool = False,
    audio: bool | str = False,
    seed: int = 0,
    rotation: int = 0,
    color: tuple[int, int, int, int] | None = None,
    options: dict[str, str] | None = None,
    sample_aspect: Fraction | None = None,
    metadata: dict[str, str] | None = None,
    picture: Picture | None = None,
) -> Path:
    """Write a video file; the same arguments give the same bytes.

    Args:
        path: the file; its suffix decides the container (.mp4, .mov, .mkv, .webm, .ts, .avi).
        num_frames, width, height: of the picture as coded.
        codec: name of an FFmpeg encoder.
        pix_fmt: as coded; those with more than 8 bits are given more than 8 bits of picture.
        rate: frames per second, where `pts` is not given.
        time_base: seconds per tick; mp4, mov and avi keep it, others have their own. Default: a fine one that divides
            1 / rate, in .avi 1 / rate itself.
        pts: ticks at which frames are shown, ascending; default: evenly, from 0.
        gop: frames between keyframes.
        open_gop: whether frames shown before a keyframe may follow it in the file (libx264 and libx265).
        audio: True for a sine as AAC (Opus in .webm) as long as the video, or the name of another encoder.
        seed: of the texture.
        rotation: degrees counterclockwise by which players turn the picture: 0, 90, 180 or 270.
        color: range, matrix, primaries and transfer, in the numbers of `VideoIndex.color`; tags only.
        options: further ones of the encoder, over those made here.
        sample_aspect: width over height of a pixel.
        metadata: of the container.
        picture: frame number to RGB (height, width, 3) in [0, 1]; default: the moving texture.

    Returns:
        `path`.
    """
    rate = Fraction(rate)
    if time_base is None:
        ticks = 512 if rate.numerator < 1000 and path.suffix != ".avi" else 1
        time_base = Fraction(1, rate.numerator * ticks)
    if pts is None:
        pts = [round(n / rate / time_base) for n in range(num_frames)]
    assert len(pts) == num_frames
    picture = picture or make_texture(width, height, seed)
    file_options = {"fflags": "+bitexact"}
    if path.suffix in (".mp4", ".mov"):
        file_options["video_track_timescale"] = str(time_base.denominator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=file_options) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(
            codec, rate=rate, options=_repeatable({**_encoder_options(codec, gop, open_gop), **(options or {})}, codec)
        )
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, pix_fmt
        context.time_base = time_base
        context.gop_size = gop
        context.thread_count = 1  # x264 writes other bytes for another count
        if color is not None:
            context.color_range, context.colorspace, context.color_primaries, context.color_trc = color
        if sample_aspect is not None:
            context.sample_aspect_ratio = sample_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        sound = None
        if audio:
            default = "libopus" if path.suffix == ".webm" else "aac"
            sound = container.add_stream(audio if isinstance(audio, str) else default, rate=SAMPLE_RATE)
            sound.codec_context.layout = "mono"
        container.start_encoding()
        reformatter = VideoReformatter()
        for number, frame_pts in enumerate(pts):
            frame = make_frame(picture(number), pix_fmt, reformatter)
            frame.pts, frame.time_base = frame_pts, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            seconds = float((pts[-1] - pts[0]) * time_base + 1 / rate)
            for frame in _sine(sound.codec_context, round(seconds * SAMPLE_RATE)):
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def make_texture(width: int, height: int, seed: int = 0) -> Picture:
    """A noise texture over a slope, moving by (3, 1) pixels a frame, with a white block in the upper left corner."""
    random = np.random.default_rng(seed)
    coarse = random.random((height // 4 + 2, width // 4 + 2, 3)).repeat(4, 0).repeat(4, 1)
    fine = coarse + 0.15 * random.random(coarse.shape)
    slope = np.linspace(0, 0.3, coarse.shape[1])[None, :, None]
    texture = 0.1 + 0.5 * fine + slope

    def picture(number: int) -> NDArray[np.floating]:
        moved = np.roll(texture, (number, 3 * number), (0, 1))[:height, :width].copy()
        moved[: height // 4, : width // 4] = 1
        return np.clip(moved, 0, 1)

    return picture


def make_frame(rgb: NDArray[np.floating], pix_fmt: str, reformatter: VideoReformatter | None = None) -> av.VideoFrame:
    """A frame of `pix_fmt` from RGB (height, width, 3) in [0, 1]; a reformatter used again saves time."""
    if av.VideoFormat(pix_fmt).components[0].bits > 8:
        frame = av.VideoFrame.from_ndarray(np.round(rgb * 65535).astype(np.uint16), format="rgb48le")
    else:
        frame = av.VideoFrame.from_ndarray(np.round(rgb * 255).astype(np.uint8), format="rgb24")
    return (reformatter or VideoReformatter()).reformat(frame, format=pix_fmt)


def mux_together(path: Path, *sources: Path, shown: int | None = 0, options: dict[str, str] | None = None) -> Path:
    """One file with all streams of some files, in order; those of one of them, or all, say that they are shown."""
    with ExitStack() as stack:
        files = [stack.enter_context(av.open(str(source))) for source in sources]
        target = stack.enter_context(av.open(str(path), "w", options=options or {}))
        streams = [{s: target.add_stream_from_template(s) for s in file.streams} for file in files]
        for number, copies in enumerate(streams):
            for stream in copies.values():
                stream.disposition = Disposition.default if shown in (number, None) else Disposition(0)
        for file, copies in zip(files, streams, strict=True):
            for packet in file.demux():
                if packet.size:
                    packet.stream = copies[packet.stream]
                    target.mux(packet)
    return path


def add_captions(source: Path, path: Path) -> Path:
    """Copy an H.264 mp4 with a pair of caption bytes (CEA-608) in every frame, as broadcasters have them."""
    with av.open(str(source)) as film, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(film.streams.video[0])
        for number, packet in enumerate(packet for packet in film.demux(video=0) if packet.size):
            pair = bytes([0xFC, 0x94, 0x20 + number % 64])
            message = b"\xb5\x00\x31GA94\x03" + bytes([0x41, 0xFF]) + pair + b"\xff"
            unit = b"\x06\x04" + bytes([len(message)]) + message + b"\x80"
            copy = av.Packet(len(unit).to_bytes(4, "big") + unit + bytes(packet))
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
            target.mux(copy)
    return path


def make_damaged_copy(source: Path, path: Path, *, start: float, stop: float) -> Path:
    """Copy a file with the bytes between two shares of its length set to zero."""
    data = bytearray(source.read_bytes())
    first, last = int(len(data) * start), int(len(data) * stop)
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return path


def flip_byte(path: Path, position: int) -> Path:
    """Change one byte of a file, and no time of change: what only a hash can find."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return path


def make_images(folder: Path, pictures: Iterable[NDArray[np.generic]], suffix: str = ".png") -> Path:
    """Write pictures as 0.png, 1.png, ... into a new folder."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}{suffix}")
    return folder


def zip_folder(folder: Path, path: Path) -> Path:
    """Write a folder's files into a zip, below the folder's name."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"{folder.name}/{file.name}")
    return path


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG with a header of that size and no pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def make_pictures(num_frames: int, *, width: int = 96, height: int = 64, seed: int = 0) -> list[NDArray[np.uint8]]:
    """The first frames of the moving texture, (height, width, 3) RGB."""
    picture = make_texture(width, height, seed)
    return [np.round(picture(number) * 255).astype(np.uint8) for number in range(num_frames)]


def frame_hash(frame: av.VideoFrame) -> str:
    """Hex sha256 of a frame's samples, without the padding of its rows."""
    digest = hashlib.sha256()
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        itemsize = 1 if frame.format.components[0].bits <= 8 else 2
        digest.update(np.ascontiguousarray(rows[: plane.height, : plane.width * itemsize]).tobytes())
    return digest.hexdigest()


def frame_hashes(path: Path) -> list[str]:
    """`frame_hash` of every frame, decoded from beginning to end."""
    with av.open(str(path)) as container:
        return [frame_hash(frame) for frame in container.decode(video=0)]


def frame_times(path: Path) -> list[Fraction]:
    """Seconds at which every frame is shown, decoded from beginning to end."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def audio_packet_hash(path: Path) -> str:
    """Hex sha256 of the payloads of all packets of the first audio stream."""
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for packet in container.demux(audio=0):
            digest.update(bytes(packet))
    return digest.hexdigest()


def _encoder_options(codec: str, gop: int, open_gop: bool) -> dict[str, str]:
    rules = f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop={int(open_gop)}:bframes=3"
    if codec == "libx264":
        return {"preset": "veryfast", "crf": "20", "x264-params": f"{rules}:b-adapt=0"}
    if codec == "libx265":
        rules += ":b-adapt=0:pools=none:frame-threads=1:log-level=none"
        return {"preset": "ultrafast", "crf": "20", "x265-params": rules}
    if codec == "libvpx-vp9":
        return {"cpu-used": "8", "deadline": "realtime"}
    return {}


def _repeatable(options: dict[str, str], codec: str) -> dict[str, str]:
    if codec != "libx264":
        return options
    return {**options, "x264-params": ":".join([options["x264-params"], *repeatable_x264()])}


def _sine(context: av.AudioCodecContext, num_samples: int) -> list[av.AudioFrame]:
    wave = np.sin(np.arange(num_samples) * (2 * np.pi * 440 / SAMPLE_RATE)).astype(np.float32) * 0.5
    resampler = av.AudioResampler(format=context.format, layout="mono", rate=SAMPLE_RATE)
    frames = []
    for start in range(0, num_samples, 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        frames += resampler.resample(frame)
    return frames
