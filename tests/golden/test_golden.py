"""The network gives the outputs of the published code for the same weights and inputs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.weights import load_discriminator, load_generator
from tests.golden.rule import HERE, make_generator_state, make_inputs, make_weight

CASES = [
    ("generator_unmasked_keys", "golden-a/", 1, 3, None),
    ("generator_masked_keys", "golden-a/", 1, 3, True),
    ("generator_masked_keys_batch2", "golden-b/", 2, 2, True),
]


@pytest.mark.parametrize(("name", "salt", "clips", "frames", "mask_keys"), CASES)
def test_generator_matches_the_published_network(
    tmp_path: Path, name: str, salt: str, clips: int, frames: int, mask_keys: bool | None
) -> None:
    torch.save({"netG": make_generator_state(salt)}, tmp_path / "published.pth")
    generator = load_generator(tmp_path / "published.pth", mask_keys=mask_keys)
    images, masks = make_inputs(salt, clips, frames)
    golden = np.load(HERE / f"{name}.npz")
    with torch.inference_mode():
        masked = images * (1 - masks)
        output = generator(masked, masks).flatten(0, 1)
        encoded = generator.encode(masked.flatten(0, 1)).mean((2, 3))
    np.testing.assert_allclose(output[..., ::4, ::4].numpy(), golden["output"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoded.numpy(), golden["encoded_mean"], rtol=0, atol=1e-5)


def test_discriminator_matches_the_published_network() -> None:
    discriminator = Discriminator(spectral_norm=False)
    state = {k: make_weight(k, list(v.shape), "golden/") for k, v in discriminator.state_dict().items()}
    discriminator.load_state_dict(state)
    images, _ = make_inputs("golden/", 1, 5)
    with torch.inference_mode():
        output = discriminator(images)
    golden = np.load(HERE / "discriminator.npz")["output"]
    np.testing.assert_allclose(output.numpy(), golden, rtol=0, atol=1e-5)


def test_published_discriminator_checkpoint_loads(tmp_path: Path) -> None:
    import json

    names = json.loads((HERE / "official_discriminator_keys.json").read_text())
    state = {name: make_weight(name, shape, "golden/") for name, shape in names.items()}
    torch.save({"netD": state}, tmp_path / "dis.pth")
    discriminator = load_discriminator(tmp_path / "dis.pth")
    loaded = discriminator.conv[0].parametrizations.weight.original
    assert torch.equal(loaded, state["conv.0.weight_orig"])
    assert sum(p.numel() for p in discriminator.parameters()) == 17_832_256
