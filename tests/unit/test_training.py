"""One GAN step, its schedule, its state and its data."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from sttn_ray.choices import FAMILIES
from sttn_ray.duration import duration
from sttn_ray.errors import CheckpointError
from sttn_ray.model.discriminator import Discriminator
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.losses import discriminator_loss, generator_adversarial_loss, hole_loss, valid_loss
from sttn_ray.model.weights import load_generator
from sttn_ray.samples import draw_sample, worker_batches
from sttn_ray.shards.read import read_index
from sttn_ray.shards.tables import CLIP_SCHEMA, INDEX_SCHEMA, MASK_SCHEMA, pack_frame, pack_mask
from sttn_ray.training.data import ClipDataset, make_loader
from sttn_ray.training.metrics import MetricsFile, describe, read_metrics
from sttn_ray.training.schedule import learning_rate
from sttn_ray.training.state import TrainState, create_networks, create_state, load_state, save_state
from sttn_ray.training.step import StepSettings, average_share, to_device, train_step

TINY = GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)
SETTINGS = StepSettings(
    learning_rate=1e-3,
    decay_at=(2,),
    hole_weight=1.0,
    valid_weight=0.5,
    adversarial_weight=0.01,
    adversarial_loss="hinge",
)
AVERAGING = replace(SETTINGS, ema_decay=0.5)
WEIGHTS = dict.fromkeys(FAMILIES, 1.0)


def make_state(seed: int = 0, *, keeps_average: bool = False) -> TrainState:
    networks = create_networks(TINY, seed=seed, initialization="fast")
    return create_state(*networks, beta1=0.0, beta2=0.99, keeps_average=keeps_average)


def make_batch(step: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(step)
    frames = torch.rand((2, 3, 3, 48, 96), generator=rng) * 2 - 1
    masks = torch.zeros(2, 3, 1, 48, 96)
    masks[0, :, :, 8:24, 20 : 40 + step] = 1
    masks[1, :, :, 30:40, 50:90] = 1
    return frames, masks


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize(
    ("niter", "steady", "decay_at"), [(150_000, 300_000, (150_000, 300_000)), (300_000, 300_000, (300_000,))]
)
def test_the_learning_rate_is_the_published_one(niter: int, steady: int, decay_at: tuple[int, ...]) -> None:
    for step in (0, 1, 149_999, 150_000, 299_999, 300_000, 300_001, 499_999):
        published = 1e-4 * 0.1 ** (min(step, steady) // niter)
        assert learning_rate(step, base=1e-4, decay_at=decay_at) == pytest.approx(published, rel=1e-12)


def test_without_decay_the_learning_rate_stays() -> None:
    assert learning_rate(10**6, base=3e-4, decay_at=()) == 3e-4


def test_a_step_gives_the_losses_that_hands_compute() -> None:
    state = make_state()
    generator, discriminator = copy.deepcopy(state.generator), copy.deepcopy(state.discriminator)
    frames, masks = make_batch(0)
    losses = train_step(state, frames, masks, SETTINGS)

    predicted = generator(frames * (1 - masks), masks)
    completed = torch.where(masks > 0, predicted, frames)
    judged = discriminator_loss(discriminator(frames), discriminator(completed.detach()), "hinge")
    assert losses["hole"].item() == pytest.approx(hole_loss(predicted, frames, masks).item(), rel=1e-5)
    assert losses["valid"].item() == pytest.approx(valid_loss(predicted, frames, masks).item(), rel=1e-5)
    assert losses["discriminator"].item() == pytest.approx(judged.item(), rel=1e-5)

    # The generator is judged by the discriminator as it is after its own step.
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=SETTINGS.learning_rate, betas=(0.0, 0.99))
    judged.backward()
    optimizer.step()
    adversarial = generator_adversarial_loss(discriminator(completed), "hinge")
    assert losses["adversarial"].item() == pytest.approx(adversarial.item(), rel=1e-4, abs=1e-7)
    assert not any(loss.requires_grad for loss in losses.values())

    # What the generator minimizes is the weighted sum.
    generator.zero_grad()
    total = hole_loss(predicted, frames, masks) + 0.5 * valid_loss(predicted, frames, masks) + 0.01 * adversarial
    total.backward()
    for found, wanted in zip(state.generator.parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-6)


def test_the_generators_pass_leaves_the_discriminators_gradient_alone() -> None:
    state, weighted = make_state(), make_state()
    frames, masks = make_batch(0)
    train_step(state, frames, masks, SETTINGS)
    # However much the generator's adversarial loss weighs, nothing of it reaches the discriminator.
    heavy = replace(SETTINGS, adversarial_weight=1000.0)
    train_step(weighted, frames, masks, heavy)
    for a, b in zip(state.discriminator.parameters(), weighted.discriminator.parameters(), strict=True):
        assert a.requires_grad
        assert a.grad is not None
        assert torch.equal(a.grad, b.grad)
        assert torch.equal(a, b)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(state.generator.parameters(), weighted.generator.parameters(), strict=True)
    )


def test_the_discriminator_learns_first_and_each_optimizer_its_own_network() -> None:
    state = make_state()
    events: list[str] = []
    seen: dict[str, list[bool]] = {"has_graph": [], "is_learning": []}
    changes: list[tuple[bool, bool]] = []
    kept = copy.deepcopy((state.generator.state_dict(), state.discriminator.state_dict()))

    def before_judging(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        events.append("judge")
        seen["has_graph"].append(inputs[0].requires_grad)
        seen["is_learning"].append(all(parameter.requires_grad for parameter in network.parameters()))

    def after_update(name: str) -> None:
        events.append(name)
        changes.append(
            tuple(
                any(not torch.equal(old[key], value) for key, value in network.named_parameters())
                for network, old in zip((state.generator, state.discriminator), kept, strict=True)
            )
        )
        if name == "discriminator":
            assert all(parameter.grad is None for parameter in state.generator.parameters())

    state.discriminator.register_forward_pre_hook(before_judging)
    state.discriminator_optimizer.register_step_post_hook(lambda *_: after_update("discriminator"))
    state.generator_optimizer.register_step_post_hook(lambda *_: after_update("generator"))
    train_step(state, *make_batch(0), SETTINGS)
    assert events == ["judge", "judge", "discriminator", "judge", "generator"]
    # Of source and completed clips without a way back to the generator; then with one, and nothing to learn itself.
    assert seen == {"has_graph": [False, False, True], "is_learning": [True, True, False]}
    assert changes == [(False, True), (True, True)]
    owned = [
        {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer in (state.generator_optimizer, state.discriminator_optimizer)
    ]
    assert owned == [{id(p) for p in network.parameters()} for network in (state.generator, state.discriminator)]


def test_a_step_counts_and_changes_both_networks() -> None:
    state = make_state()
    before = tensors_of(state.generator), tensors_of(state.discriminator)
    rates = []
    for step in range(3):
        train_step(state, *make_batch(step), SETTINGS)
        rates += [o.param_groups[0]["lr"] for o in (state.generator_optimizer, state.discriminator_optimizer)]
    assert state.step == 3
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4])
    for network, old in zip((state.generator, state.discriminator), before, strict=True):
        # What has no gradient may stand still: a key's bias (the same added to all keys changes no softmax), and the
        # discriminator's last bias (it raises the logits of both kinds of clips alike).
        still = ("key_embedding.bias", "conv.10.bias")
        new = {name: value for name, value in network.state_dict().items() if not name.endswith(still)}
        assert not [name for name, value in new.items() if torch.equal(old[name], value)]


def test_training_on_one_batch_lowers_the_error() -> None:
    state = make_state()
    frames = torch.linspace(-0.8, 0.8, 96).expand(1, 3, 3, 48, 96).contiguous()
    masks = torch.zeros(1, 3, 1, 48, 96)
    masks[..., 16:32, 30:60] = 1
    settings = replace(SETTINGS, decay_at=())
    losses = [train_step(state, frames, masks, settings) for _ in range(40)]
    first, last = losses[0], losses[-1]
    assert last["hole"] < 0.5 * first["hole"]
    assert last["valid"] < 0.5 * first["valid"]


def test_a_run_that_goes_on_from_a_checkpoint_has_the_same_bits(tmp_path: Path) -> None:
    whole = make_state(seed=0, keeps_average=True)
    for step in range(5):
        train_step(whole, *make_batch(step), AVERAGING)
        if whole.step == 2:
            save_state(tmp_path / "state.pt", whole)
    resumed = make_state(seed=7, keeps_average=True)
    load_state(tmp_path / "state.pt", resumed)
    assert resumed.step == 2
    for step in range(2, 5):
        train_step(resumed, *make_batch(step), AVERAGING)
    save_state(tmp_path / "whole.pt", whole)
    save_state(tmp_path / "resumed.pt", resumed)
    a, b = (torch.load(tmp_path / name, weights_only=True) for name in ("whole.pt", "resumed.pt"))
    assert a["step"] == b["step"] == 5
    for part in ("generator", "generator_average", "discriminator"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    for part in ("generator_optimizer", "discriminator_optimizer"):
        for number, values in a[part]["state"].items():
            assert all(torch.equal(value, b[part]["state"][number][name]) for name, value in values.items())


def test_the_average_follows_the_generator_and_is_what_is_used(tmp_path: Path) -> None:
    state, plain = make_state(keeps_average=True), make_state()
    wanted = tensors_of(state.generator)
    for step, share in enumerate((0.9, 9 / 11, 0.75, 9 / 13)):
        train_step(state, *make_batch(step), replace(SETTINGS, ema_decay=0.9))
        train_step(plain, *make_batch(step), SETTINGS)
        wanted = {
            name: (1 - share) * wanted[name] + share * value for name, value in tensors_of(state.generator).items()
        }
    assert state.average is not None
    torch.testing.assert_close(tensors_of(state.average), wanted)
    # Training itself does not see it.
    assert all(torch.equal(tensors_of(plain.generator)[name], t) for name, t in tensors_of(state.generator).items())

    save_state(tmp_path / "state.pt", state)
    loaded = tensors_of(load_generator(tmp_path / "state.pt"))
    assert all(torch.equal(loaded[name], value) for name, value in tensors_of(state.average).items())
    save_state(tmp_path / "plain.pt", plain)
    with pytest.raises(CheckpointError, match="generator_average"):
        load_state(tmp_path / "plain.pt", state)


def test_an_average_of_many_steps_weighs_the_last_by_the_decay() -> None:
    assert average_share(10**6, decay=0.999) == pytest.approx(1e-3)
    assert average_share(10**6, decay=0.5) == 0.5
    # As long as the decay asks for more steps than there are, a tenth of them counts.
    assert average_share(91, decay=0.999) == pytest.approx(0.09)


def test_a_checkpoint_is_a_generator_too(tmp_path: Path) -> None:
    state = make_state()
    save_state(tmp_path / "state.pt", state)
    loaded = load_generator(tmp_path / "state.pt")
    assert loaded.config == TINY
    for name, value in state.generator.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_a_checkpoint_of_another_network_or_half_a_file_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", make_state())
    for config in (replace(TINY, channels=32), replace(TINY, mask_keys=False)):
        other = create_state(*create_networks(config, seed=0, initialization="published"), beta1=0.0, beta2=0.99)
        with pytest.raises(CheckpointError, match=r"state\.pt: is of another network"):
            load_state(tmp_path / "state.pt", other)
    data = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"half\.pt"):
        load_state(tmp_path / "half.pt", make_state())
    torch.save({"format_version": 1, "model": TINY.as_dict(), "step": 1}, tmp_path / "bare.pt")
    with pytest.raises(CheckpointError, match="generator"):
        load_state(tmp_path / "bare.pt", make_state())
    torch.save({**torch.load(tmp_path / "state.pt"), "format_version": 2}, tmp_path / "later.pt")
    with pytest.raises(CheckpointError, match=r"later\.pt: checkpoint format 2, this version reads 1"):
        load_state(tmp_path / "later.pt", make_state())


def test_networks_are_those_of_the_seed() -> None:
    for initialization in ("published", "fast"):
        first = create_networks(TINY, seed=3, initialization=initialization)
        again = create_networks(TINY, seed=3, initialization=initialization)
        other = create_networks(TINY, seed=4, initialization=initialization)
        for a, b, c in zip(first, again, other, strict=True):
            assert all(torch.equal(a.state_dict()[name], value) for name, value in b.state_dict().items())
            assert any(not torch.equal(a.state_dict()[name], value) for name, value in c.state_dict().items())


def test_the_discriminator_is_a_quarter_as_wide() -> None:
    published = GeneratorConfig(channels=256, num_blocks=1, width=432, height=240, mask_keys=True)
    _, discriminator = create_networks(published, seed=0, initialization="published")
    assert discriminator.state_dict().keys() == Discriminator(channels=64).state_dict().keys()
    assert discriminator.conv[0].out_channels == 64


def write_shards(folder: Path, *, objects: bool = False) -> None:
    """Three clips of flat frames: clip c's frame f has the red c * 40 + f, at the left, and 0 at the right."""
    (folder / "clips").mkdir(parents=True)
    rows, index = [], []
    for clip in range(3):
        frames = []
        for number in range(8):
            picture = np.zeros((48, 96, 3), np.uint8)
            picture[:, :48, 0] = clip * 40 + number
            frames.append(pack_frame(picture, "png", 95))
        rows.append(
            {"clip_id": f"clip-{clip}", "height": 48, "width": 96, "codec": "png", "split": "train", "frames": frames}
        )
        index.append({"table": "clips", "id": f"clip-{clip}", "split": "train", "num_frames": 8, "row_group": clip})
    table = pa.Table.from_pylist(rows, CLIP_SCHEMA)
    pq.write_table(table, folder / "clips/shard-00000.parquet", row_group_size=1)
    index = [row | {"file": "clips/shard-00000.parquet"} for row in index]
    if objects:
        (folder / "masks").mkdir()
        mask = np.zeros((48, 96), bool)
        mask[10:20, 5:9] = True
        row = {
            "mask_id": "o",
            "family": "object",
            "source": "dog",
            "height": 48,
            "width": 96,
            "masks": [pack_mask(mask)],
        }
        pq.write_table(pa.Table.from_pylist([row], MASK_SCHEMA), folder / "masks/objects.parquet", row_group_size=1)
        place = {"file": "masks/objects.parquet", "row_group": 0, "num_frames": 1}
        index.append({"table": "masks", "id": "o", "family": "object", "source": "dog", **place})
    pq.write_table(pa.Table.from_pylist(index, INDEX_SCHEMA), folder / "index.parquet")


def dataset_of(
    folder: Path, weights: dict[str, float] = WEIGHTS, *, sample_frames: int = 3, **options: Any
) -> ClipDataset:
    index = read_index(folder, "train")
    return ClipDataset(folder, index, sample_frames=sample_frames, weights=weights, seed=5, **options)


def test_samples_are_what_the_shards_hold(tmp_path: Path) -> None:
    write_shards(tmp_path)
    dataset = dataset_of(tmp_path)
    flips = 0
    for position in range(60):
        clip_id, frames, masks = dataset[position]
        assert (frames.shape, frames.dtype, masks.shape, masks.dtype) == (
            (3, 48, 96, 3),
            np.uint8,
            (3, 48, 96),
            np.uint8,
        )
        left, right = frames[:, 0, 0, 0].astype(int), frames[:, 0, -1, 0].astype(int)
        flips += bool((right > left).any())
        shown = np.maximum(left, right)
        numbers = shown - int(clip_id[-1]) * 40
        assert (numbers >= 0).all()
        assert (numbers < 8).all()
        assert (np.diff(numbers) > 0).all()
        assert set(np.unique(masks)) == {0, 1}
    assert 15 < flips < 45


def test_all_frames_of_a_sample_get_the_same_colors(tmp_path: Path) -> None:
    write_shards(tmp_path)
    plain, tinted = dataset_of(tmp_path), dataset_of(tmp_path, color_jitter=0.5)
    for position in range(6):
        clip_id, frames, masks = plain[position]
        epoch = position // 3
        sample = draw_sample(clip_id, 8, sample_frames=3, weights=WEIGHTS, seed=5, epoch=epoch, color_jitter=0.5)
        assert sample.colors is not None
        wanted = np.stack([sample.colors[frames[..., channel], channel] for channel in range(3)], axis=-1)
        assert not np.array_equal(wanted, frames)
        np.testing.assert_array_equal(tinted[position][1], wanted)
        np.testing.assert_array_equal(tinted[position][2], masks)


def test_a_part_of_each_clip_can_be_taken(tmp_path: Path) -> None:
    write_shards(tmp_path)
    whole, parts = dataset_of(tmp_path), dataset_of(tmp_path, crop=(40, 20))
    places = set()
    for position in range(60):
        (clip_id, frames, _), (same_id, part, masks) = whole[position], parts[position]
        assert same_id == clip_id
        assert (part.shape, masks.shape) == ((3, 20, 40, 3), (3, 20, 40))
        assert masks.any()
        # Its place is told by where its pixels are those of the whole frame.
        found = [
            (left, top)
            for left in range(57)
            for top in range(29)
            if np.array_equal(frames[:, top : top + 20, left : left + 40], part)
        ]
        assert found
        places.add(found[0])
    assert len(places) > 5


def test_object_masks_fit_the_part_that_is_taken(tmp_path: Path) -> None:
    write_shards(tmp_path, objects=True)
    _, frames, masks = dataset_of(tmp_path, {"object": 1.0}, crop=(48, 24))[0]
    assert frames.shape[1:3] == masks.shape[1:] == (24, 48)
    assert masks.any((1, 2)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_clips_shorter_than_a_sample_repeat_frames_and_masks(tmp_path: Path, family: str) -> None:
    write_shards(tmp_path)
    dataset = dataset_of(tmp_path, {family: 1.0}, sample_frames=10)
    for position in range(3):
        clip_id, frames, masks = dataset[position]
        shown = frames[:, 0].max((1, 2)).astype(int) - int(clip_id[-1]) * 40
        assert shown.tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 6, 7]
        assert masks.any((1, 2)).all()
        for twice in (5, 7):
            assert np.array_equal(masks[twice], masks[twice + 1])


def test_object_masks_of_the_corpus_serve_clips_that_are_longer_than_they_are(tmp_path: Path) -> None:
    write_shards(tmp_path, objects=True)
    _, frames, masks = dataset_of(tmp_path, {"object": 1.0}, sample_frames=10)[0]
    assert (len(frames), masks.sum((1, 2)).tolist()) == (10, [40] * 10)


def test_any_order_of_positions_gives_the_same_samples(tmp_path: Path) -> None:
    write_shards(tmp_path)
    forward, backward = dataset_of(tmp_path), dataset_of(tmp_path)
    expected = [forward[position] for position in range(12)]
    for position in reversed(range(12)):
        found = backward[position]
        assert found[0] == expected[position][0]
        assert all(np.array_equal(a, b) for a, b in zip(found[1:], expected[position][1:], strict=True))


def test_batches_do_not_depend_on_loader_processes_or_workers(tmp_path: Path) -> None:
    write_shards(tmp_path)
    dataset = dataset_of(tmp_path)

    def batches(rank: int, num_workers: int, num_processes: int) -> list[tuple[list[str], Tensor, Tensor]]:
        positions = worker_batches(1, 5, batch_size=4, rank=rank, num_workers=num_workers)
        return [tuple(batch) for batch in make_loader(dataset, positions, num_processes=num_processes)]

    alone = batches(0, 1, 0)
    assert len(alone) == 4
    assert (alone[0][1].shape, alone[0][2].shape) == ((4, 3, 3, 48, 96), (4, 3, 1, 48, 96))
    ahead = batches(0, 1, 2)
    parts = list(zip(batches(0, 2, 0), batches(1, 2, 0), strict=True))
    for whole, same, (first, second) in zip(alone, ahead, parts, strict=True):
        assert whole[0] == same[0] == first[0] + second[0]
        for n in (1, 2):
            assert torch.equal(whole[n], same[n])
            assert torch.equal(whole[n], torch.cat([first[n], second[n]]))


def test_object_masks_of_the_corpus_are_taken_where_there_are_some(tmp_path: Path) -> None:
    write_shards(tmp_path, objects=True)
    dataset = dataset_of(tmp_path, {"object": 1.0})
    places = set()
    for position in range(20):
        _, _, masks = dataset[position]
        assert masks.sum((1, 2)).tolist() == [40, 40, 40]
        places.add(int(np.nonzero(masks[0].any(0))[0][0]))
    assert places == {5, 87}  # as it is, and mirrored


def test_bytes_become_numbers_around_zero() -> None:
    frames, masks = to_device(
        torch.tensor([0, 255, 51], dtype=torch.uint8), torch.tensor([0, 1], dtype=torch.uint8), torch.device("cpu")
    )
    assert frames.tolist() == pytest.approx([-1.0, 1.0, -0.6])
    assert (masks.dtype, masks.tolist()) == (torch.float32, [0.0, 1.0])


def test_metrics_after_the_step_that_a_run_goes_on_from_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, after_step=0)
    for step in (1, 2, 3):
        first.write({"step": step, "hole": step / 10})
    first.close()
    with path.open("a") as file:
        file.write('{"step": 4, "ho')  # a process that was killed
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3]
    again = MetricsFile(path, after_step=2)
    again.write({"step": 3, "hole": 9.0})
    again.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["hole"]) for line in lines] == [(1, 0.1), (2, 0.2), (3, 9.0)]


def test_no_metrics_where_there_is_no_file(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_line_says_losses_speed_and_time_left() -> None:
    line = {"step": 40, "hole": 0.11, "valid": 0.05, "adversarial": -0.2, "discriminator": 0.99}
    text = describe(line | {"steps_per_s": 0.5, "data_wait_share": 0.013}, num_steps=100)
    assert text == (
        "step 40/100 | hole 0.1100 valid 0.0500 adversarial -0.200 discriminator 0.990 | "
        "0.50 steps/s, data wait 1.3% | 2:00 left"
    )
    assert duration(3723.9) == "1:02:03"


def test_the_fast_start_is_an_encoder_and_a_decoder() -> None:
    fast, _ = create_networks(TINY, seed=0, initialization="fast")
    published, _ = create_networks(TINY, seed=0, initialization="published")
    assert isinstance(fast, Generator)
    features = torch.randn(2, 16, 12, 24)
    masks = torch.zeros(1, 2, 1, 48, 96)
    changed = (fast.transform(features, masks, num_queries=2) - features).abs().mean()
    assert 0 < changed < 0.3
    frames = torch.rand(1, 2, 3, 48, 96) * 2 - 1
    # The published start lets hardly anything through.
    assert published.encode(frames[0]).std() < 0.1 * fast.encode(frames[0]).std()
