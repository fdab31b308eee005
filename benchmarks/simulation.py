"""Runs of a whole archive, and of a training, simulated event by event: who waits for whom, and what kills cost.

A bulk run goes as `pipelines.inpaint` does. All files are there at its start. A plan task reads a few of them on a CPU
core, and their segments then wait for the network; a process completes one segment after another, and begins no
further one while too many wait to be encoded; an encode task takes a core, which also publishes the file if that was
its last segment. Where planning and encoding wait for cores, each gets half of them; planning is not held back, since
its rows are small. The driver starts one task after another. A node that is killed takes with it what runs there and
the predictions that still wait there to be encoded; what is recorded stays. The head node lives.

Plain Python: no Ray, no clock but the simulated one. A run of a hundred thousand files has about a million events.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

Kill = tuple[float, int]  # seconds after the start, and the node


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a run's steps take. Seconds are of one core, or one GPU, for a frame.

    Attributes:
        plan_s: reading and hashing a file.
        read_s: decoding for completion, in a thread of its own.
        own_s: a process's other work around the network: crops, colors, packing.
        network_s: the GPU's work.
        encode_s: decoding again, blending, encoding, checking.
        publish_s: joining, checking and hashing an output.
        seek_frames: decoded in vain before a range that does not begin with its file.
        margin_frames: read beyond each end of a segment that is no end of the file.
        ahead_frames: read after a window's center before it can run.
        radius_frames: of a window: so far beyond a segment's ends windows are centered.
        processes_per_gpu: that share one; each then waits for the others.
    """

    plan_s: float
    read_s: float
    own_s: float
    network_s: float
    encode_s: float
    publish_s: float
    seek_frames: float = 0
    margin_frames: int = 0
    ahead_frames: int = 0
    radius_frames: int = 0
    processes_per_gpu: int = 1

    def completion_s(self, frames: int, *, is_first: bool, is_last: bool) -> float:
        """Of one segment in one process.

        Nothing runs beside the decoding of its margin; then frames are decoded while the network works on others.
        """
        inner_ends = (not is_first) + (not is_last)
        before = 0.0 if is_first else self.seek_frames + self.margin_frames
        read = frames + before + (0 if is_last else self.margin_frames)
        lead = min(read, before + self.ahead_frames)
        worked = frames + self.radius_frames * inner_ends
        alone = lead * self.read_s + max((read - lead) * self.read_s, worked * (self.own_s + self.network_s))
        return max(alone, self.processes_per_gpu * worked * self.network_s)

    def encoding_s(self, frames: int, *, is_first: bool) -> float:
        return frames * self.encode_s + (0.0 if is_first else self.seek_frames * self.read_s)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Equal nodes.

    Attributes:
        num_nodes: of them.
        processes: that complete, on each.
        cores: of each, beside those that its processes take.
        dispatch_s: of the driver, for each task.
        waiting_per_core: completed segments that may wait for each core before no further one is begun.
    """

    num_nodes: int
    processes: int
    cores: int
    dispatch_s: float = 0.0
    waiting_per_core: int = 2

    def __post_init__(self) -> None:
        if min(self.num_nodes, self.processes, self.cores, self.waiting_per_core) < 1:
            raise ValueError(f"expected at least one of each: {self}")


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is to be done.

    Attributes:
        frames: of each file.
        segment_frames: the longest segment.
        files_per_task: planned together.
    """

    frames: Sequence[int]
    segment_frames: int
    files_per_task: int = 1

    @cached_property
    def num_frames(self) -> int:
        return sum(self.frames)

    @cached_property
    def num_segments(self) -> int:
        return sum(map(self.segments_of, range(len(self.frames))))

    def segments_of(self, file: int) -> int:
        return -(-self.frames[file] // self.segment_frames)

    def segment(self, file: int, number: int) -> tuple[int, bool, bool]:
        """Frames of a segment, and whether it is its file's first, and its last."""
        rest = self.frames[file] - number * self.segment_frames
        return min(rest, self.segment_frames), number == 0, rest <= self.segment_frames


class Outcome(NamedTuple):
    """What became of a simulated bulk run.

    Attributes:
        seconds: until the last file was published.
        recorded, published: segments and files, each counted whenever it was.
        begun: tasks, of all steps.
        repeated: tasks done again, those among them whose result was lost after they had ended.
        kills: of nodes that were up.
        process_share, core_share: of the time of all processes, and of all cores, in which they worked.
        driver_share: of the driver's time.
        lost_share: of the seconds worked by processes and cores, what had to be done again.
    """

    seconds: float
    recorded: int
    published: int
    begun: int
    repeated: int
    kills: int
    process_share: float
    core_share: float
    driver_share: float
    lost_share: float


def divided_s(archive: Archive, rates: Rates, cluster: Cluster) -> float:
    """Seconds of a run in which nothing ever waits: the work of the busiest kind over the number of its hands."""
    planning = rates.plan_s * archive.num_frames
    completing = encoding = 0.0
    for file in range(len(archive.frames)):
        for number in range(archive.segments_of(file)):
            frames, is_first, is_last = archive.segment(file, number)
            completing += rates.completion_s(frames, is_first=is_first, is_last=is_last)
            encoding += rates.encoding_s(frames, is_first=is_first)
    encoding += rates.publish_s * archive.num_frames
    return max(
        completing / (cluster.num_nodes * cluster.processes),
        (planning + encoding) / (cluster.num_nodes * cluster.cores),
        num_tasks(archive) * cluster.dispatch_s,
    )


def num_tasks(archive: Archive) -> int:
    """That the driver starts where nothing is done twice."""
    return -(-len(archive.frames) // archive.files_per_task) + 2 * archive.num_segments


def draw_lengths(num_files: int, *, mean_frames: float, sigma: float, seed: int) -> list[int]:
    """Frames of files, by a log-normal distribution with this mean; many are short, a few very long."""
    rng = random.Random(seed)
    mu = math.log(mean_frames) - sigma**2 / 2
    return [max(1, round(rng.lognormvariate(mu, sigma))) for _ in range(num_files)]


def draw_kills(num_nodes: int, *, mean_s: float, seed: int) -> Iterator[Kill]:
    """Kills without end, by chance: each node's are `mean_s` apart in the mean, whatever the others do."""
    rng = random.Random(seed)
    now = 0.0
    while True:
        now += rng.expovariate(num_nodes / mean_s)
        yield now, rng.randrange(num_nodes)


def simulate_archive(
    archive: Archive, rates: Rates, cluster: Cluster, *, kills: Iterable[Kill] = (), away_s: float = 0.0
) -> Outcome:
    """Run a bulk job from its start to its last published file.

    Args:
        archive, rates, cluster: what is done, what it takes, and who does it.
        kills: in order of their time; those of a node that is away hit nothing.
        away_s: until a killed node is back, with all its processes and cores.
    """
    return _ArchiveRun(archive, rates, cluster, iter(kills), away_s).run()


_PLAN, _COMPLETE, _ENCODE, _PUBLISH, _KILL, _RETURN = range(6)


class _Task:
    """One piece of work on one node: a plan of files from `file` on, or segment `number` of a file."""

    __slots__ = ("began_s", "file", "home", "is_lost", "node", "number", "seconds", "step")

    def __init__(self, step: int, file: int, number: int = 0, home: int = 0) -> None:
        self.step, self.file, self.number = step, file, number
        self.home = home  # the node on which a completed segment's predictions lie
        self.node, self.began_s, self.seconds, self.is_lost = 0, 0.0, 0.0, False


class _ArchiveRun:
    def __init__(self, archive: Archive, rates: Rates, cluster: Cluster, kills: Iterator[Kill], away_s: float) -> None:
        self._archive, self._rates, self._cluster = archive, rates, cluster
        self._kills, self._away_s = kills, away_s
        self._events: list[tuple[float, int, int, _Task | int]] = []
        self._num_events = 0
        files = range(0, len(archive.frames), archive.files_per_task)
        self._to_plan = deque(_Task(_PLAN, file) for file in files)
        self._to_complete: deque[_Task] = deque()
        self._to_encode: deque[_Task] = deque()
        self._left = [archive.segments_of(file) for file in range(len(archive.frames))]
        nodes = range(cluster.num_nodes)
        self._is_up = [True] * cluster.num_nodes
        self._running: list[set[_Task]] = [set() for _ in nodes]
        self._free_processes = [node for node in nodes for _ in range(cluster.processes)]
        self._free_cores = [node for node in nodes for _ in range(cluster.cores)]
        self._most_to_encode = cluster.waiting_per_core * len(self._free_cores)
        self._num_plans = self._num_encodings = 0  # that run, the latter with those that publish
        self._driver_free_s = 0.0
        self._worked_s = {_PLAN: 0.0, _COMPLETE: 0.0, _ENCODE: 0.0, _PUBLISH: 0.0}
        self._lost_s = 0.0
        self._recorded = self._published = self._begun = self._repeated = self._num_kills = 0

    def run(self) -> Outcome:
        self._expect_kill()
        self._begin_all(0.0)
        now = 0.0
        while self._published < len(self._left):
            now, _, kind, subject = heapq.heappop(self._events)
            if isinstance(subject, _Task):
                if subject.is_lost:
                    continue
                self._end(subject, now)
            elif kind == _KILL:
                self._kill(subject, now)
                self._expect_kill()
            else:
                self._return(subject)
            self._begin_all(now)
        cluster = self._cluster
        process_s, core_s = (now * cluster.num_nodes * hands for hands in (cluster.processes, cluster.cores))
        completed_s = self._worked_s[_COMPLETE]
        on_cores_s = sum(self._worked_s.values()) - completed_s
        return Outcome(
            seconds=now,
            recorded=self._recorded,
            published=self._published,
            begun=self._begun,
            repeated=self._repeated,
            kills=self._num_kills,
            process_share=_share(completed_s, process_s),
            core_share=_share(on_cores_s, core_s),
            driver_share=_share(self._begun * cluster.dispatch_s, now),
            lost_share=_share(self._lost_s, completed_s + on_cores_s),
        )

    def _expect(self, when_s: float, kind: int, subject: _Task | int) -> None:
        self._num_events += 1  # of two events at one time the older comes first
        heapq.heappush(self._events, (when_s, self._num_events, kind, subject))

    def _expect_kill(self) -> None:
        kill = next(self._kills, None)
        if kill is not None:
            self._expect(kill[0], _KILL, kill[1])

    def _begin_all(self, now: float) -> None:
        while self._free_cores and (self._to_plan or self._to_encode):
            is_plan = not self._to_encode or (bool(self._to_plan) and self._num_plans <= self._num_encodings)
            self._begin((self._to_plan if is_plan else self._to_encode).popleft(), self._free_cores.pop(), now)
        while self._to_complete and self._free_processes and len(self._to_encode) < self._most_to_encode:
            self._begin(self._to_complete.popleft(), self._free_processes.pop(), now)

    def _begin(self, task: _Task, node: int, now: float) -> None:
        self._begun += 1
        self._count(task.step, 1)
        self._driver_free_s = max(now, self._driver_free_s) + self._cluster.dispatch_s
        self._run(task, node, self._driver_free_s)

    def _count(self, step: int, change: int) -> None:
        if step == _PLAN:
            self._num_plans += change
        elif step != _COMPLETE:
            self._num_encodings += change

    def _run(self, task: _Task, node: int, start_s: float) -> None:
        task.node, task.began_s, task.seconds = node, start_s, self._seconds(task)
        self._running[node].add(task)
        self._expect(start_s + task.seconds, task.step, task)

    def _seconds(self, task: _Task) -> float:
        archive, rates = self._archive, self._rates
        if task.step == _PLAN:
            return rates.plan_s * sum(archive.frames[task.file : task.file + archive.files_per_task])
        if task.step == _PUBLISH:
            return rates.publish_s * archive.frames[task.file]
        frames, is_first, is_last = archive.segment(task.file, task.number)
        if task.step == _COMPLETE:
            return rates.completion_s(frames, is_first=is_first, is_last=is_last)
        return rates.encoding_s(frames, is_first=is_first)

    def _end(self, task: _Task, now: float) -> None:
        node = task.node
        self._running[node].discard(task)
        self._worked_s[task.step] += task.seconds
        self._count(task.step, -1)
        if task.step == _COMPLETE:
            self._free_processes.append(node)
            task.step, task.home = _ENCODE, node
            self._to_encode.append(task)
            return
        if task.step == _PLAN:
            for file in range(task.file, min(task.file + self._archive.files_per_task, len(self._left))):
                self._to_complete.extend(_Task(_COMPLETE, file, number) for number in range(self._left[file]))
        elif task.step == _ENCODE:
            self._recorded += 1
            self._left[task.file] -= 1
            assert self._left[task.file] >= 0, f"a segment of file {task.file} was recorded twice"
            if not self._left[task.file]:
                task.step = _PUBLISH
                self._count(task.step, 1)
                self._run(task, node, now)  # in the same task
                return
        else:
            self._published += 1
        self._free_cores.append(node)

    def _kill(self, node: int, now: float) -> None:
        if not self._is_up[node]:
            return
        self._num_kills += 1
        self._is_up[node] = False
        self._free_processes = [free for free in self._free_processes if free != node]
        self._free_cores = [free for free in self._free_cores if free != node]
        for task in sorted(self._running[node], key=lambda task: (task.file, task.number)):
            task.is_lost = True
            self._count(task.step, -1)
            done_s = max(0.0, now - task.began_s)
            self._worked_s[task.step] += done_s
            self._lose(_Task(task.step, task.file, task.number, task.home), done_s)
        self._running[node].clear()
        # Predictions lie in the object store of the node that made them. Tasks that encode have theirs.
        kept: deque[_Task] = deque()
        for task in self._to_encode:
            if task.step == _ENCODE and task.home == node:
                self._lose(_Task(_COMPLETE, task.file, task.number), self._seconds_to_complete(task))
            else:
                kept.append(task)
        self._to_encode = kept
        self._expect(now + self._away_s, _RETURN, node)

    def _lose(self, task: _Task, seconds: float) -> None:
        """Queue a task again, ahead of others; seconds were worked in vain."""
        self._repeated += 1
        self._lost_s += seconds
        if task.step == _ENCODE and not self._is_up[task.home]:
            self._repeated += 1
            self._lost_s += self._seconds_to_complete(task)
            task.step = _COMPLETE
        queue = {_PLAN: self._to_plan, _COMPLETE: self._to_complete}.get(task.step, self._to_encode)
        queue.appendleft(task)

    def _seconds_to_complete(self, task: _Task) -> float:
        return self._seconds(_Task(_COMPLETE, task.file, task.number))

    def _return(self, node: int) -> None:
        self._is_up[node] = True
        self._free_processes += [node] * self._cluster.processes
        self._free_cores += [node] * self._cluster.cores


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


class TrainingOutcome(NamedTuple):
    """What became of a simulated training: its seconds, kills that hit it, steps done again, seconds without steps."""

    seconds: float
    kills: int
    lost_steps: int
    stopped_s: float


def simulate_training(
    *, num_steps: int, step_s: float, checkpoint_interval: int, kills: Iterable[Kill] = (), stopped_s: float = 0.0
) -> TrainingOutcome:
    """Run a training whose workers all wait for a node that is killed, and go on from the last checkpoint.

    Args:
        num_steps, step_s: how many, and seconds of each.
        checkpoint_interval: steps between checkpoints, the writing of which takes no time.
        kills: of the nodes that take part, in order; those that come while it stands hit nothing.
        stopped_s: from a kill to the next step: another node, and the start.
    """
    began_s, done, num_kills, lost = 0.0, 0, 0, 0
    for when_s, _ in kills:
        end_s = began_s + (num_steps - done) * step_s
        if when_s >= end_s:
            break
        if when_s < began_s:
            continue
        reached = done + int((when_s - began_s) / step_s)
        kept = max(done, reached // checkpoint_interval * checkpoint_interval)
        num_kills, lost = num_kills + 1, lost + reached - kept
        began_s, done = when_s + stopped_s, kept
    return TrainingOutcome(began_s + (num_steps - done) * step_s, num_kills, lost, num_kills * stopped_s)
