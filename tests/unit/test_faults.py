"""Who is blamed where GPUs fail: a node, a video, or all."""

from collections.abc import Collection

import pytest

from pipelines.inpaint_faults import Nodes, left_behind, next_nodes
from pipelines.inpaint_steps import Pool
from sttn_ray.catalog.faults import (
    MAX_BAD_ITEMS,
    MAX_FAULTS,
    NO_ITEM,
    Blamed,
    Fault,
    Health,
    blame,
    decide,
    describe_faults,
    describe_sick,
    is_common,
)
from sttn_ray.errors import ConfigError, DeviceError


def fault(node: str, item: int, chain: int = 0) -> Fault:
    return Fault(
        node=node,
        address=f"address of {node}",
        gpus="3",
        item=item,
        name=f"segment 2 of video {item}",
        reason="CUDA error: unspecified launch failure",
        chain=chain,
    )


def test_a_node_is_sick_after_three_faults_whatever_they_were_at() -> None:
    faults = [fault("a", 0), fault("a", NO_ITEM), fault("b", 1), fault("b", 2)]
    assert blame(faults) == (set(), set())
    assert blame([*faults, fault("a", 0, chain=1)]) == ({"a"}, set())


def test_a_video_is_left_where_it_failed_and_begun_elsewhere_or_in_another_chain() -> None:
    faults = [fault("a", 0)]
    assert decide(faults, 0, "a", 0) == "leave"
    assert decide(faults, 0, "b", 0) == "go"
    assert decide(faults, 0, "a", 1) == "go"
    assert decide(faults, 1, "a", 0) == "go"


def test_a_sick_node_waits_also_where_a_process_starts() -> None:
    faults = [fault("a", NO_ITEM)] * MAX_FAULTS
    assert decide(faults, NO_ITEM, "a", 5) == "wait"
    assert decide(faults, 7, "a", 5) == "wait"
    assert decide(faults, NO_ITEM, "b", 5) == "go"
    assert decide(faults[1:], NO_ITEM, "a", 0) == "go"


def test_starts_that_fail_on_several_nodes_are_no_video() -> None:
    faults = [fault("a", NO_ITEM), fault("b", NO_ITEM)]
    assert blame(faults) == (set(), set())
    assert decide(faults, NO_ITEM, "a", 0) == "go"


def test_a_video_that_fails_on_two_nodes_that_do_other_work_is_to_blame() -> None:
    faults = [fault("a", 0), fault("b", 0)]
    with pytest.raises(
        DeviceError, match=r"several nodes \(address of a, address of b\), .*at segment 2 of video 0: CUDA"
    ):
        decide(faults, 0, "c", 1)
    assert decide(faults, 1, "c", 1) == "go"


def test_faults_on_a_sick_node_say_nothing_of_a_video() -> None:
    faults = [*(fault("a", item) for item in range(MAX_FAULTS)), fault("b", 0)]
    assert blame(faults) == ({"a"}, set())
    assert decide(faults, 0, "c", 0) == "go"
    assert decide(faults, 0, "b", 0) == "leave"
    assert blame([*faults, fault("c", 0)]).items == {0}


def test_many_videos_that_make_gpus_fail_leave_the_nodes_at_work() -> None:
    faults = [fault(node, item) for item in range(20) for node in "ab"]
    assert blame(faults) == (set(), set(range(20)))


def test_what_fails_on_all_nodes_that_began_is_common_to_them() -> None:
    faults = [fault(node, item) for node in "abc" for item in range(MAX_FAULTS)]
    assert is_common(Health(faults, {"a"}))
    assert not is_common(Health(faults, {"a", "d"}))
    assert not is_common(Health(faults[: 2 * MAX_FAULTS], set()))
    bad = [fault(node, item) for item in range(MAX_BAD_ITEMS) for node in "ab"]
    assert is_common(Health(bad, set()))
    assert not is_common(Health(bad, {"a"}))
    assert not is_common(Health(bad[:-1], set()))


def test_segments_of_one_video_that_fail_side_by_side_count_once() -> None:
    """A node with several GPUs may be at many of them at once; on another node they make it the video."""
    assert blame([fault("a", 0)] * 5) == Blamed(frozenset(), frozenset())
    assert blame([fault("a", 0)] * 5 + [fault("b", 0)] * 5) == Blamed(frozenset(), frozenset({0}))
    assert blame([fault("a", 0, chain=n) for n in range(MAX_FAULTS)]).nodes == {"a"}  # with nobody else to ask
    assert blame([fault("a", NO_ITEM)] * MAX_FAULTS).nodes == {"a"}


def test_a_sick_node_is_named_with_what_to_do() -> None:
    faults = [fault("a", 0), fault("a", 0, chain=1), fault("b", 1), fault("a", 2)]
    (line,) = describe_sick(faults).values()
    assert line.startswith(
        "node address of a (a) gets no more work: its GPU 3 failed 3 times (at segment 2 of video 0; segment 2 of "
        "video 2), the last time: CUDA error: unspecified launch failure; look at `nvidia-smi`"
    )
    assert describe_faults(faults) == [
        "device of node address of a (a): 3 faults, the last one at segment 2 of video 2: CUDA error: unspecified "
        "launch failure; the node got no more work",
        "device of node address of b (b): 1 fault, the last one at segment 2 of video 1: CUDA error: unspecified "
        "launch failure",
    ]


def test_a_node_whose_processor_computes_wrong_numbers_is_not_told_to_look_at_its_gpu() -> None:
    reason = "bf16 on cpu gives wrong numbers here: Generator: cosine nan; say precision=fp32"
    (line,) = describe_sick([fault("a", NO_ITEM)._replace(gpus="", reason=reason)] * 3).values()
    assert "its device failed 3 times" in line
    assert line.endswith(f"{reason}; do what that says, and start Ray on the node anew: then it gets work again")


def test_left_are_the_videos_of_this_chain_that_have_not_ended() -> None:
    faults = [fault("a", 0, chain=0), fault("a", 1, chain=1), fault("a", 2, chain=1), fault("a", NO_ITEM, chain=1)]
    assert left_behind(faults, 1, {1}) == [faults[2]]


def pool(size: int) -> Pool:
    return Pool(size=size, min_size=size, cpus=1, gpus=None, video_cpus=1)


class Cluster:
    """Nodes a to d, a process each; what was told."""

    def __init__(self, faults: list[Fault], working: str = "", names: str = "abcd"):
        self.health, self.names, self.told = Health(faults, set(working)), names, list[str]()

    def choose(self, avoided: Collection[str]) -> Pool:
        if size := len(set(self.names) - set(avoided)):
            return pool(size)
        raise ConfigError("none")

    def next(self, before: Nodes, left: list[Fault]) -> Nodes | str:
        return next_nodes(before, self.health, left, self.choose, self.told.append)


def test_a_new_chain_avoids_sick_nodes_and_those_where_its_segments_failed() -> None:
    faults = [fault("a", item) for item in range(3)] + [fault("b", 9)]
    cluster = Cluster(faults)
    after = cluster.next(Nodes(pool(4)), [])
    assert after == Nodes(pool(3), frozenset("a"))
    assert "address of a (a) gets no more work" in cluster.told[0]
    assert cluster.told[1].startswith("a node gets no more work: going on with 3 instead of 4 processes")
    cluster.told.clear()
    assert cluster.next(after, faults[3:]) == Nodes(pool(2), frozenset("ab"))
    assert cluster.told == ["going on with what GPUs failed at, with 2 processes"]  # a is not named again


def test_where_no_other_node_is_left_it_is_tried_again_on_the_same_one_until_that_is_sick() -> None:
    faults = [fault("a", 0), fault("a", 0, chain=1)]
    assert Cluster(faults, names="a").next(Nodes(pool(1)), faults) == Nodes(pool(1))
    faults.append(fault("a", 0, chain=2))
    cluster = Cluster(faults, names="a")
    stopped = cluster.next(Nodes(pool(1)), faults)
    assert isinstance(stopped, str)
    assert stopped.startswith("no node is left that could run the network:\nnode address of a (a) gets no more work")
    assert cluster.told == []  # it is told as the reason


def test_what_all_nodes_have_in_common_ends_a_job_though_nodes_may_come() -> None:
    faults = [fault(node, item) for node in "abc" for item in range(MAX_FAULTS)]
    stopped = Cluster(faults).next(Nodes(pool(4)), [])
    assert isinstance(stopped, str)
    assert "what they have in common" in stopped
    assert isinstance(Cluster(faults, working="d").next(Nodes(pool(4)), []), Nodes)


def test_lost_and_added_nodes_are_told_as_before() -> None:
    cluster = Cluster([])
    assert cluster.next(Nodes(pool(5)), []) == Nodes(pool(4))
    assert cluster.next(Nodes(pool(3)), []) == Nodes(pool(4))
    assert [line.split(";")[0] for line in cluster.told] == [
        "the cluster has lost nodes: going on with 4 instead of 5 processes",
        "the cluster has got nodes: going on with 4 instead of 3 processes",
    ]
