"""What `pipelines.inpaint` shows before it does anything: an estimate of the whole job, and pictures of some videos."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from sttn_ray.attempts import attempt
from sttn_ray.catalog.complete import complete_segment, start_engine
from sttn_ray.catalog.estimate import describe_estimate, estimate_job, plan_facts
from sttn_ray.catalog.items import Item
from sttn_ray.catalog.plan import Plan, Settings, input_stats, plan_video
from sttn_ray.catalog.preview import displayed_frame, make_preview, preview_frames
from sttn_ray.catalog.publish import outcome_if_current, refuse_foreign, refuse_target
from sttn_ray.catalog.records import ItemDir
from sttn_ray.errors import ConfigError, PoisonError, SttnError, failed_outcome
from sttn_ray.paths import StoragePath
from sttn_ray.report.preview import Picture, draw_preview, preview_page, write_picture
from sttn_ray.scratch import closed_folder
from sttn_ray.shown import shown
from sttn_ray.video.index import index_video

from .inpaint_network import load_network
from .inpaint_steps import Pool
from .place import this_place
from .progress import prepare_data

log = logging.getLogger(__name__)

PREVIEW_DIR, PAGE = "preview", "index.html"
# Frames with a hole on which the network's speed is measured. Fewer are slower each: windows reach beyond them.
MEASURED_FRAMES, MEASURED_VIDEOS = 20, 3
Row = dict[str, Any]


def dry_run(
    items: Sequence[Item],
    settings: Settings,
    output_dir: StoragePath,
    network: ray.ObjectRef,
    pool: Pool,
) -> int:
    """Plan every video, write nothing, and say what the job would take; returns the exit status."""
    prepare_data()
    # Each video (1:1): its facts. One CPU: one demuxer.
    rows = list(
        ray.data.from_items([{"number": n, **item.as_dict()} for n, item in enumerate(items)])
        .map(make_facts_fn(settings, str(output_dir)), num_cpus=1)
        .iter_rows()
    )
    facts = [row["facts"] for row in sorted(rows, key=lambda row: row["number"])]
    measure = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus or 0)(_measure)
    todo = [item for item, row in zip(items, facts, strict=True) if row["status"] == "todo"]
    rate = None
    for item in todo[:MEASURED_VIDEOS]:  # one may be damaged
        with suppress(SttnError, ray.exceptions.RayError):
            rate = ray.get(measure.remote(item, settings, network, pool.cpus))
        if rate is not None:
            break
    estimate = estimate_job(facts, frames_per_s=rate, num_processes=pool.size, codec=settings.codec, crf=settings.crf)
    log.info("%s", describe_estimate(facts, estimate))
    return 1 if estimate.failed else 0


def make_facts_fn(settings: Settings, output_dir: str) -> Callable[[Row], Row]:
    """Rows of number and `Item` columns to rows of number and facts, for `estimate_job`."""

    def find(row: Row) -> Row:
        number = row.pop("number")
        item = Item(**row)
        try:
            if item.fault is not None:
                raise ConfigError(item.fault)
            inputs = input_stats(item.video, item.mask, item.boxes)
            item_dir = ItemDir(output_dir, item.output)
            if outcome := outcome_if_current(item_dir, inputs, settings.hash()):
                status = "failed" if outcome["status"] == "quarantined" else "done"
                reason = outcome.get("reason", "")
                return {"number": number, "facts": {"video": item.video, "status": status, "reason": reason}}
            with attempt(_scratch_dir(item).path, "plan", this_place()):
                plan = plan_video(item, settings)
            refuse_target(item_dir.output_dir / plan.output, item.video)
            refuse_foreign(item_dir, plan)
            left = [n for n, record in enumerate(item_dir.read_segments(plan)) if record is None]
            return {"number": number, "facts": plan_facts(plan, left)}
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            return {"number": number, "facts": {"video": item.video, **_failed(error)}}

    return find


def _scratch_dir(item: Item) -> ItemDir:
    """Where it is noted that a look begins, which leaves no trace in the output."""
    return ItemDir(closed_folder(f"sttn-ray-looks-{os.getuid()}"), item.output)


def _measure(item: Item, settings: Settings, pickled: bytes, threads: int) -> float | None:
    """Frames with a hole that one process completes in a second, on some frames of a video."""
    engine = start_engine(load_network(pickled), settings, threads=threads)
    plan = plan_video(item, settings)
    segment = max(range(len(plan.segments)), key=lambda n: plan.hole_frames[n])
    start, stop = plan.segments[segment]
    short = replace(plan, segments=((start, min(stop, start + MEASURED_FRAMES)),), hole_frames=(1,))
    start_s = time.monotonic()
    packed = list(complete_segment(short, 0, engine, settings, lambda frames: None))
    num_holes = sum(map(bool, packed))
    return num_holes / (time.monotonic() - start_s) if num_holes else None


def write_preview(
    items: Sequence[Item],
    settings: Settings,
    output_dir: StoragePath,
    network: ray.ObjectRef,
    pool: Pool,
) -> int:
    """Draw some frames of each video before and after, and a page of them; returns the exit status."""
    prepare_data()
    folder = output_dir / PREVIEW_DIR
    # Each video (1:1): its pictures, written where the page finds them. A pool: each process holds the network.
    rows = list(
        ray.data.from_items([{"number": n, **item.as_dict()} for n, item in enumerate(items)])
        .map(
            Painter,  # type: ignore[arg-type]  # Ray's types do not know classes here
            fn_constructor_kwargs={
                "network": network,
                "settings": settings,
                "folder": folder,
                "threads": pool.cpus,
            },
            compute=pool.strategy,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        .iter_rows()
    )
    previews = [row["shown"] for row in sorted(rows, key=lambda row: row["number"])]
    preview_page(folder / PAGE, previews)
    for row in previews:
        if row["status"] == "failed":
            log.error("failed: %s", row["reason"])
        elif row.get("boxes"):
            log.info("%s: boxes %s", shown(row["video"]), row["boxes"])
    log.info("look at %s; nothing was inpainted: leave inpaint.preview out for that", folder / PAGE)
    return 1 if any(row["status"] == "failed" for row in previews) else 0


class Painter:
    """A network that draws previews.

    Reads number and `Item` columns; adds shown, a row for `preview_page`.
    """

    def __init__(self, network: ray.ObjectRef, settings: Settings, folder: StoragePath, threads: int) -> None:
        self._engine = start_engine(load_network(ray.get(network)), settings, threads=threads)
        self._settings, self._folder = settings, folder

    def __call__(self, row: Row) -> Row:
        number = row.pop("number")
        item = Item(**row)
        shown: Row = {"video": item.video, "mask": item.mask, "boxes": item.boxes, "status": "", "pictures": []}
        try:
            with attempt(_scratch_dir(item).path, "preview", this_place()):
                shown |= self._show(item, number)
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            shown |= _failed(error)
            if not isinstance(error, PoisonError):  # it would take the process with it once more
                shown["pictures"] = self._show_plain(item, number)
        return {"number": number, "shown": shown}

    def _show(self, item: Item, number: int) -> Row:
        if item.fault is not None:
            raise ConfigError(item.fault)
        if not (item.mask or item.boxes):
            return {"pictures": self._draw_plain(item, number)}
        plan = plan_video(item, self._settings)
        frames = preview_frames(plan.index, plan.mask)
        pictures = make_preview(plan, self._engine, self._settings, frames)
        return {**_facts(plan), "pictures": self._write(pictures, frames, plan.index.times_s(), number)}

    def _show_plain(self, item: Item, number: int) -> list[Row]:
        try:
            return self._draw_plain(item, number)
        except Exception:  # noqa: BLE001 -- the row tells already why
            return []

    def _draw_plain(self, item: Item, number: int) -> list[Row]:
        """The picture alone, so that a box can be read off."""
        on_damage = self._settings.on_damage
        index = index_video(
            item.video, interlaced=self._settings.interlaced, on_damage=on_damage, alpha=self._settings.alpha
        )
        frame = index.num_frames // 2
        picture = displayed_frame(index, frame, on_damage=on_damage)
        alone = draw_preview(picture, np.zeros(picture.shape[:2], bool), None)
        return self._write([alone], [frame], index.times_s(), number)

    def _write(
        self, pictures: Sequence[Picture], frames: Sequence[int], times_s: Sequence[float], number: int
    ) -> list[Row]:
        names = [f"{number:06d}-{frame:08d}.jpg" for frame in frames]
        for name, picture in zip(names, pictures, strict=True):
            write_picture(self._folder / name, picture)
        return [
            {"frame": frame, "time_s": times_s[frame], "file": name} for frame, name in zip(frames, names, strict=True)
        ]


def _facts(plan: Plan) -> Row:
    width, height = plan.index.displayed_size
    return {
        "boxes": plan.mask.name if plan.mask.kind == "boxes" else None,
        "output": plan.output,
        "width": width,
        "height": height,
        "frames": plan.index.num_frames,
        "hole_share": plan.hole_share,
        "notes": list(plan.notes),
    }


def _failed(error: Exception) -> Row:
    outcome = failed_outcome("plan", error)
    return {name: outcome[name] for name in ("status", "step", "reason")}
