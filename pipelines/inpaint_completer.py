"""The operator of `pipelines.inpaint` that runs the network.

torch is loaded where the network is: the driver, which names the operator, goes without.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import ray

from sttn_ray.attempts import attempt
from sttn_ray.catalog.faults import KILLED, NO_ITEM, Decision, Fault, decide
from sttn_ray.catalog.records import ItemDir
from sttn_ray.errors import DeviceError
from sttn_ray.memory import give_back_memory

from .gauges import busy, timed
from .inpaint_faults import known_health
from .inpaint_network import load_network
from .inpaint_steps import NOT_BEGUN, Job, current_plan, end_segment, ended
from .place import this_place

if TYPE_CHECKING:
    from sttn_ray.completion.engine import Engine

Row = dict[str, Any]
WAIT_S = 1.0
START_TRIES, START_WAIT_S = 4, 10.0


class GivenUpError(Exception):
    """The job works in another chain of operators now, and nobody takes what this one does."""


class Completer:
    """A network that completes segments.

    Reads output_name, segment; adds samples, a list with the packed prediction of each frame, and completion, what is
    recorded of it: the node, when it began (seconds since 1970), and how many seconds it took.
    """

    def __init__(self, network: ray.ObjectRef, job: Job, threads: int) -> None:
        from sttn_ray.catalog.complete import start_engine
        from sttn_ray.completion.device import is_device_fault, is_out_of_memory

        context = ray.get_runtime_context()
        self._job, self._node, self._actor = job, context.get_node_id(), context.get_actor_id()
        self._goes_on: ray.ObjectRef | None = None
        self._engine: Engine | None = None
        with suppress(ray.exceptions.RayError):
            ray.get(job.progress.begin_start.remote(self._actor, self._fault(NO_ITEM, "its start", KILLED)))
        if self._decide(NO_ITEM) == "wait":
            return  # Ray starts it again where it ended; it will wait with its first row
        try:
            self._engine = _start(lambda: start_engine(load_network(ray.get(network)), job.settings, threads=threads))
        except Exception as error:
            # A `DeviceError` is of a device that computes wrong numbers.
            if is_device_fault(error) or is_out_of_memory(error) or isinstance(error, DeviceError):
                self._end_process(NO_ITEM, "its start", error)
            raise
        job.progress.start.remote(self._actor, self._node)

    def __call__(self, row: Row) -> Row:
        from sttn_ray.catalog.complete import complete_segment
        from sttn_ray.completion.device import is_device_fault

        if row["outcomes"]:
            return row
        if self._job.is_over:
            return row | ended(row["item"], NOT_BEGUN)
        item_dir = ItemDir(self._job.output_dir, row["output_name"])
        began_s = time.time()
        plan, is_at_work = None, False
        try:
            plan = current_plan(row, item_dir)
            if plan is None:
                return row | {"plan_hash": ""}
            if item_dir.read_segment(row["segment"], plan.plan_hash) is not None:
                return row  # Ray runs a task again whose result was lost with its node
            decision = self._decide(row["item"])
            if decision == "wait" or self._engine is None:
                self._wait_for_the_end()
            if decision == "leave":
                return row | {"plan_hash": ""}
            with (
                attempt(
                    item_dir.path,
                    f"complete-{row['segment']:05d}",
                    this_place(self._job.chain),
                    item_dir.again,
                ),
                busy(),
                timed("complete"),
            ):
                is_at_work = True
                samples = list(
                    complete_segment(plan, row["segment"], self._engine, self._job.settings, self._count_completed)
                )
        except GivenUpError:
            return row | {"plan_hash": ""}
        except Exception as error:  # noqa: BLE001 -- this operator's one boundary
            # Memory that is too short even for one frame at a time: another device may have more.
            if is_device_fault(error) or (is_at_work and isinstance(error, DeviceError)):
                name = f"segment {row['segment']} of {row['output_name']}"
                self._end_process(row["item"], name, error)
            return row | ended(row["item"], end_segment(item_dir, row["item"], "complete", error, plan, self._job))
        finally:
            give_back_memory()
        completion = {
            "node": self._node,
            "began_s": began_s,
            "seconds": time.time() - began_s,
        }
        return row | {"samples": samples, "completion": completion}

    def _count_completed(self, frames: int) -> None:
        # Ray cancels no method of an actor that runs, so a process would finish what it has, and hold its CPUs for it.
        # The answer to the message before is there already.
        goes_on = self._goes_on
        self._goes_on = self._job.progress.complete.remote(frames, self._job.chain, self._node)
        with suppress(ray.exceptions.RayError):  # the counts are lost; the job is not
            if goes_on is not None and not ray.get(goes_on):
                raise GivenUpError

    def _decide(self, item: int) -> Decision:
        return decide(known_health(self._job.progress).faults, item, self._node, self._job.chain)

    def _wait_for_the_end(self) -> NoReturn:
        """Keep a sick node from taking further rows until the chain of operators is given up."""
        with suppress(ray.exceptions.RayActorError):  # the whole job has ended
            while self._is_current():
                time.sleep(WAIT_S)
        raise GivenUpError

    def _is_current(self) -> bool:
        try:
            return bool(ray.get(self._job.progress.goes_on.remote(self._job.chain)))
        except ray.exceptions.ActorUnavailableError:
            return True  # the network is away for a moment

    def _end_process(self, item: int, name: str, error: Exception) -> NoReturn:
        """End this process, whose GPU failed; Ray starts another one, and gives it the same row.

        An exception from `__init__` would end the job.
        """
        from sttn_ray.completion.device import first_line

        fault = self._fault(item, name, first_line(error))
        with suppress(ray.exceptions.RayError):
            ray.get(self._job.progress.fail.remote(self._actor, fault))
        os._exit(1)

    def _fault(self, item: int, name: str, reason: str) -> Fault:
        return Fault(
            node=self._node,
            address=ray.util.get_node_ip_address(),
            gpus=", ".join(ray.get_runtime_context().get_accelerator_ids().get("GPU", [])),
            item=item,
            name=name,
            reason=reason,
            chain=self._job.chain,
        )


def _start(start: Callable[[], "Engine"]) -> "Engine":
    """Start, and try again where memory is short: the processes of a job that has just ended may hold it yet."""
    from sttn_ray.completion.device import is_out_of_memory

    for _ in range(START_TRIES - 1):
        try:
            return start()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        time.sleep(START_WAIT_S)
    return start()
