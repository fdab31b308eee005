"""Errors a user can act on, one class for each thing the user would mend.

Every message says what was wrong, in which file, what was found, what was expected, and what to do.
"""

import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sttn_ray.shown import shown, shown_lines

_SHOWN_REASONS = 20


class SttnError(Exception):
    """An expected failure; its message, of a line or several, is meant for the person who runs the job.

    What it quotes may be other people's text, or hold credentials: see `shown`.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(shown, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class ConfigError(SttnError):
    """The request itself is wrong: a setting, a combination of settings, or a missing one."""


class CorpusError(SttnError):
    """A training video cannot be read, or is not usable for training."""


class ShardError(SttnError):
    """Shards or their index are missing, incomplete, or not what was written."""


class CatalogError(SttnError):
    """The list of videos cannot be read, or one of its rows is not usable."""


class VideoError(SttnError):
    """A video cannot be read, or is of a kind that is not supported."""


class MaskError(SttnError):
    """A mask cannot be read, or does not fit its video."""


class CheckpointError(SttnError):
    """A checkpoint cannot be read, or does not fit the network."""


class TrialError(SttnError):
    """A trial of a sweep was not trained to its end, or cannot be judged."""


class PoisonError(SttnError):
    """What was worked on took its process with it, each time that it was tried."""


class DeviceError(SttnError):
    """A device computes wrong numbers or has too little memory, or GPUs fail at a video on each node that tries it."""


class StorageError(SttnError):
    """An output, a record or a work file cannot be written or is not what was written."""


def failed_outcome(step: str, error: Exception) -> dict[str, Any]:
    """The row of a video that failed: class and message, and the traceback where the error is not one of ours."""
    is_unexpected = not isinstance(error, SttnError)
    reason = str(error) or type(error).__name__
    if is_unexpected:
        reason = shown_lines(reason + "\n" + "".join(traceback.format_exception(error)))
    return {
        "status": "quarantined" if isinstance(error, PoisonError) else "failed",
        "step": step,
        "error": type(error).__name__,
        "reason": reason,
        "is_unexpected": is_unexpected,
    }


def describe_failures(failed: Sequence[dict[str, Any]]) -> list[str]:
    """The most frequent failures by step and error, a line each, with the reason of the first one."""
    counts = Counter((row["step"], row["error"]) for row in failed)
    first = {(row["step"], row["error"]): row["reason"].splitlines()[0] for row in reversed(failed)}
    return [f"{count} at {key[0]}, {key[1]}, as in: {first[key]}" for key, count in counts.most_common(_SHOWN_REASONS)]
