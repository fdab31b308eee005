"""How a trial goes on with another's training: a copy of its checkpoint and metrics, in a folder of its own."""

import shutil
from pathlib import PurePosixPath
from typing import Any

from sttn_ray.paths import StoragePath, on_this_machine, remove_file
from sttn_ray.storage import published
from sttn_ray.sweep.space import Values
from sttn_ray.sweep.trials import Trial, begin_generation
from sttn_ray.training.checkpoints import find_checkpoints, state_path
from sttn_ray.training.metrics import METRICS_FILE


def take_over(run_dir: StoragePath, trial: Trial, values: Values, handed: dict[str, Any], *, num_steps: int) -> Trial:
    """A trial with a copy of another's training, or as it is where that has come to its end meanwhile.

    The other may have gone on, and deleted the state that was asked for: then it is the next one.

    Args:
        run_dir: of the sweep.
        trial: that takes over.
        values: with which it goes on.
        handed: the other's name (`trial`), folder and step.
        num_steps: of a whole trial.

    Raises:
        StorageError: it cannot be read, or copied.
    """
    source = run_dir / handed["folder"]
    for name in find_checkpoints(source):
        step = int(PurePosixPath(name).name.removeprefix("step-"))
        if not handed["step"] <= step < num_steps:
            continue
        origin = {**handed, "step": step, "asked_step": handed["step"]}
        begun = begin_generation(trial, values, origin, numbered=True)
        target = run_dir / begun["generations"][-1]["folder"]
        for old in find_checkpoints(target):  # of a process that was killed while it copied
            remove_file(state_path(target, old))
        try:
            for file, copy in (
                (state_path(source, name), state_path(target, name)),
                (source / METRICS_FILE, target / METRICS_FILE),
            ):
                with on_this_machine(file) as path, published(copy) as temporary:
                    shutil.copyfile(path, temporary)
        except FileNotFoundError:
            continue
        return begun
    return trial
