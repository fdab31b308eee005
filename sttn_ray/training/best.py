"""What a training's validations leave in its folder: a picture of each, and the best generator so far."""

import io
import json
import logging
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sttn_ray.errors import StorageError
from sttn_ray.model.generator import Generator
from sttn_ray.model.weights import save_generator
from sttn_ray.paths import StoragePath
from sttn_ray.storage import published, read_record

log = logging.getLogger(__name__)

BEST_FILE, BEST_RECORD = "best.pt", "best.json"


class ValidationWriter:
    """Writes what validations leave; what a store that is away does not take is written with the next one.

    Raises:
        StorageError: the record of the best one so far cannot be read.
    """

    def __init__(self, run_dir: StoragePath) -> None:
        self._run_dir = run_dir
        self._best = read_record(run_dir / BEST_RECORD)
        self._unwritten: dict[str, bytes] = {}  # by name, in the order in which they are written
        self._has_failed = False

    def write(self, step: int, strip: NDArray[np.uint8], found: dict[str, float], generator: Generator) -> None:
        """Write a validation's picture, and the generator where it is the best so far.

        Args:
            step: at which it was validated.
            strip: (height, width, 3).
            found: its metrics.
            generator: that was validated; it may change after this.

        Raises:
            StorageError: neither this nor the validation before could be written.
        """
        self._unwritten[f"validation/step-{step:08d}.png"] = _as_png(strip)
        if is_better(found, self._best):
            self._best = {"step": step, **found}
            for name in (BEST_FILE, BEST_RECORD):  # the record behind its file, whatever waits from before
                self._unwritten.pop(name, None)
            self._unwritten[BEST_FILE] = _as_checkpoint(generator)
            self._unwritten[BEST_RECORD] = json.dumps(self._best, sort_keys=True).encode()
        try:
            self.flush()
        except StorageError as error:
            if self._has_failed:
                raise
            self._has_failed = True
            log.warning("what validation found is not written yet: %s; training goes on", error)
        else:
            self._has_failed = False

    def flush_if_possible(self) -> None:
        """Write what is not written yet; what cannot be waits for the next time."""
        with suppress(StorageError):
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet.

        Raises:
            StorageError: it cannot be.
        """
        for name in list(self._unwritten):
            with published(self._run_dir / name) as temporary:
                temporary.write_bytes(self._unwritten[name])
            del self._unwritten[name]


def is_better(found: dict[str, Any], best: dict[str, Any] | None) -> bool:
    """Whether a validation is the best one so far, by the hole's PSNR."""
    return best is None or found["hole_psnr"] > best["hole_psnr"]


def _as_png(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return file.getvalue()


def _as_checkpoint(generator: Generator) -> bytes:
    file = io.BytesIO()
    save_generator(file, generator)
    return file.getvalue()
