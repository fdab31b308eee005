"""Have a cluster that grows bring nodes up, run a program on them, and let them go.

    python clusters/with_nodes.py --gpus 4 --cpus 32 -- python -m pipelines.inpaint configs/archive.yaml

Programs count the nodes that are there when they start: on a cluster whose workers start from zero, that is none. This
asks for GPUs and CPUs, waits until they are there, and runs what follows `--`. Nodes on which something of it runs
stay. With it ends the request, and a node goes when it has been idle for the cluster's time. Exit status: that of the
program; 2 where the request is wrong, or the nodes did not come in time.
"""

import argparse
import logging
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

import ray
from ray.autoscaler.sdk import request_resources

log = logging.getLogger("with_nodes")

POLL_INTERVAL_S = 2.0
REPORT_INTERVAL_S = 30.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a program on nodes that were asked for; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    options, command = _parse(list(sys.argv[1:] if argv is None else argv))
    # `ray job stop`: first let the nodes go, for the process is killed soon after.
    signal.signal(signal.SIGTERM, _end)
    ray.init(address="auto", logging_level=logging.WARNING, log_to_driver=False)
    wanted = {"GPU": options.gpus, "CPU": options.cpus}
    try:
        if not _wait(wanted, options.wait_s):
            return 2
        return _run(command) if command else 0
    finally:
        request_resources(num_cpus=0)  # takes the place of the last one
        ray.shutdown()


def _run(command: list[str]) -> int:
    process = subprocess.Popen(command)
    try:
        return process.wait()
    except SystemExit:
        process.terminate()  # it ends as it would alone; what is left then, Ray kills
        raise


def _parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    ours, command = words, []
    if "--" in words:
        ours, command = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        "with_nodes.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, default=0, help="GPUs, one at a time on any node")
    parser.add_argument("--cpus", type=int, default=0, help="CPUs, one at a time on any node; those of GPU nodes count")
    parser.add_argument("--wait-s", type=float, default=1200, help="give up after so many seconds; default 1200")
    options = parser.parse_args(ours)
    if not command and (options.gpus or options.cpus):
        parser.error("no program: give it after --")
    if min(options.gpus, options.cpus) < 0 or not math.isfinite(options.wait_s):
        parser.error("--gpus and --cpus are 0 or more, --wait-s is a number of seconds")
    return options, command


def _wait(wanted: dict[str, int], wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    reported = -math.inf
    while True:
        # Again and again: each job of Ray Data leaves an actor on the cluster that every twenty seconds puts its own
        # requests, mostly none, in the place of all others.
        request_resources(bundles=[{name: 1} for name, count in wanted.items() for _ in range(count)])
        there = ray.cluster_resources()
        if all(there.get(name, 0) >= count for name, count in wanted.items()):
            return True
        state = ", ".join(f"{there.get(name, 0):g} of {count} {name}s" for name, count in wanted.items() if count)
        if time.monotonic() > end:
            log.error(
                "error: after %.0f s the cluster has %s. `ray status` on the head tells whether nodes come, and why "
                "not: a quota, no capacity, or max_workers",
                wait_s,
                state,
            )
            return False
        if time.monotonic() - reported >= REPORT_INTERVAL_S:
            log.info("waiting for nodes: %s", state)
            reported = time.monotonic()
        time.sleep(POLL_INTERVAL_S)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
