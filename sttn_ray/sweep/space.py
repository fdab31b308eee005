"""What a sweep searches: for each key, by its dotted path, the values that it may take."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from sttn_ray.bounded_yaml import read_yaml
from sttn_ray.errors import ConfigError

Kind = Literal["uniform", "loguniform", "choice", "grid"]
Values = dict[str, Any]

# Digits of a number that is drawn: enough for a setting, few enough to be written by hand.
DIGITS = 4
# Of a population's numbers when another trial's are taken over: factors where their logarithm is drawn, else a step as
# a share of the range. And how often a new one is drawn instead.
FACTORS, STEP_SHARE, RESAMPLE_SHARE = (0.8, 1.25), 0.2, 0.25
RANDOM_TRIALS = 16  # where the number is not said
SYNTAX = "uniform(low, high), loguniform(low, high), choice(a, b, ...) or grid(a, b, ...)"
# Trials differ in what is learned; how many steps and on what is the same for all, or they could not be compared.
SEARCHED_SECTIONS = ("masks", "model", "train")
SEARCHED_KEYS = ("run.seed",)
FIXED_KEYS = (
    *("train.num_steps", "train.num_workers", "train.min_workers", "train.worker_cpus"),
    *("train.validation_interval", "train.validation_clips", "train.checkpoint_interval", "train.num_checkpoints"),
)


class Dimension(NamedTuple):
    """A key and what it may be: low and high of uniform and loguniform, else the options."""

    key: str
    kind: Kind
    values: tuple[Any, ...]


def read_space(space: Mapping[str, Any], check: Callable[[str], object]) -> list[Dimension]:
    """What `tune.space` says.

    Args:
        space: by the dotted path, text as in "loguniform(0.001, 0.1)", or {"loguniform": [0.001, 0.1]}.
        check: refuses a word `section.key=value` with a ConfigError.

    Raises:
        ConfigError: all faults, one a line.
    """
    dimensions, faults = [], []
    if not space:
        faults.append(f"tune.space: is empty; give a key by its path and what it may be, {SYNTAX}")
    for key, told in space.items():
        try:
            dimension = _read_dimension(str(key), told)
        except ConfigError as error:
            faults.append(str(error))
            continue
        dimensions.append(dimension)
        for value in _probes(dimension):
            try:
                check(override(dimension.key, value))
            except ConfigError as error:
                faults += [f"tune.space.{key}: {line}" for line in str(error).splitlines()]
                break
        else:
            if not _is_searched(dimension.key):
                faults.append(
                    f"tune.space.{key}: is the same for all trials; a sweep searches {', '.join(SEARCHED_KEYS)} and "
                    f"what is learned: {', '.join(SEARCHED_SECTIONS)}"
                )
    if faults:
        raise ConfigError(*dict.fromkeys(faults))
    return dimensions


def count_trials(dimensions: Sequence[Dimension], wanted: int | None) -> int:
    """How many trials there are: each point of the grid with as many random samples.

    Raises:
        ConfigError: more samples are wanted where nothing is random.
    """
    grid = math.prod(len(d.values) for d in dimensions if d.kind == "grid")
    has_grid = any(d.kind == "grid" for d in dimensions)
    if all(d.kind == "grid" for d in dimensions):
        if wanted not in (None, 1):
            raise ConfigError(
                f"tune.num_trials={wanted}: every key of tune.space is a grid, whose {grid} points would be tried "
                "again; leave it out, or add run.seed to the space"
            )
        return grid
    return grid * (wanted or (1 if has_grid else RANDOM_TRIALS))


def draw_trial(dimensions: Sequence[Dimension], number: int, seed: int) -> Values:
    """The values of a trial: a function of its number and the seed alone."""
    points = list(itertools.product(*(d.values for d in dimensions if d.kind == "grid")))
    sample, place = divmod(number, len(points))
    point = iter(points[place])
    rng = np.random.default_rng([seed, sample])
    return {d.key: next(point) if d.kind == "grid" else _draw(d, rng) for d in dimensions}


def explore(dimensions: Sequence[Dimension], values: Values, rng: np.random.Generator) -> Values:
    """Values near those of a trial that is taken over: numbers grow or shrink a little, options move to the next."""
    return {d.key: _neighbor(d, values[d.key], rng) for d in dimensions}


def settled(dimension: Dimension, value: Any) -> Any:
    """A value as it becomes a setting: a number with few digits, within its bounds; an option as it is."""
    if dimension.kind not in ("uniform", "loguniform"):
        return value
    low, high = dimension.values
    # Of the range too: between 0.999 and 0.9999 four digits of the value would leave ten of them.
    finest = min(abs(value), high - low) or high - low
    return min(max(round(value, DIGITS - 1 - math.floor(math.log10(finest))), low), high)


def overrides(values: Values) -> list[str]:
    """A trial as words of a command line."""
    return [override(key, value) for key, value in values.items()]


def override(key: str, value: Any) -> str:
    """A setting as a word of a command line."""
    return f"{key}={as_text(value)}"


def as_text(value: Any) -> str:
    """A value as a word of a command line writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "null" if value is None else str(value)


def _draw(dimension: Dimension, rng: np.random.Generator) -> Any:
    if dimension.kind == "uniform":
        return settled(dimension, float(rng.uniform(*dimension.values)))
    if dimension.kind == "loguniform":
        low, high = dimension.values
        return settled(dimension, math.exp(rng.uniform(math.log(low), math.log(high))))
    return dimension.values[int(rng.integers(len(dimension.values)))]


def _neighbor(dimension: Dimension, value: Any, rng: np.random.Generator) -> Any:
    if rng.random() < RESAMPLE_SHARE:
        return _draw(dimension, rng)
    side = int(rng.integers(2))
    if dimension.kind == "loguniform":
        return settled(dimension, value * FACTORS[side])
    if dimension.kind == "uniform":
        low, high = dimension.values
        return settled(dimension, value + (-1, 1)[side] * STEP_SHARE * (high - low))
    place = dimension.values.index(value) + (-1, 1)[side]
    return dimension.values[min(max(place, 0), len(dimension.values) - 1)]


def _probes(dimension: Dimension) -> list[Any]:
    """Values that are valid if all are: the ends, and one between that is no whole number."""
    if dimension.kind in ("uniform", "loguniform"):
        low, high = dimension.values
        return [low, high, low + (high - low) / math.pi]
    return list(dimension.values)


def _read_dimension(key: str, told: Any) -> Dimension:
    kind, values = _read_text(key, told) if isinstance(told, str) else _read_mapping(key, told)
    name = f"tune.space.{key}"
    if kind not in get_args(Kind):
        raise ConfigError(f"{name}: {kind}: no such kind of values; expected {SYNTAX}")
    if kind in ("choice", "grid"):
        if not values:
            raise ConfigError(f"{name}: {kind} without options")
        options = [_number(v) if isinstance(v, str) and _number(v) is not None else v for v in values]
        if kind == "grid" and any(option in options[:place] for place, option in enumerate(options)):
            raise ConfigError(f"{name}: {kind} gives an option twice, of which every trial would run twice: {values}")
        return Dimension(key, kind, tuple(options))
    numbers = [_number(value) for value in values]
    if len(numbers) != 2 or any(number is None for number in numbers):
        raise ConfigError(f"{name}: {kind} takes two numbers, the lowest and the highest, not {values}")
    low, high = numbers
    assert low is not None
    assert high is not None
    if low >= high:
        raise ConfigError(f"{name}: {kind}({low}, {high}): the lowest comes first")
    if kind == "loguniform" and low <= 0:
        raise ConfigError(f"{name}: loguniform({low}, {high}): the lowest must be above 0; or take uniform")
    return Dimension(key, kind, (low, high))


def _is_searched(key: str) -> bool:
    return key not in FIXED_KEYS and (key in SEARCHED_KEYS or key.split(".")[0] in SEARCHED_SECTIONS)


def _read_text(key: str, told: str) -> tuple[Any, list[Any]]:
    kind, opening, rest = told.strip().partition("(")
    try:
        values = read_yaml(f"[{rest.removesuffix(')')}]")
    except ValueError:
        values = None
    if not opening or not rest.endswith(")") or values is None:
        raise ConfigError(f"tune.space.{key}: {told}: expected {SYNTAX}")
    return kind.strip(), values


def _read_mapping(key: str, told: Any) -> tuple[Any, list[Any]]:
    if not isinstance(told, Mapping) or len(told) != 1 or not isinstance(next(iter(told.values())), list):
        raise ConfigError(f"tune.space.{key}: {told}: expected {SYNTAX}, or as a mapping {{uniform: [low, high]}}")
    kind, values = next(iter(told.items()))
    return kind, values


def _number(value: Any) -> float | None:
    """YAML takes 1e-3 for text, for want of a dot."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None
