"""Values that Optuna proposes, from what is known of the trials so far; an extra of the installation."""

from collections.abc import Sequence
from typing import Any

from sttn_ray.errors import ConfigError
from sttn_ray.sweep.space import Dimension, Values, draw_trial, settled
from sttn_ray.sweep.trials import Trial, last_report

NUM_RANDOM = 5  # trials, before what is learned of them says more than chance


def require_optuna() -> None:
    """Refuse where it is not installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("tune.search=optuna: is not installed; pip install 'sttn-ray[optuna]'") from error


def propose(dimensions: Sequence[Dimension], trials: Sequence[Trial], *, number: int, seed: int) -> Values:
    """The values of the next trial.

    Nothing is kept between two calls: the study is made anew of the trials, of which those that are not finished count
    by their last report, so that a sweep that was interrupted goes on as if nothing had happened.

    Args:
        dimensions: that are searched; no grid among them.
        trials: that have begun.
        number: of the trial.
        seed: of the sweep.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {d.key: _distribution(d) for d in dimensions}
    sampler = optuna.samplers.TPESampler(n_startup_trials=NUM_RANDOM, seed=(seed + number) % 2**32, constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for trial in trials:
        study.add_trial(_as_optuna(trial, dimensions, distributions))
    if number < NUM_RANDOM:
        return draw_trial(dimensions, number, seed)
    params = study.ask(distributions).params
    return {d.key: settled(d, _from_optuna(d, params[d.key])) for d in dimensions}


def _as_optuna(trial: Trial, dimensions: Sequence[Dimension], distributions: dict[str, Any]) -> Any:
    import optuna

    last = None if trial["status"] == "failed" else last_report(trial)
    states = optuna.trial.TrialState
    state = states.FAIL if trial["status"] == "failed" else states.RUNNING if last is None else states.COMPLETE
    return optuna.trial.create_trial(
        state=state,
        value=None if last is None else last["objective"],
        params={d.key: _to_optuna(d, trial["values"][d.key]) for d in dimensions},
        distributions=distributions,
    )


def _distribution(dimension: Dimension) -> Any:
    import optuna

    if dimension.kind == "choice":
        return optuna.distributions.CategoricalDistribution(list(range(len(dimension.values))))
    low, high = dimension.values
    return optuna.distributions.FloatDistribution(low, high, log=dimension.kind == "loguniform")


def _to_optuna(dimension: Dimension, value: Any) -> Any:
    """Options by their places: Optuna takes no lists for options."""
    return dimension.values.index(value) if dimension.kind == "choice" else value


def _from_optuna(dimension: Dimension, value: Any) -> Any:
    return dimension.values[value] if dimension.kind == "choice" else value
