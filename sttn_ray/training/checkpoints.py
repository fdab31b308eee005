"""Checkpoints of a run: a folder for each, `checkpoints/step-00001000`, with all of its state in one file.

Ray Train keeps checkpoints too. It is not used for it: its controller notes them in a file that it writes in place and
without trying again, so that a full disk or a store that is away for a moment leaves a run that cannot go on.
"""

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from sttn_ray.errors import StorageError
from sttn_ray.paths import StoragePath, remove_file, walk
from sttn_ray.scratch import scratch_folder
from sttn_ray.storage import published
from sttn_ray.training.state import TrainState, save_state

log = logging.getLogger(__name__)

CHECKPOINTS, STATE_FILE = "checkpoints", "state.pt"


def find_checkpoints(run_dir: StoragePath) -> list[str]:
    """Folders of the checkpoints of a run, the last one last; what is not wholly written has no name yet.

    Raises:
        StorageError: they cannot be listed.
    """
    try:
        return sorted(where for where, name in walk(str(run_dir / CHECKPOINTS)) if name == STATE_FILE)
    except FileNotFoundError:
        return []


def state_path(run_dir: StoragePath, name: str) -> StoragePath:
    """The file of a checkpoint."""
    return run_dir / CHECKPOINTS / name / STATE_FILE


class CheckpointWriter:
    """Brings checkpoints to a run's folder while training goes on, and deletes all but the last ones."""

    def __init__(self, run_dir: StoragePath, *, num_kept: int) -> None:
        self._run_dir, self._num_kept = run_dir, num_kept
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._has_failed = False

    def write(self, state: TrainState, beside: Callable[[], None]) -> None:
        """Take down a state, and begin to bring it to its place, and what `beside` brings; waits for the one before.

        Raises:
            StorageError: the two before did not come to their places, or this machine's disk is full.
        """
        with ExitStack() as begun:
            taken_down = begun.enter_context(scratch_folder()) / STATE_FILE
            with published(taken_down) as temporary:
                save_state(temporary, state)
            try:
                self.wait()
            except StorageError as error:
                if self._has_failed:
                    raise
                self._has_failed = True
                log.warning("a checkpoint is lost: %s; training goes on", error)
            else:
                self._has_failed = False
            name = f"step-{state.step:08d}"
            self._pending = self._thread.submit(self._bring, begun.pop_all(), taken_down, name, beside)

    def close(self) -> None:
        """Let what is under way end; what went wrong with it is not told."""
        self._thread.shutdown(wait=True)

    def wait(self) -> None:
        """Wait until all is in its place.

        Raises:
            StorageError: it did not come there.
        """
        if self._pending is not None:
            self._pending.result()

    def _bring(self, scratch: ExitStack, taken_down: Path, name: str, beside: Callable[[], None]) -> None:
        with scratch:
            beside()
            with published(state_path(self._run_dir, name)) as temporary:
                shutil.copyfile(taken_down, temporary)
        for old in find_checkpoints(self._run_dir)[: -self._num_kept]:
            remove_file(state_path(self._run_dir, old))
