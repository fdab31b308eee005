"""What a sweep makes as large as it can: a validation metric, or a weighted sum of some."""

import math
import re
from collections.abc import Mapping, Sequence

from sttn_ray.errors import ConfigError

_TERM = re.compile(
    r"(?P<sign>[+-])\s*(?:(?P<weight>\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*\*\s*)?(?P<name>[a-z_]+)\s*", re.IGNORECASE
)


def read_objective(text: str, known: Sequence[str]) -> dict[str, float]:
    """The weight of each metric of "hole_psnr", or of a sum as in "hole_psnr + 20*ssim - 0.1*psnr".

    Args:
        text: as written in tune.metric.
        known: names of the metrics that there are.

    Raises:
        ConfigError: it is no such sum, or of a metric that there is not.
    """
    weights: dict[str, float] = {}
    rest = text.strip()
    if rest[:1] not in ("+", "-"):
        rest = f"+{rest}"
    while rest:
        term = _TERM.match(rest)
        if term is None or term["name"] not in known:
            raise ConfigError(
                f"tune.metric={text}: expected a validation metric of {', '.join(known)}, or a weighted sum of them "
                "such as hole_psnr + 20*ssim; more is better, so give what should be small a minus"
            )
        weight = float(term["weight"] or 1) * (-1 if term["sign"] == "-" else 1)
        if not math.isfinite(weight):
            raise ConfigError(f"tune.metric={text}: {term['weight']} is too large for a weight")
        weights[term["name"]] = weights.get(term["name"], 0.0) + weight
        rest = rest[term.end() :]
    return weights


def value_of(weights: Mapping[str, float], metrics: Mapping[str, float]) -> float:
    """The objective for some metrics; not finite where one of them is not."""
    return math.fsum(weight * metrics[name] for name, weight in weights.items())
