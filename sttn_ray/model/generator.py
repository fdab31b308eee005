"""The STTN generator: convolutional encoder, spatial-temporal transformer blocks, convolutional decoder.

Names of layers and parameters are those of the published code, so its checkpoints load as they are.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sttn_ray.choices import Preset
from sttn_ray.model.attention import LEAK, PatchAttention, first_frames, in_parts

FEATURE_STRIDE = 4  # the encoder halves the size twice


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """What fixes a generator's shape: channel count, blocks, working size in pixels, patch grids, masked keys."""

    channels: int
    num_blocks: int
    width: int
    height: int
    grids: tuple[int, ...] = (1, 3, 6, 12)
    mask_keys: bool

    @property
    def size_multiple(self) -> int:
        """Pixels of which height and width must be multiples, so that every patch grid fits (48 as published)."""
        return FEATURE_STRIDE * math.lcm(*self.grids)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, fit for a checkpoint."""
        return {**asdict(self), "grids": list(self.grids)}


PRESETS: dict[Preset, GeneratorConfig] = {
    # The published network. Its released weights were trained without masked keys (decision D-1).
    "sttn": GeneratorConfig(channels=256, num_blocks=8, width=432, height=240, mask_keys=False),
    # Trains on two cores in minutes.
    "small": GeneratorConfig(channels=64, num_blocks=4, width=240, height=144, mask_keys=True),
}


class UpsampledConv(nn.Module):
    """A 3x3 convolution after bilinear enlargement by two (the published `deconv`)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True))


class FeedForward(nn.Module):
    """Two 3x3 convolutions, the first dilated by two (paper, section 3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(LEAK, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class TransformerBlock(nn.Module):
    """Patch attention and feed-forward, each with a residual connection."""

    def __init__(self, channels: int, grids: tuple[int, ...]) -> None:
        super().__init__()
        self.attention = PatchAttention(channels, grids)
        self.feed_forward = FeedForward(channels)

    def forward(
        self,
        features_NCHW: Tensor,
        masks_BTHW: Tensor | None,
        num_clips: int,
        num_queries: int,
        frames_at_once: int | None = None,
    ) -> Tensor:
        kept = first_frames(features_NCHW, num_clips, num_queries)
        x = kept + self.attention(features_NCHW, masks_BTHW, num_clips, num_queries, frames_at_once)
        return x + in_parts(self.feed_forward, x, frames_at_once)


class Generator(nn.Module):
    """STTN's generator (paper, section 3.2), after the published `InpaintGenerator`.

    It departs from the published code in three points: patch grids instead of fixed patch sizes, a switch for
    masked keys (`config.mask_keys`), and padding of sizes that the grids do not divide.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        c = config.channels  # the layers before and after the transformer are c / 4 and c / 2 wide, as published
        self.transformer = nn.Sequential(*(TransformerBlock(c, config.grids) for _ in range(config.num_blocks)))
        self.encoder = nn.Sequential(
            nn.Conv2d(3, c // 4, 3, stride=2, padding=1),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(c // 4, c // 4, 3, padding=1),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(c // 4, c // 2, 3, stride=2, padding=1),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(c // 2, c, 3, padding=1),
            nn.LeakyReLU(LEAK, inplace=True),
        )
        self.decoder = nn.Sequential(
            UpsampledConv(c, c // 2),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(c // 2, c // 4, 3, padding=1),
            nn.LeakyReLU(LEAK, inplace=True),
            UpsampledConv(c // 4, c // 4),
            nn.LeakyReLU(LEAK, inplace=True),
            nn.Conv2d(c // 4, 3, 3, padding=1),
        )
        initialize(self)

    def forward(self, frames: Tensor, masks: Tensor) -> Tensor:
        """Complete every frame of every clip.

        Args:
            frames: (B, T, 3, H, W) in [-1, 1], the hole set to 0.
            masks: (B, T, 1, H, W), 1 = hole.

        Returns:
            (B, T, 3, H, W) in [-1, 1]: a prediction for the whole frame, hole and surroundings.
        """
        b, t, _, height, width = frames.shape
        frames, masks = (pad_to_multiple(x, self.config.size_multiple) for x in (frames, masks))
        features = self.encode(frames.flatten(0, 1))
        features = self.transform(features, masks, num_queries=t)
        return self.decode(features)[..., :height, :width].unflatten(0, (b, t))

    def encode(self, frames_NCHW: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] to features (N, channels, H / 4, W / 4)."""
        return self.encoder(frames_NCHW)

    def transform(
        self, features_NCHW: Tensor, masks: Tensor, *, num_queries: int, frames_at_once: int | None = None
    ) -> Tensor:
        """Run the transformer and return the features of the first `num_queries` frames of each clip.

        Args:
            features_NCHW: (B * T, channels, H / 4, W / 4).
            masks: (B, T, 1, H, W), 1 = hole; read only when keys are masked.
            num_queries: frames per clip whose result is wanted. The last block computes only these, with the
                same result, because nothing reads the others after it.
            frames_at_once: go through a convolution together, where memory is short; None: all.
        """
        b, t = masks.shape[:2]
        masks_BTHW = None
        if self.config.mask_keys:
            # Nearest, as published: the golden outputs pin it. Holes reach the network dilated, so that strokes
            # thinner than the stride do not vanish (decision D-7).
            masks_BTHW = masks[:, :, 0, ::FEATURE_STRIDE, ::FEATURE_STRIDE].to(features_NCHW.dtype)
        last = len(self.transformer) - 1
        for i, block in enumerate(self.transformer):
            features_NCHW = block(features_NCHW, masks_BTHW, b, num_queries if i == last else t, frames_at_once)
        return features_NCHW

    def decode(self, features_NCHW: Tensor) -> Tensor:
        """Features (N, channels, H / 4, W / 4) to frames (N, 3, H, W) in [-1, 1]."""
        return torch.tanh(self.decoder(features_NCHW))


def initialize(module: nn.Module) -> None:
    """Set convolution weights to N(0, 0.02) and biases to 0, as published.

    Call it before spectral norm is applied: afterwards the weight is derived, and writing it does nothing (D-8).
    """
    for layer in module.modules():
        # Without memory there is nothing to set, for which torch would load its decompositions, in 1.5 s.
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and not layer.weight.is_meta:
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad the last two dimensions of (B, T, C, H, W) to a multiple, by reflection where the size allows it."""
    height, width = x.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if not (down or right):
        return x
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(x.flatten(0, 1), (0, right, 0, down), mode=mode).unflatten(0, x.shape[:2])
