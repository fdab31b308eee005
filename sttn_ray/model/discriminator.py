"""The temporal PatchGAN discriminator (paper, section 3.3)."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as apply_spectral_norm

from sttn_ray.model.attention import LEAK
from sttn_ray.model.generator import initialize

KERNEL, STRIDE = (3, 5, 5), (1, 2, 2)


class Discriminator(nn.Module):
    """Six 3D convolutions that judge overlapping space-time patches of a clip.

    Follows the published code in its layers (spectral norm on all but the last, the first padded by 1 only, which
    differs from the paper's table 5; decision D-5). Departs in its input: the published code joins the clips of a
    batch along time, so that neighboring clips mix (D-2); here each clip is judged alone.
    """

    def __init__(self, *, spectral_norm: bool = True, channels: int = 64) -> None:
        super().__init__()
        widths = [3, channels, channels * 2, channels * 4, channels * 4, channels * 4, channels * 4]
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(pairwise(widths)):
            is_last = i == len(widths) - 2
            bias = is_last or not spectral_norm
            padding = 1 if i == 0 else (1, 2, 2)
            layers.append(nn.Conv3d(c_in, c_out, KERNEL, STRIDE, padding, bias=bias))
            if not is_last:
                layers.append(nn.LeakyReLU(LEAK, inplace=True))
        self.conv = nn.Sequential(*layers)
        initialize(self)
        if spectral_norm:
            for layer in list(self.conv)[:-1]:
                if isinstance(layer, nn.Conv3d):
                    apply_spectral_norm(layer)

    def forward(self, frames: Tensor) -> Tensor:
        """Judge clips: (B, T, 3, H, W) in [-1, 1] to logits (B, T, channels * 4, H', W'), each clip alone."""
        return self.conv(frames.transpose(1, 2)).transpose(1, 2)
