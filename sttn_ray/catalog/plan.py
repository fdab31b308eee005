"""The plan of one video: everything its segments need to know, found before any of them runs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import av
import cv2
import numpy as np

import sttn_ray
from sttn_ray.catalog.items import Item
from sttn_ray.choices import Alpha, Codec, Interlaced, OnDamage, Precision, Sound
from sttn_ray.completion.schedule import Schedule
from sttn_ray.errors import MaskError, StorageError, VideoError
from sttn_ray.images import is_image
from sttn_ray.masks.find import find_marks, marks_as_boxes
from sttn_ray.masks.hole import Hole, make_holes
from sttn_ray.masks.read import MaskSource, boxes_source, check_emptiness, check_fit, mask_source, read_masks
from sttn_ray.paths import stamps
from sttn_ray.shown import shown
from sttn_ray.storage import record_hash
from sttn_ray.video.assemble import Container
from sttn_ray.video.color import ColorFormat
from sttn_ray.video.container import choose_container
from sttn_ray.video.encode import EncoderSettings, choose_encoder
from sttn_ray.video.index import VideoIndex, index_video

# To be raised when masks, completion or compositing give other results for the same settings.
SCHEDULE_VERSION = 5
INVERTED_SHARE = 0.8
# In place of boxes: whatever stands still over the whole film.
AUTO_LOGO = "auto-logo"
_SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that changes results, and nothing that does not: the same settings give the same bytes.

    `device` is the kind of device ("cpu", "cuda", "mps"); `checkpoint_sha256` identifies the network.
    """

    checkpoint_sha256: str
    device: str
    precision: Precision
    schedule: Schedule
    segment_frames: int
    dilation_px: int
    feather_px: int
    require_hole: bool
    on_damage: OnDamage
    interlaced: Interlaced
    codec: Codec
    crf: int
    preset: str
    encoder_threads: int
    sound: Sound = "copy"
    alpha: Alpha = "refuse"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "schedule": asdict(self.schedule)}

    def hash(self) -> str:
        """Of the fingerprint."""
        return record_hash(self.fingerprint())

    def fingerprint(self) -> dict[str, Any]:
        """The settings and the versions of what computes and encodes."""
        return {
            **self.as_dict(),
            "schedule_version": SCHEDULE_VERSION,
            "versions": {
                "sttn_ray": sttn_ray.__version__,
                "torch": version("torch"),
                "av": av.__version__,
                "ffmpeg": av.ffmpeg_version_info,
                "numpy": np.__version__,
                "opencv": cv2.__version__,
            },
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done with one video.

    Attributes:
        output: relative path of the output, with its suffix.
        index, mask, container, encoder: as found.
        segments: start and stop frame of each.
        hole_frames: frames with a hole, per segment.
        hole_share: mean share of the picture that is hole, over all frames.
        notes: what the user should know though it is no error.
        inputs: from `input_stats`, before anything was read.
        settings_hash: of the settings.
        plan_hash: of the source's and the mask's content, the output's name and the settings.
    """

    output: str
    index: VideoIndex
    mask: MaskSource
    container: Container
    encoder: EncoderSettings
    segments: tuple[tuple[int, int], ...]
    hole_frames: tuple[int, ...]
    hole_share: float
    notes: tuple[str, ...]
    inputs: list[Any]
    settings_hash: str
    plan_hash: str

    @property
    def has_hole(self) -> bool:
        return any(self.hole_frames)

    @property
    def color(self) -> ColorFormat:
        return self.index.color_format()

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "index": self.index.as_dict(),
            "mask": self.mask.as_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Plan":
        container = {**data["container"]}
        return cls(
            **{
                **data,
                "index": VideoIndex.from_dict(data["index"]),
                "mask": MaskSource.from_dict(data["mask"]),
                "container": Container(
                    **{
                        **container,
                        "copied": tuple(container["copied"]),
                        "dropped": tuple(container["dropped"]),
                        "converted": tuple(container.get("converted", ())),  # an older record lacks it
                    }
                ),
                "encoder": EncoderSettings(**data["encoder"]),
                "segments": tuple((start, stop) for start, stop in data["segments"]),
                "hole_frames": tuple(data["hole_frames"]),
                "notes": tuple(data["notes"]),
            }
        )


def plan_video(item: Item, settings: Settings) -> Plan:
    """Read a video's index and all its masks, and decide how it is done.

    Raises:
        VideoError, MaskError: it cannot be done; the message says why.
    """
    inputs = input_stats(item.video, item.mask, item.boxes)
    index, encoder, encoder_note, container = _plan_video(item.video, settings)
    source, found_note = _mask_source(item, index, settings)
    note = check_fit(source, index)
    shares = _hole_shares(source, index, settings)
    _check_holes(item, source, index, shares, settings)
    starts = range(0, index.num_frames, settings.segment_frames)
    segments = tuple((s, min(s + settings.segment_frames, index.num_frames)) for s in starts)
    identity = {
        "source": index.sha256,
        "mask": source.sha256,
        "output": item.output,
        "settings": settings.hash(),
    }
    notes = [told for told in (found_note, note, encoder_note) if told]
    if index.is_deinterlaced:
        notes.append("deinterlaced: all of the picture is computed anew")
    if index.is_anamorphic and any(box.has_pixels for box in source.boxes):
        width, height = index.displayed_size
        notes.append(f"boxes are in pixels of {width}x{height}, as it is stored; players show it stretched")
    if index.hdr != encoder.hdr:
        notes.append(f"not kept: HDR10's {index.hdr}, which {encoder.codec} does not carry")
    if index.chroma_location != encoder.chroma_location:
        notes.append(
            f"not kept: where chroma samples lie ({index.chroma_location}), which {encoder.codec} does not carry"
        )
    if index.crop:
        told = ", ".join(f"{n} at the {side}" for n, side in zip(index.crop, _SIDES, strict=True) if n)
        notes.append(f"not kept: what its container hides of the picture ({told}, in pixels), which players will show")
    if lost := encoder.lost(index.frame_data):
        notes.append(f"not kept: {', '.join(lost)}, which frames carry")
    if films := [s for s in index.others if s.kind == "video" and s.index in container.copied]:
        told = ", ".join(f"{stream.index} ({stream.codec})" for stream in films)
        notes.append(f"inpainted is stream {index.stream}; copied as they are, with what they show: video {told}")
    if encoder.encoder == "libx264rgb":
        notes.append("RGB is kept as H.264 of RGB (4:4:4), which not every player shows")
    if container.converted:
        streams = [stream for stream in index.others if stream.index in container.converted]
        notes.append(f"no container takes its sound; converted to FLAC: {'; '.join(map(str, streams))}")
    if empty := [s for s in index.others if s.is_empty and str(s) not in container.dropped]:
        notes.append(f"left out, since they hold nothing: {'; '.join(map(str, empty))}")
    if container.dropped:
        notes.append(f"not copied (chapters and time codes are written anew): {'; '.join(container.dropped)}")
    if index.missing_bytes:
        notes.append(f"the source ends early: at least {index.missing_bytes} bytes are missing")
    if index.frames_skipped:
        notes.append(f"the first {index.frames_skipped} frames of the source do not decode")
    return Plan(
        output=item.output + container.suffix,
        index=index,
        mask=source,
        container=container,
        encoder=encoder,
        segments=segments,
        hole_frames=tuple(sum(share > 0 for share in shares[s:e]) for s, e in segments),
        hole_share=float(np.mean(shares)),
        notes=tuple(notes),
        inputs=inputs,
        settings_hash=settings.hash(),
        plan_hash=record_hash(identity),
    )


def change_of_inputs(plan: Plan) -> str | None:
    """What happened to a plan's video or mask since it was made; None: nothing."""
    mask = None if plan.mask.kind == "boxes" else plan.mask.name
    return describe_change(plan.index.path, mask, plan.inputs)


def _plan_video(path: str, settings: Settings) -> tuple[VideoIndex, EncoderSettings, str | None, Container]:
    """What a video holds, what encodes it, with a note, and what takes the output; all that speaks against it at once.

    Raises:
        VideoError: something does.
    """
    faults: list[str] = []
    index = index_video(
        path, interlaced=settings.interlaced, on_damage=settings.on_damage, alpha=settings.alpha, faults=faults
    )
    choose = partial(
        choose_encoder,
        codec=settings.codec,
        crf=settings.crf,
        preset=settings.preset,
        threads=settings.encoder_threads,
    )
    looked_at = index
    try:
        encoder, note = choose(index)
    except VideoError as error:
        if not faults:
            faults.append(str(error).removeprefix(f"{shown(path)}: "))
        # No container takes such pictures; the sound is looked at all the same.
        looked_at = replace(index, pix_fmt="yuv420p", decoded_pix_fmt="", width=64, height=64, color=(0, 2, 2, 2))
        encoder, note = choose(looked_at)
    try:
        container = choose_container(looked_at, encoder, sound=settings.sound)
    except VideoError as error:
        raise VideoError("; ".join([str(error), *faults])) from error
    if faults:
        raise VideoError(f"{path}: {'; '.join(faults)}")
    return index, encoder, note, container


def plan_holes(plan: Plan, settings: Settings, start: int, stop: int, *, has_rim: bool = True) -> Iterator[Hole]:
    """The hole of each of some frames; where the mask stands still, the same object again.

    Args:
        plan, settings: of the video.
        start, stop: numbers of the frames.
        has_rim: whether opacity falls towards the hole's rim, as blending needs it.

    Raises:
        MaskError: the mask cannot be read.
    """
    return make_holes(
        read_masks(plan.mask, plan.index, start, stop),
        dilation_px=settings.dilation_px,
        feather_px=settings.feather_px if has_rim else 0,
        chroma_step=plan.color.chroma_step,
    )


def _mask_source(item: Item, index: VideoIndex, settings: Settings) -> tuple[MaskSource, str | None]:
    """Where the masks come from, and what to say of it."""
    if not item.boxes:
        return mask_source(item.mask or "", index), None
    if item.boxes != AUTO_LOGO:
        return boxes_source(item.boxes), None
    found = find_marks(index, on_damage=settings.on_damage)
    if not found.marks:
        raise MaskError(f"{item.video}: no standing mark was found: {found.reason}; give boxes or a mask")
    boxes = marks_as_boxes(found.marks)
    return boxes_source(boxes), f"boxes found by {AUTO_LOGO}: {boxes}"


def input_stats(video: str, mask: str | None, boxes: str | None) -> list[Any]:
    """What tells cheaply that a source or mask was replaced: its files' names, sizes and times of change.

    Of a folder of masks the images count: the video may lie there too, or the output.

    Raises:
        VideoError, MaskError: the video or the mask is missing.
    """
    stats: list[Any] = [boxes]
    for path, error in ((video, VideoError), (mask, MaskError)):
        if path is None:
            continue
        try:
            found = stamps(path, is_image)
        except FileNotFoundError as fault:
            raise error(f"{path}: no such file") from fault
        if not found:  # a store has no folder without files
            raise error(f"{path}: no such file")
        stats += found
    return stats


def describe_change(video: str, mask: str | None, before: list[Any]) -> str | None:
    """What happened to a video or its mask since `input_stats` gave `before`; None: nothing that could be seen."""
    for path in filter(None, (video, mask)):
        # The folder of the masks may hold the video.
        then = [found for found in before[1:] if _is_of(path, found[0]) and (found[0] == video) == (path == video)]
        try:
            now = stamps(path, is_image)
        except FileNotFoundError:
            now = []
        except StorageError:  # the store or the disk fails, which says nothing of the file
            return None
        if now and now == then:
            continue
        if not now:
            return f"{path}: was deleted while it was worked on; put it back and give the same command again"
        sizes = "" if len(now) > 1 or not then else f" ({then[0][1]} bytes then, {now[0][1]} now)"
        return f"{path}: was replaced while it was worked on{sizes}; the same command does it anew"
    return None


def _is_of(path: str, file: str) -> bool:
    return file == path or file.startswith(f"{path.rstrip('/')}/")


def _hole_shares(source: MaskSource, index: VideoIndex, settings: Settings) -> list[float]:
    shares = []
    last, share = None, 0.0
    for hole in make_holes(
        read_masks(source, index, 0, index.num_frames),
        dilation_px=settings.dilation_px,
        feather_px=0,
        chroma_step=index.color_format().chroma_step,
    ):
        if hole is not last:
            last, share = hole, float(hole.pixels.mean())
        shares.append(share)
    return shares


def _check_holes(item: Item, source: MaskSource, index: VideoIndex, shares: list[float], settings: Settings) -> None:
    if not any(shares):
        check_emptiness(source, index)
        if settings.require_hole:
            raise MaskError(f"{source.name}: the mask of {item.video} is empty (inpaint.require_hole is set)")
    if np.mean(shares) > INVERTED_SHARE:
        raise MaskError(
            f"{source.name}: the mask covers {np.mean(shares):.0%} of {item.video}: is it "
            "inverted? White, or of object ids any but 0, is what is removed"
        )
