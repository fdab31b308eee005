"""What a sweep searches, and what it makes large: how it is written, and which values come of it."""

import math
from collections import Counter

import numpy as np
import pytest

from sttn_ray.config import apply_override, load_experiment
from sttn_ray.errors import ConfigError
from sttn_ray.sweep.objective import read_objective, value_of
from sttn_ray.sweep.space import Dimension, count_trials, draw_trial, explore, overrides, read_space, settled

METRICS = ("hole_psnr", "psnr", "ssim")
SPACE = {
    "train.hole_weight": "loguniform(0.5, 8)",
    "train.valid_weight": {"uniform": [0, 2]},
    "train.adversarial_loss": "choice(hinge, lsgan)",
    "train.decay_at": {"choice": [[100, 200], [300]]},
    "run.seed": "grid(0, 1, 2)",
}


def check(word: str) -> None:
    apply_override(load_experiment([]), word)


def faults(space: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read_space(space, check)
    return str(raised.value).splitlines()


def test_a_space_is_read_from_text_and_from_mappings():
    dimensions = read_space(SPACE, check)
    assert dimensions[0] == Dimension("train.hole_weight", "loguniform", (0.5, 8.0))
    assert dimensions[1] == Dimension("train.valid_weight", "uniform", (0.0, 2.0))
    assert dimensions[3].values == ([100, 200], [300])
    # YAML takes 1e-3 for text.
    assert read_space({"train.learning_rate": "choice(1e-3, 3e-4)"}, check)[0].values == (1e-3, 3e-4)


def test_a_space_may_stand_on_a_command_line():
    experiment = load_experiment(["tune.space={train.hole_weight: 'uniform(1, 6)', run.seed: {grid: [0, 1]}}"])
    assert experiment.tune.space == {"train.hole_weight": "uniform(1, 6)", "run.seed": {"grid": [0, 1]}}
    with pytest.raises(ConfigError, match=r"tune\.space"):
        load_experiment(["tune.space={train"])


def test_all_faults_are_told_at_once():
    told = faults(
        {
            "train.hole_wieght": "uniform(1, 2)",
            "train.valid_weight": "uniform(-1, 2)",
            "train.batch_size": "uniform(1, 8)",
            "train.learning_rate": "loguniform(0, 1)",
            "train.adversarial_loss": "choice(hinge, wgan)",
            "train.num_steps": "choice(1, 2)",
            "trian.valid_weight": "uniform(0, 1)",
            "masks.line": "grid(1, 1.0)",
            "shards.dir": "choice(a, b)",
            "train.beta2": "normal(0, 1)",
            "train.beta1": "uniform(0.5)",
            "train.ema_decay": "uniform(0.9, 0.1)",
            "masks.box": 3,
        }
    )
    for text in (
        "train.hole_wieght: train.hole_wieght: no such setting; did you mean train.hole_weight?",
        "train.valid_weight: train.valid_weight=-1.0: input should be greater than or equal to 0",
        "train.batch_size: train.batch_size=3.2",
        "loguniform(0.0, 1.0): the lowest must be above 0",
        "train.adversarial_loss=wgan",
        "tune.space.train.num_steps: is the same for all trials",
        "trian.valid_weight: trian: no such",
        "tune.space.masks.line: grid gives an option twice",
        "tune.space.shards.dir: is the same for all trials",
        "normal: no such kind of values",
        "tune.space.train.beta1: uniform takes two numbers",
        "uniform(0.9, 0.1): the lowest comes first",
        "tune.space.masks.box: 3: expected uniform(low, high)",
    ):
        assert any(text in line for line in told), (text, told)
    assert len(told) == 13
    assert "is empty" in faults({})[0]


def test_a_trial_is_a_function_of_its_number_and_the_seed():
    dimensions = read_space(SPACE, check)
    trials = [draw_trial(dimensions, number, seed=7) for number in range(60)]
    assert trials == [draw_trial(dimensions, number, seed=7) for number in range(60)]
    assert trials[5] != draw_trial(dimensions, 5, seed=8)
    assert all(0.5 <= trial["train.hole_weight"] <= 8 and 0 <= trial["train.valid_weight"] <= 2 for trial in trials)
    # As many below the middle of the logarithms as above.
    assert 5 <= sum(trial["train.hole_weight"] < 2 for trial in trials) / 3 <= 15
    assert Counter(trial["train.adversarial_loss"] for trial in trials).keys() == {"hinge", "lsgan"}
    # Each random sample meets each point of the grid.
    assert [trial["run.seed"] for trial in trials[:4]] == [0, 1, 2, 0]
    assert trials[0]["train.hole_weight"] == trials[2]["train.hole_weight"] != trials[3]["train.hole_weight"]


def test_a_trial_is_a_list_of_valid_words():
    dimensions = read_space(SPACE, check)
    for number in range(20):
        experiment = load_experiment([])
        words = overrides(draw_trial(dimensions, number, seed=0))
        for word in words:
            experiment = apply_override(experiment, word)
        assert len(words) == len(SPACE)
        assert experiment.train.decay_at in ((100, 200), (300,))
    assert overrides({"train.compile": True, "train.max_gradient_norm": None}) == [
        "train.compile=true",
        "train.max_gradient_norm=null",
    ]


def test_how_many_trials():
    random = read_space({"train.hole_weight": "uniform(1, 2)"}, check)
    grid = read_space({"train.hole_weight": "grid(1, 2)", "train.valid_weight": "grid(1, 2, 3)"}, check)
    mixed = [*grid, Dimension("train.learning_rate", "loguniform", (1e-5, 1e-3))]
    assert [count_trials(random, None), count_trials(random, 5)] == [16, 5]
    assert [count_trials(grid, None), count_trials(mixed, None), count_trials(mixed, 4)] == [6, 6, 24]
    assert len({tuple(draw_trial(grid, number, 0).values()) for number in range(6)}) == 6
    with pytest.raises(ConfigError, match=r"every key of tune\.space is a grid"):
        count_trials(grid, 2)


def test_a_trial_that_is_taken_over_changes_a_little_and_stays_in_bounds():
    dimensions = read_space({key: SPACE[key] for key in SPACE if key != "train.decay_at"}, check)
    values = draw_trial(dimensions, 0, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        before, values = values, explore(dimensions, values, rng)
        assert 0.5 <= values["train.hole_weight"] <= 8
        assert 0 <= values["train.valid_weight"] <= 2
        assert values["run.seed"] in (0, 1, 2)
    ratios = [explore(dimensions, before, rng)["train.hole_weight"] / before["train.hole_weight"] for _ in range(100)]
    near = sum(math.isclose(ratio, 0.8, rel_tol=1e-3) or math.isclose(ratio, 1.25, rel_tol=1e-3) for ratio in ratios)
    assert near > 40


def test_numbers_of_a_narrow_range_have_digits_enough():
    narrow = [Dimension("a", "uniform", (0.9999, 0.99999)), Dimension("b", "loguniform", (100.0, 100.1))]
    for dimension in narrow:
        drawn = {draw_trial([dimension], number, seed=0)[dimension.key] for number in range(200)}
        assert len(drawn) > 150
        assert all(dimension.values[0] <= value <= dimension.values[1] for value in drawn)
    # And others no more than a person would write.
    wide = Dimension("c", "loguniform", (1e-6, 100.0))
    assert all(float(f"{value:.4g}") == value for value in (draw_trial([wide], n, 0)["c"] for n in range(200)))
    assert settled(Dimension("d", "uniform", (0.0, 1.0)), 0.0) == 0.0
    # A step of a fifth of the range, not of the value, which would leave it at once.
    rng = np.random.default_rng(0)
    moved = {explore(narrow[:1], {"a": 0.99995}, rng)["a"] for _ in range(100)}
    assert {0.999932, 0.999968} <= moved


def test_an_objective_with_a_weight_that_is_no_number():
    with pytest.raises(ConfigError, match="1e999 is too large"):
        read_objective("psnr + 1e999*ssim", METRICS)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("hole_psnr", {"hole_psnr": 1}),
        ("hole_psnr + 20*ssim - 0.1 * psnr", {"hole_psnr": 1, "ssim": 20, "psnr": -0.1}),
        ("-psnr+psnr", {"psnr": 0}),
        ("1e-2*ssim", {"ssim": 0.01}),
    ],
)
def test_an_objective(text: str, weights: dict[str, float]):
    assert read_objective(text, METRICS) == weights
    assert value_of(weights, {"hole_psnr": 20.0, "psnr": 30.0, "ssim": 0.5}) == pytest.approx(
        20 * weights.get("hole_psnr", 0) + 30 * weights.get("psnr", 0) + 0.5 * weights.get("ssim", 0)
    )


@pytest.mark.parametrize("text", ["", "loss", "2 psnr", "psnr ssim", "psnr +", "1..2*psnr", "psnr*2"])
def test_what_is_no_objective(text: str):
    with pytest.raises(ConfigError, match="expected a validation metric of hole_psnr, psnr, ssim"):
        read_objective(text, METRICS)


def test_an_objective_of_what_is_no_number_is_none():
    assert math.isnan(value_of({"psnr": 1.0}, {"psnr": math.nan}))
