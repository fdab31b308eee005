"""The networks: sizes, batches, masked keys, initialization, parameter counts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sttn_ray.model.attention import PatchAttention
from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.generator import (
    FEATURE_STRIDE,
    PRESETS,
    Generator,
    GeneratorConfig,
    initialize,
    pad_to_multiple,
)

TINY = GeneratorConfig(channels=16, num_blocks=2, width=96, height=48, mask_keys=True)


def make_generator(*, mask_keys: bool) -> Generator:
    """Weights of the size of trained ones: at N(0, 0.02) every output would be close to 0."""
    generator = Generator(replace(TINY, mask_keys=mask_keys)).eval()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in generator.parameters():
            scale = 1.1 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.02
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * scale)
    return generator


def make_clips(num_clips: int, num_frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Frames with their holes set to 0, and masks: a box that moves, another one in each clip."""
    rng = torch.Generator().manual_seed(1)
    frames = torch.rand((num_clips, num_frames, 3, height, width), generator=rng) * 2 - 1
    masks = torch.zeros(num_clips, num_frames, 1, height, width)
    for clip in range(num_clips):
        for t in range(num_frames):
            left = (5 * t + 9 * clip) % (width // 2)
            masks[clip, t, :, height // 4 : 3 * height // 4, left : left + width // 2] = 1
    return frames * (1 - masks), masks


@pytest.mark.parametrize(("height", "width"), [(48, 96), (50, 70), (47, 95), (31, 20), (96, 49)])
def test_any_size_runs_and_comes_back(height: int, width: int) -> None:
    generator = make_generator(mask_keys=True)
    frames, masks = make_clips(1, 3, height, width)
    with torch.inference_mode():
        completed = generator(frames, masks)
        padded = generator(pad_to_multiple(frames, 48), pad_to_multiple(masks, 48))
    assert completed.shape == frames.shape
    assert completed.isfinite().all()
    assert padded.shape[-2:] == (-(-height // 48) * 48, -(-width // 48) * 48)
    assert torch.equal(completed, padded[..., :height, :width])


def test_padding_reflects_where_the_size_allows_it() -> None:
    row = torch.arange(5.0).reshape(1, 1, 1, 1, 5)
    assert pad_to_multiple(row.expand(1, 1, 1, 8, 5), 8)[0, 0, 0, 0].tolist() == [
        0, 1, 2, 3, 4, 3, 2, 1,
    ]  # fmt: skip
    assert pad_to_multiple(row.expand(1, 1, 1, 12, 5), 12)[0, 0, 0, 0].tolist() == [
        0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4,
    ]  # fmt: skip


@pytest.mark.parametrize("mask_keys", [False, True])
def test_batch_of_two_clips_equals_the_clips_alone(mask_keys: bool) -> None:
    generator = make_generator(mask_keys=mask_keys)
    frames, masks = make_clips(2, 3, 48, 96)
    with torch.inference_mode():
        together = generator(frames, masks)
        alone = torch.cat([generator(frames[i : i + 1], masks[i : i + 1]) for i in range(2)])
    assert together.std() > 0.05
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask_keys", [False, True])
@pytest.mark.parametrize("num_clips", [1, 2])
def test_num_queries_gives_the_first_frames_of_the_full_result(mask_keys: bool, num_clips: int) -> None:
    generator = make_generator(mask_keys=mask_keys)
    frames, masks = make_clips(num_clips, 4, 48, 96)
    with torch.inference_mode():
        features = generator.encode(frames.flatten(0, 1))
        full = generator.transform(features, masks, num_queries=4).unflatten(0, (num_clips, 4))
        for num_queries in (1, 3):
            few = generator.transform(features, masks, num_queries=num_queries)
            wanted = full[:, :num_queries].flatten(0, 1)
            torch.testing.assert_close(few, wanted, rtol=1e-5, atol=1e-6)


def test_masked_keys_are_not_looked_at() -> None:
    """A frame that is all hole changes the other frames' features only where keys are not masked."""
    frames, masks = make_clips(1, 3, 48, 96)
    masks[:, 2] = 1
    differences = {}
    for mask_keys in (False, True):
        generator = make_generator(mask_keys=mask_keys)
        with torch.inference_mode():
            features = generator.encode(frames.flatten(0, 1))
            before = generator.transform(features, masks, num_queries=2)
            features[2] += 1
            after = generator.transform(features, masks, num_queries=2)
        differences[mask_keys] = (before - after).abs().max().item()
    assert differences[True] == 0
    assert differences[False] > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_keys_masked_is_finite_and_uniform(dtype: torch.dtype) -> None:
    """-1e9 instead of the type's lowest number would overflow in half precision."""
    torch.manual_seed(0)
    attention = PatchAttention(8, (1, 3)).to(dtype).eval()
    features = 5 * torch.randn(3, 8, 6, 12, dtype=dtype)
    with torch.inference_mode():
        free = attention(features, None, 1, 3)
        attended = attention(features, torch.ones(1, 3, 6, 12, dtype=dtype), 1, 3)
    assert attended.isfinite().all()
    # Where all keys weigh the same, every query gets the same.
    torch.testing.assert_close(attended[0], attended[2], rtol=1e-2, atol=1e-2)
    assert (free[0] - free[2]).abs().max() > 0.1


def test_generator_with_all_keys_masked_is_finite() -> None:
    frames, masks = make_clips(1, 3, 48, 96)
    with torch.inference_mode():
        completed = make_generator(mask_keys=True)(frames * 0, torch.ones_like(masks))
    assert completed.isfinite().all()


def test_generator_starts_from_the_published_distribution() -> None:
    torch.manual_seed(0)
    for layer in Generator(PRESETS["small"]).modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)
            assert not layer.bias.any()


def test_discriminator_starts_from_the_published_distribution_under_spectral_norm() -> None:
    """Written after spectral norm, the initial weights would be lost (D-8)."""
    torch.manual_seed(0)
    plain = list(Discriminator(spectral_norm=False, channels=16).conv[::2])
    normed = list(Discriminator(channels=16).conv[::2])
    for i, (layer, under_norm) in enumerate(zip(plain, normed, strict=True)):
        is_normed = hasattr(under_norm, "parametrizations")
        assert is_normed == (i < 5)  # the last layer has none, as published (D-5)
        original = under_norm.parametrizations.weight.original if is_normed else under_norm.weight
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert original.std().item() == pytest.approx(0.02, rel=0.05)
    assert (normed[0].bias, normed[-1].bias.any().item()) == (None, False)


def test_initialize_does_nothing_under_spectral_norm() -> None:
    """The reason for the order in `Discriminator`."""
    discriminator = Discriminator(channels=8)
    original = discriminator.conv[0].parametrizations.weight.original
    before = original.detach().clone()
    initialize(discriminator)
    assert torch.equal(original, before)


def test_discriminator_has_the_published_paddings() -> None:
    paddings = [layer.padding for layer in Discriminator(channels=8).conv[::2]]
    assert paddings == [(1, 1, 1)] + [(1, 2, 2)] * 5


def test_discriminator_judges_each_clip_alone() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(channels=8).eval()
    frames = torch.rand(2, 5, 3, 48, 64) * 2 - 1
    with torch.inference_mode():
        before = discriminator(frames)
        frames[1] = torch.rand(5, 3, 48, 64) * 2 - 1
        after = discriminator(frames)
    assert before.shape[:3] == (2, 5, 32)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_spectral_norm_iterates_on_every_training_forward() -> None:
    """Three forwards a step are three iterations (D-9); in evaluation mode there is none."""
    torch.manual_seed(0)
    discriminator = Discriminator(channels=8)
    norm = discriminator.conv[0].parametrizations.weight[0]
    seen = [norm._u.clone()]
    for _ in range(3):
        discriminator(torch.rand(1, 2, 3, 48, 48))
        assert not torch.equal(norm._u, seen[-1])
        seen.append(norm._u.clone())
    discriminator.eval()(torch.rand(1, 2, 3, 48, 48))
    assert torch.equal(norm._u, seen[-1])


@pytest.mark.parametrize(("preset", "count"), [("sttn", 16_556_163), ("small", 544_803)])
def test_generator_parameter_count(preset: str, count: int) -> None:
    generator = Generator(PRESETS[preset])
    assert sum(p.numel() for p in generator.parameters()) == count


def test_presets_need_no_padding() -> None:
    for config in PRESETS.values():
        assert config.size_multiple == 48
        assert config.width % 48 == config.height % 48 == 0
        assert config.channels % len(config.grids) == 0
    assert FEATURE_STRIDE == 4
    assert (PRESETS["sttn"].mask_keys, PRESETS["small"].mask_keys) == (False, True)
