"""The simulation of a run against cases that can be computed by hand, and what holds for every run."""

from itertools import islice, pairwise
from typing import Any

import pytest

from benchmarks.simulation import (
    Archive,
    Cluster,
    Kill,
    Outcome,
    Rates,
    divided_s,
    draw_kills,
    draw_lengths,
    num_tasks,
    simulate_archive,
    simulate_training,
)

FREE = Rates(plan_s=0, read_s=0, own_s=0, network_s=0, encode_s=0, publish_s=0)
REAL = Rates(
    plan_s=0.001,
    read_s=0.01,
    own_s=0.01,
    network_s=0.04,
    encode_s=0.1,
    publish_s=0.001,
    seek_frames=50,
    margin_frames=86,
    ahead_frames=80,
    radius_frames=5,
)
MANY = Archive(frames=draw_lengths(300, mean_frames=700, sigma=1.0, seed=0), segment_frames=250, files_per_task=7)


def rates(**changes: float) -> Rates:
    return Rates(**{**vars(FREE), **changes})


def cluster(num_nodes: int = 1, processes: int = 1, cores: int = 1, **changes: Any) -> Cluster:
    return Cluster(num_nodes=num_nodes, processes=processes, cores=cores, **changes)


def files(*frames: int) -> Archive:
    return Archive(frames=frames, segment_frames=100)


def simulate(archive: Archive, given: Rates, on: Cluster, *kills: Kill, away_s: float = 0.0) -> Outcome:
    outcome = simulate_archive(archive, given, on, kills=kills, away_s=away_s)
    check_all_was_done_once(outcome, archive)
    assert outcome.seconds >= divided_s(archive, given, on) * (1 - 1e-9)
    return outcome


def check_all_was_done_once(outcome: Outcome, archive: Archive) -> None:
    assert outcome.recorded == archive.num_segments
    assert outcome.published == len(archive.frames)
    assert outcome.begun == num_tasks(archive) + outcome.repeated
    shares = (outcome.process_share, outcome.core_share, outcome.driver_share, outcome.lost_share)
    assert all(0 <= share <= 1 + 1e-9 for share in shares)


# One step binds


@pytest.mark.parametrize(("servers", "seconds"), [(1, 100), (2, 50), (3, 40), (10, 10), (64, 10)])
def test_equal_tasks_on_some_processes(servers: int, seconds: float):
    archive, given = files(*[100] * 10), rates(network_s=0.1)
    assert simulate(archive, given, cluster(processes=servers)).seconds == pytest.approx(seconds)
    assert simulate(archive, given, cluster(num_nodes=servers)).seconds == pytest.approx(seconds)


@pytest.mark.parametrize(("cores", "seconds"), [(1, 80), (4, 20), (5, 20), (8, 10)])
def test_equal_tasks_on_some_cores(cores: int, seconds: float):
    outcome = simulate(files(*[100] * 8), rates(encode_s=0.1), cluster(cores=cores))
    assert outcome.seconds == pytest.approx(seconds)
    assert outcome.core_share == pytest.approx(80 / (seconds * cores))
    assert outcome.process_share == 0


def test_one_file_goes_through_all_steps():
    outcome = simulate(files(100), rates(plan_s=0.01, network_s=0.1, encode_s=0.05, publish_s=0.02), cluster())
    assert outcome.seconds == pytest.approx(1 + 10 + 5 + 2)
    assert outcome.process_share == pytest.approx(10 / 18)
    assert outcome.core_share == pytest.approx(8 / 18)


def test_steps_run_beside_one_another():
    """Ten segments, ten seconds each on the GPU and five on a core: only the last one's encoding is not hidden."""
    outcome = simulate(files(1000), rates(network_s=0.1, encode_s=0.05), cluster())
    assert outcome.seconds == pytest.approx(105)


def test_a_slow_encoder_holds_the_network_back():
    given, on = rates(network_s=0.01, encode_s=0.1), cluster(waiting_per_core=1)
    outcome = simulate(files(*[100] * 20), given, on, (100.5, 0))
    # Killed at 100.5, when nine are recorded, one is being encoded, and one waits: no more of them were completed.
    assert outcome.repeated == 3
    assert outcome.seconds == pytest.approx(100.5 + 1 + 11 * 10)


def test_the_driver_starts_one_task_after_another():
    outcome = simulate(files(*[100] * 50), rates(network_s=0.001), cluster(processes=50, cores=50, dispatch_s=0.5))
    assert outcome.seconds == pytest.approx(150 * 0.5, rel=0.02)
    assert outcome.driver_share == pytest.approx(1, abs=0.02)


def test_a_plan_of_several_files_gives_its_segments_at_its_end():
    archive = Archive(frames=[100] * 4, segment_frames=100, files_per_task=2)
    given = rates(plan_s=0.1, network_s=0.01)
    assert simulate(archive, given, cluster(cores=2)).seconds == pytest.approx(20 + 4)
    assert simulate(archive, given, cluster(cores=1)).seconds == pytest.approx(20 + 20 + 2)


def test_planning_and_encoding_share_the_cores():
    """Two cores: one plans ten seconds a file, and the other encodes eight seconds a segment, until all is planned."""
    outcome = simulate(files(*[100] * 20), rates(plan_s=0.1, encode_s=0.08), cluster(cores=2))
    # Both plan until 10; then one plans the other 18 until 190, and the other core keeps up.
    assert outcome.seconds == pytest.approx(190, abs=8)
    assert outcome.core_share > 0.9


# A segment


def test_completion_of_a_segment_by_hand():
    given = rates(read_s=0.01, own_s=0.02, network_s=0.03)
    assert given.completion_s(100, is_first=True, is_last=True) == pytest.approx(5)
    edges = Rates(**{**vars(given), "seek_frames": 40, "margin_frames": 20, "ahead_frames": 10, "radius_frames": 5})
    # 70 frames are read first; then 110 windows' frames take longer than the 110 frames that are still to be read.
    assert edges.completion_s(100, is_first=False, is_last=False) == pytest.approx(0.7 + 110 * 0.05)
    assert edges.completion_s(100, is_first=True, is_last=False) == pytest.approx(0.1 + 105 * 0.05)
    slow = Rates(**{**vars(edges), "read_s": 0.1})
    assert slow.completion_s(100, is_first=False, is_last=False) == pytest.approx(0.1 * (100 + 40 + 2 * 20))
    assert slow.encoding_s(100, is_first=False) == pytest.approx(4)
    assert slow.encoding_s(100, is_first=True) == 0


def test_processes_that_share_a_gpu_wait_for_one_another():
    shared = rates(own_s=0.03, network_s=0.03, processes_per_gpu=2)
    assert shared.completion_s(100, is_first=True, is_last=True) == pytest.approx(6)
    busy = rates(own_s=0.01, network_s=0.03, processes_per_gpu=2)
    assert busy.completion_s(100, is_first=True, is_last=True) == pytest.approx(6)


def test_segments_of_a_file():
    archive = files(250, 100)
    assert [archive.segment(0, number) for number in range(3)] == [
        (100, True, False),
        (100, False, False),
        (50, False, True),
    ]
    assert archive.segment(1, 0) == (100, True, True)
    assert (archive.num_frames, archive.num_segments) == (350, 4)


# Kills


def test_a_kill_at_a_known_time():
    """Killed at 15: the second segment is lost after 5 seconds, and begun anew at 18."""
    outcome = simulate(files(100, 100, 100), rates(network_s=0.1), cluster(), (15, 0), away_s=3)
    assert outcome.seconds == pytest.approx(18 + 20)
    assert (outcome.kills, outcome.repeated) == (1, 1)
    assert outcome.lost_share == pytest.approx(5 / 35)


def test_predictions_that_wait_are_lost_with_their_node():
    """The first is being encoded at 25, the second waits: both are completed again."""
    given = rates(network_s=0.1, encode_s=1.0)
    outcome = simulate(files(100, 100), given, cluster(), (25, 0))
    # Encoded from 10 on, killed at 25: completed again from 25 to 45, encoded from 35 to 235.
    assert outcome.seconds == pytest.approx(235)
    assert outcome.repeated == 3  # an encoding and two completions
    assert outcome.lost_share == pytest.approx((15 + 20) / (15 + 20 + 20 + 200))


def test_what_is_recorded_is_not_done_again():
    given = rates(network_s=0.1, encode_s=0.01, publish_s=1.0)
    outcome = simulate(files(100), given, cluster(), (50, 0))
    assert outcome.seconds == pytest.approx(50 + 100)  # publishing alone
    assert outcome.repeated == 1


def test_the_other_nodes_go_on():
    archive, given, on = files(*[100] * 8), rates(network_s=0.1), cluster(num_nodes=2)
    assert simulate(archive, given, on).seconds == pytest.approx(40)
    # The second node is away from 15 to 1015: one process does what is left, 7 segments from 0 on.
    assert simulate(archive, given, on, (15, 1), away_s=1000).seconds == pytest.approx(70)


def test_kills_of_a_node_that_is_away_hit_nothing():
    archive, given = files(100, 100), rates(network_s=0.1)
    one = simulate(archive, given, cluster(), (5, 0), away_s=10)
    assert simulate(archive, given, cluster(), (5, 0), (6, 0), (14, 0), away_s=10) == one
    assert one.kills == 1


def test_a_node_that_dies_often_ends_all_the_same():
    kills = [(3.0 + 11 * n, 0) for n in range(20)]
    outcome = simulate(files(*[100] * 3), rates(network_s=0.1), cluster(), *kills)
    assert outcome.seconds == pytest.approx(35)  # begun at 0, 3; 13, 14; 24, 25


def test_kills_come_as_often_as_asked_for():
    kills = list(islice(draw_kills(8, mean_s=100, seed=0), 4000))
    assert kills[-1][0] == pytest.approx(4000 * 100 / 8, rel=0.05)
    assert {node for _, node in kills} == set(range(8))
    assert kills == list(islice(draw_kills(8, mean_s=100, seed=0), 4000))


# Every run


@pytest.mark.parametrize("num_nodes", [1, 3, 16])
@pytest.mark.parametrize("mean_s", [None, 20_000, 300])
def test_every_segment_is_done_once_and_none_is_lost(num_nodes: int, mean_s: float | None):
    on = cluster(num_nodes, cores=3, dispatch_s=0.008)
    kills = draw_kills(num_nodes, mean_s=mean_s, seed=1) if mean_s else ()
    outcome = simulate_archive(MANY, REAL, on, kills=kills, away_s=60)
    check_all_was_done_once(outcome, MANY)
    assert outcome.seconds >= divided_s(MANY, REAL, on)
    assert outcome.kills > 0 or num_nodes == 16 or mean_s is None
    again = draw_kills(num_nodes, mean_s=mean_s, seed=1) if mean_s else ()
    assert simulate_archive(MANY, REAL, on, kills=again, away_s=60) == outcome


def test_more_hands_are_never_slower():
    by_nodes = [simulate(MANY, REAL, cluster(n, cores=3)).seconds for n in (1, 2, 4, 8, 16, 32)]
    assert by_nodes == sorted(by_nodes, reverse=True)
    by_cores = [simulate(MANY, REAL, cluster(2, cores=n)).seconds for n in (1, 2, 3, 4, 8)]
    # Lists of tasks of unlike length may end a little later with more hands (Graham's anomaly).
    assert all(more <= fewer * 1.01 for fewer, more in pairwise(by_cores))


def test_a_long_run_comes_near_its_division():
    on = cluster(2, cores=8)
    assert simulate(MANY, REAL, on).seconds < 1.1 * divided_s(MANY, REAL, on)


def test_lengths_have_the_mean_that_was_asked_for():
    lengths = draw_lengths(20_000, mean_frames=1400, sigma=1.0, seed=3)
    assert sum(lengths) / len(lengths) == pytest.approx(1400, rel=0.03)
    assert min(lengths) >= 1


def test_a_cluster_without_cores_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        cluster(cores=0)


# Training


def train(*kills: Kill, **changes: Any) -> tuple[float, int, int, float]:
    given: dict[str, Any] = {"num_steps": 1000, "step_s": 2.0, "checkpoint_interval": 100, "stopped_s": 60.0}
    return tuple(simulate_training(**{**given, **changes}, kills=kills))  # type: ignore[return-value]


def test_a_training_without_kills():
    assert train() == (2000, 0, 0, 0)


def test_a_training_goes_on_from_its_last_checkpoint():
    """Killed at step 250: the 50 steps since step 200 are done again, after a minute."""
    assert train((500, 0)) == (500 + 60 + 800 * 2, 1, 50, 60)


def test_kills_while_a_training_stands_and_after_its_end_hit_nothing():
    assert train((500, 0), (530, 1), (2160, 0)) == train((500, 0))


def test_a_second_kill_before_another_checkpoint():
    assert train((500, 0), (660, 0)) == (660 + 60 + 800 * 2, 2, 100, 120)
