"""Settings of a job that tests of videos share, and what its tasks leave behind."""

from sttn_ray.catalog.plan import Plan, Settings
from sttn_ray.catalog.records import ItemDir
from sttn_ray.completion.schedule import Schedule
from sttn_ray.video.decode import decode_range
from sttn_ray.video.encode import encode_segment

SETTINGS = Settings(
    checkpoint_sha256="0" * 64,
    device="cpu",
    precision="fp32",
    schedule=Schedule(),
    segment_frames=10,
    dilation_px=6,
    feather_px=4,
    require_hole=False,
    on_damage="fail",
    interlaced="refuse",
    codec="x264-lossless",
    crf=16,
    preset="veryfast",
    encoder_threads=1,
)


def do_segment(item_dir: ItemDir, plan: Plan, number: int) -> None:
    """What an encoding task leaves behind, its pictures unchanged."""
    start, stop = plan.segments[number]
    path = item_dir.segment_path(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = decode_range(plan.index, start, stop)
    encoded = encode_segment(path, frames, plan.index.pts[start:stop], plan.index, plan.encoder)
    record = {
        "plan_hash": plan.plan_hash,
        "num_frames": encoded.num_frames,
        "num_concealed": 0,
        "min_psnr": encoded.min_psnr,
        "num_bytes": encoded.num_bytes,
        "sha256": encoded.sha256,
        "extradata_sha256": encoded.extradata_sha256,
        "seconds": 2.0,
    }
    item_dir.write_segment(number, record)
