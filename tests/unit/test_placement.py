import itertools
import socket

import pytest

from sttn_ray import cluster
from sttn_ray.cluster import _answers, _started_cluster
from sttn_ray.errors import ConfigError
from sttn_ray.placement import Need, Node, best_number, carried_actors, smallest_part

CLUSTERS = [
    [(4, 0)],
    [(2, 0), (2, 0)],
    [(3, 0), (3, 0), (1, 0)],
    [(4, 0)] * 4,
    [(1, 1), (8, 0)],
    [(8, 2), (4, 1), (2, 0)],
    [(2, 4), (3, 0)],
]


def leaves_room(nodes: list[tuple[int, int]], placed: tuple[int, ...], actor_cpus: int, video_cpus: int) -> bool:
    return any(cpus - count * actor_cpus >= video_cpus for (cpus, _), count in zip(nodes, placed, strict=True))


@pytest.mark.parametrize("nodes", CLUSTERS)
@pytest.mark.parametrize("actor_cpus", [1, 2, 3])
@pytest.mark.parametrize("video_cpus", [1, 2, 4])
@pytest.mark.parametrize("gpus", [None, 1.0, 0.5, 0.4])
def test_wherever_they_are_put_a_task_of_video_fits(nodes, actor_cpus, video_cpus, gpus):
    """All placements of a small cluster are gone through: no more than are carried are safe in each of them."""
    per_node = [
        min(cpus // actor_cpus, num_gpus * int(1 / gpus) if gpus else cpus // actor_cpus) for cpus, num_gpus in nodes
    ]
    placements = list(itertools.product(*(range(most + 1) for most in per_node)))
    carried = carried_actors([Node(*node) for node in nodes], Need(actor_cpus, video_cpus, gpus))
    safe = {
        count: all(leaves_room(nodes, p, actor_cpus, video_cpus) for p in placements if sum(p) == count)
        for count in range(sum(per_node) + 1)
    }
    if max(cpus for cpus, _ in nodes) < video_cpus:
        assert carried == 0
        return
    assert safe[carried]
    assert carried == sum(per_node) or not safe[carried + 1]


@pytest.mark.parametrize("nodes", CLUSTERS)
@pytest.mark.parametrize("actor_cpus", [1, 2, 3])
@pytest.mark.parametrize("video_cpus", [1, 2, 4])
@pytest.mark.parametrize("gpus", [None, 1.0, 0.5])
def test_a_part_carries_what_it_was_taken_for_and_no_more_is_taken(nodes, actor_cpus, video_cpus, gpus):
    nodes, need = [Node(*node) for node in nodes], Need(actor_cpus, video_cpus, gpus)
    for number in range(1, best_number(nodes, need) + 1):
        part = smallest_part(nodes, need, number)
        assert carried_actors(part, need) >= number
        # It lies in the nodes: each bundle in one of its own.
        left = sorted(nodes, reverse=True)
        assert all(a.cpus <= b.cpus for a, b in zip(sorted(part, reverse=True), left, strict=False))
        assert sum(node.gpus for node in part) <= (0 if gpus is None else -(-number // int(1 / gpus)) + 1)
        one = smallest_part(nodes, need, number, video_tasks=1)
        assert carried_actors(one, need) >= number
        assert sum(node.cpus for node in one) <= sum(node.cpus for node in part)


def test_a_part_by_hand():
    three = [Node(3), Node(3)]
    assert best_number(three, Need(1, 1)) == 4
    assert smallest_part(three, Need(1, 1), 4) == three
    assert smallest_part(three, Need(1, 1), 1) == [Node(3)]  # a process and two tasks of video
    assert smallest_part(three, Need(1, 1), 1, video_tasks=1) == [Node(2)]
    assert smallest_part([Node(2)], Need(1, 1), 1) == [Node(2)]  # there is no more
    # The GPUs are left to those who want them, and so are CPUs of which a GPU has no use.
    assert smallest_part([Node(8, 2), Node(8)], Need(2, 1), 2) == [Node(6)]
    assert smallest_part([Node(96, 8)], Need(2, 1, 1.0), 1) == [Node(14, 1)]
    assert smallest_part([Node(96, 8), Node(4, 1)], Need(2, 1, 1.0), 1, video_tasks=1) == [Node(3, 1)]


def test_as_many_as_asked_for_where_they_are_carried():
    four = [Node(4)]
    assert best_number(four, Need(1, 1)) == 2
    assert [best_number(four, Need(1, 1), wanted) for wanted in (1, 3, 9)] == [1, 3, 3]
    assert best_number([Node(3)], Need(2, 1), 2) == 1
    assert best_number([Node(2)], Need(2, 1), 2) == 0


def test_there_is_no_room_beside_video():
    assert best_number([Node(2)], Need(2, 1)) == 0
    assert best_number([], Need(1, 1)) == 0


def test_a_process_needs_its_cpus_beside_its_gpu():
    assert carried_actors([Node(1, 1), Node(8)], Need(2, 1, 1.0)) == 0
    assert carried_actors([Node(2, 1), Node(8)], Need(2, 1, 1.0)) == 1


def test_a_node_that_is_gone_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as server:
        node = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": server.getsockname()[1]}
        assert _answers(node)
    assert not _answers(node)


def test_a_cluster_that_has_left_its_address_behind_is_not_looked_for(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(cluster, "find_bootstrap_address", lambda folder: address)
        assert _started_cluster() == address
    assert _started_cluster() is None
    monkeypatch.setattr(cluster, "find_bootstrap_address", lambda folder: None)
    assert _started_cluster() is None


def test_a_cluster_of_which_no_node_answers_is_said(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        node = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": server.getsockname()[1]}
    gone = node | {"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0}}
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [gone, gone | {"Alive": False}])
    with pytest.raises(ConfigError, match="no node of the Ray cluster answers"):
        cluster.choose_num_actors(None, "cpu", 1, 1)


def test_nodes_that_get_no_work_are_not_counted(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        node = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": server.getsockname()[1], "Alive": True}
        nodes = [node | {"NodeID": name, "Resources": {"CPU": 4.0, "GPU": 1.0}} for name in "abc"]
        monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
        assert cluster.choose_num_actors(None, "cuda", 2, 1) == (3, 3)
        assert cluster.choose_num_actors(None, "cuda", 2, 1, avoided={"a"}) == (2, 2)
        assert cluster.choose_num_actors(5, "cuda", 2, 1, takes_fewer=True, avoided={"a", "b"}) == (1, 1)
        with pytest.raises(ConfigError, match="no node of the Ray cluster but those that get no work answers"):
            cluster.choose_num_actors(None, "cuda", 2, 1, avoided=set("abc"))
        assert cluster.choose_num_actors(5, "cuda", 2, 1, can_grow=True, avoided=set("abc")) == (
            1,
            5,
        )  # others may come
