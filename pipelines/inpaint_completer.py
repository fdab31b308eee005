"""The operator of `pipelines.inpaint` that runs the network."""

import time
from contextlib import suppress
from typing import Any

import ray

from sttn_ray.catalog.attempts import attempt
from sttn_ray.catalog.complete import complete_segment, start_engine
from sttn_ray.catalog.records import ItemDir
from sttn_ray.memory import give_back_memory

from .gauges import busy, timed
from .inpaint_steps import NOT_BEGUN, Job, current_plan, end_segment, ended, this_place

Row = dict[str, Any]


class GivenUpError(Exception):
    """The job works in another chain of operators now, and nobody takes what this one does."""


class Completer:
    """A network that completes segments.

    Reads output_name, segment; adds samples, a list with the packed prediction of each frame, and completion, what is
    recorded of it: the node, when it began (seconds since 1970), and how many seconds it took.
    """

    def __init__(self, generator: ray.ObjectRef, job: Job, threads: int) -> None:
        self._engine, self._job = start_engine(ray.get(generator), job.settings, threads=threads), job
        self._goes_on: ray.ObjectRef | None = None

    def __call__(self, row: Row) -> Row:
        if row["outcomes"]:
            return row
        if self._job.is_over:
            return row | ended(row["item"], NOT_BEGUN)
        item_dir = ItemDir(self._job.output_dir, row["output_name"])
        began_s = time.time()
        plan = None
        try:
            plan = current_plan(row, item_dir)
            if plan is None:
                return row | {"plan_hash": ""}
            if item_dir.read_segment(row["segment"], plan.plan_hash) is not None:
                return row  # Ray runs a task again whose result was lost with its node
            with (
                attempt(item_dir, f"complete-{row['segment']:05d}", this_place(self._job.chain)),
                busy(),
                timed("complete"),
            ):
                samples = list(
                    complete_segment(plan, row["segment"], self._engine, self._job.settings, self._count_completed)
                )
        except GivenUpError:
            return row | {"plan_hash": ""}
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            return row | ended(row["item"], end_segment(item_dir, row["item"], "complete", error, plan, self._job))
        finally:
            give_back_memory()
        completion = {
            "node": ray.get_runtime_context().get_node_id(),
            "began_s": began_s,
            "seconds": time.time() - began_s,
        }
        return row | {"samples": samples, "completion": completion}

    def _count_completed(self, frames: int) -> None:
        # Ray cancels no method of an actor that runs, so a process would finish what it has, and hold its CPUs for it.
        # The answer to the message before is there already.
        goes_on, self._goes_on = self._goes_on, self._job.progress.complete.remote(frames, self._job.chain)
        with suppress(ray.exceptions.RayError):  # the counts are lost; the job is not
            if goes_on is not None and not ray.get(goes_on):
                raise GivenUpError
