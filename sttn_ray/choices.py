"""The words that settings choose from. They stand apart from what they choose, so that --help need not load it."""

from typing import Literal, get_args

Fit = Literal["crop", "stretch"]
FrameCodec = Literal["jpeg", "png"]
Family = Literal["moving_shape", "static_shape", "strip", "box", "text", "object"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Preset = Literal["sttn", "small"]
Initialization = Literal["published", "fast"]
AdversarialLoss = Literal["hinge", "nsgan", "lsgan"]
Precision = Literal["fp32", "bf16"]
Codec = Literal["libx264", "x264-lossless", "ffv1"]
Interlaced = Literal["refuse", "deinterlace"]
OnDamage = Literal["fail", "conceal"]
Alpha = Literal["refuse", "keep"]
Sound = Literal["copy", "flac"]
Purpose = Literal["film", "mask", "corpus"]  # of a video file
BOX_SYNTAX = "x,y,width,height[@start_s-end_s], joined by ';', in pixels of the upright picture, or with %"
