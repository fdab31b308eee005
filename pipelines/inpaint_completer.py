"""The operator of `pipelines.inpaint` that runs the network."""

import time
from typing import Any

import ray

from sttn_ray.catalog.attempts import attempt
from sttn_ray.catalog.complete import complete_segment, start_engine
from sttn_ray.catalog.records import ItemDir
from sttn_ray.memory import give_back_memory

from .gauges import busy, timed
from .inpaint_steps import NOT_BEGUN, Job, current_plan, end_segment, ended, this_place

Row = dict[str, Any]


class Completer:
    """A network that completes segments.

    Reads output_name, segment; adds samples, a list with the packed prediction of each frame, and completion, what is
    recorded of it: the node, when it began (seconds since 1970), and how many seconds it took.
    """

    def __init__(self, generator: ray.ObjectRef, job: Job, threads: int) -> None:
        self._engine, self._job = start_engine(ray.get(generator), job.settings, threads=threads), job

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
        self._job.progress.add.remote("completed", frames)
