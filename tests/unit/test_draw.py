import numpy as np
import pytest

from sttn_ray.choices import FAMILIES
from sttn_ray.masks.draw import choose_family, draw_masks

FRAMES = [3, 17, 18, 40, 55]


def draw(family, seed=0, *, frames=FRAMES, height=144, width=240):
    return draw_masks(family, height=height, width=width, frames=frames, rng=np.random.default_rng(seed))


def center_of(mask):
    return np.argwhere(mask).mean(0)


def box_of(mask):
    """Height and width of the box around the hole."""
    return [int(np.ptp(np.flatnonzero(mask.any(axis)))) + 1 for axis in (1, 0)]


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_of_the_frames_asked_for(family):
    masks = draw(family)
    assert masks.shape == (5, 144, 240)
    assert masks.dtype == np.bool_
    assert draw(family, frames=[7], height=240, width=432).shape == (1, 240, 432)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_draws_the_same_masks_and_another_seed_others(family):
    for seed in range(10):
        assert np.array_equal(draw(family, seed), draw(family, seed))
        assert not np.array_equal(draw(family, seed), draw(family, seed + 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_generators_state_counts(family):
    used, copied = np.random.default_rng(5), np.random.default_rng(6)
    used.spawn(3)
    used.random(7)
    copied.bit_generator.state = used.bit_generator.state
    first, second = (draw_masks(family, height=144, width=240, frames=FRAMES, rng=rng) for rng in (used, copied))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frames_mask_is_the_same_whatever_others_are_asked_for(family):
    for seed in range(25):
        whole_rng, part_rng = np.random.default_rng(seed), np.random.default_rng(seed)
        whole = draw_masks(family, height=144, width=240, frames=range(0, 181, 5), rng=whole_rng)
        part = draw_masks(family, height=144, width=240, frames=[15, 20, 85], rng=part_rng)
        assert np.array_equal(whole[[3, 4, 17]], part)
        assert np.array_equal(whole[36], draw(family, seed, frames=[180])[0])
        assert whole_rng.bit_generator.state == part_rng.bit_generator.state


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(48, 48), (144, 240), (240, 432)])
def test_masks_are_never_empty_nor_most_of_the_picture(family, size):
    for seed in range(60):
        masks = draw(family, seed, frames=[0, 9, 31, 64, 150], height=size[0], width=size[1])
        coverage = masks.mean((1, 2))
        assert coverage.min() > 0.002, (seed, coverage)
        assert coverage.max() < 0.6, (seed, coverage)


def test_shapes_have_the_published_statistics():
    coverages, boxes, shifts = [], [], []
    for seed in range(300):
        family = ("static_shape", "moving_shape")[seed % 2]
        first, later = draw(family, seed, frames=[0, 20], height=240, width=432)
        coverages.append(100 * first.mean())
        boxes.append(box_of(first))
        if family == "moving_shape":
            shifts.append(np.hypot(*(center_of(later) - center_of(first))))
    assert np.mean(coverages) == pytest.approx(7.2, rel=0.15)
    assert np.percentile(coverages, [5, 50, 95]) == pytest.approx([2.4, 6.6, 13.8], rel=0.15)
    assert np.mean(boxes, 0) == pytest.approx([88, 158], rel=0.15)
    assert np.median(shifts) == pytest.approx(32, rel=0.15)
    assert np.percentile(shifts, 90) == pytest.approx(79, rel=0.15)


def test_static_shapes_stay_and_moving_ones_move_whole():
    for seed in range(40):
        static, moving = draw("static_shape", seed), draw("moving_shape", seed)
        assert (static == static[0]).all()
        assert not (moving == moving[0]).all()
        assert len(set(moving.sum((1, 2)).tolist())) == 1


def test_shapes_and_their_ways_scale_with_the_picture():
    for seed in range(20):
        small, large = (
            draw("moving_shape", seed, frames=[0, 12], height=height, width=width)
            for height, width in ((120, 216), (480, 864))
        )
        assert small.mean() == pytest.approx(large.mean(), rel=0.1)
        assert [4 * center_of(mask) for mask in small] == pytest.approx(
            np.array([center_of(mask) for mask in large]), abs=6
        )


def test_strips_reach_from_side_to_side():
    for seed in range(60):
        for mask in draw("strip", seed, height=240, width=432):
            rows, columns = mask.all(1), mask.all(0)
            assert np.array_equal(mask, rows[:, None] | columns[None])
            assert rows.any() != columns.any()
            assert 0.035 <= max(rows.mean(), columns.mean()) <= 0.37


@pytest.mark.parametrize(("family", "least", "most"), [("strip", 0.2, 0.5), ("box", 0.25, 0.6), ("text", 0.3, 0.65)])
def test_some_clips_of_a_family_move_and_others_stay(family, least, most):
    clips = [draw(family, seed, frames=[0, 100]) for seed in range(100)]
    assert least < np.mean([not np.array_equal(*clip) for clip in clips]) < most


def test_changing_text_stays_for_20_to_60_frames():
    num_changing = 0
    for seed in range(40):
        masks = draw("text", seed, frames=range(200))
        changes = np.flatnonzero((masks[1:] != masks[:-1]).any((1, 2))) + 1
        if 0 < len(changes) < 50:  # not a ticker
            num_changing += 1
            stays = np.diff([0, *changes])
            assert stays.min() >= 20
            assert stays.max() <= 60
    assert num_changing >= 4


def test_text_stands_in_the_lower_part_or_in_a_corner():
    for seed in range(60):
        for mask in draw("text", seed, height=240, width=432):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert rows[0] >= 120 or (rows[-1] < 120 and (columns[-1] < 216 or columns[0] >= 216))


def test_objects_move_change_their_form_and_are_of_the_size_of_things():
    coverages = []
    for seed in range(60):
        masks = draw("object", seed, frames=[0, 4, 30])
        coverages.extend(100 * masks.mean((1, 2)))
        assert not np.array_equal(masks[0], masks[1])
        assert np.hypot(*(center_of(masks[1]) - center_of(masks[0]))) > 0.5
        assert len(set(masks.sum((1, 2)).tolist())) > 1
    low, high = np.percentile(coverages, [5, 95])
    assert low >= 3
    assert high <= 20


def test_families_are_chosen_by_weight():
    rng = np.random.default_rng(1)
    weights = {"object": 1, "moving_shape": 6, "text": 3, "box": 0}
    drawn = [choose_family(weights, rng) for _ in range(4000)]
    share = {family: drawn.count(family) / len(drawn) for family in FAMILIES}
    # Three standard deviations of the largest are 0.023.
    assert share == pytest.approx(
        {"moving_shape": 0.6, "static_shape": 0, "strip": 0, "box": 0, "text": 0.3, "object": 0.1}, abs=0.023
    )
    assert share["box"] == share["strip"] == 0


def test_the_order_of_the_weights_does_not_matter():
    weights = {"object": 1.0, "strip": 2.0, "text": 0.5}
    turned = dict(reversed(weights.items()))
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    assert [choose_family(weights, first) for _ in range(50)] == [choose_family(turned, second) for _ in range(50)]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "one above 0"),
        ({"box": 0, "text": 0.0}, "one above 0"),
        ({"box": 2, "text": -1}, "from 0 up"),
        ({"box": float("nan")}, "from 0 up"),
        ({"box": float("inf")}, "from 0 up"),
        ({"box": 1, "cloud": 1}, "no mask family cloud; there are moving_shape"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        choose_family(weights, np.random.default_rng(0))


@pytest.mark.parametrize("frames", [[], [-1, 2], [3, 3], [5, 4]])
def test_frames_must_ascend(frames):
    with pytest.raises(ValueError, match="ascending"):
        draw("box", frames=frames)
