"""Settings of a job that tests of videos share."""

from sttn_ray.catalog.plan import Settings
from sttn_ray.completion.schedule import Schedule

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
