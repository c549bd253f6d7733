"""What starts when: packing of jobs into an allocation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orionflow.launchers.packing import PATIENCE, Need, Node, Room, Running, plan
from orionflow.launchers.resources import Resources

NOW = 1000.0


def room(nodes=1, cores=8, memory=None, gpus=0):
    return Room(Node(f"n{i}", list(range(cores)), memory, list(range(gpus)))
                for i in range(nodes))


def started(result):
    return [start.need.key for start in result.starts]


def test_jobs_start_in_their_order_until_the_cores_are_used():
    needs = [Need(1, cores=4), Need(2, cores=3), Need(3, cores=2), Need(4, cores=1)]
    result = plan(needs, room(), [], NOW)
    assert started(result) == [1, 2, 4]  # 3 can start beside 4 once 1 or 2 has ended
    assert result.reserved[0].key == 3
    used = [c for s in result.starts for share in s.placement for c in share.cores]
    assert sorted(used) == list(range(8))


def test_a_short_job_passes_a_waiting_big_one_only_when_it_does_not_delay_it():
    here = room()
    occupied = here.place(Need(0, cores=6))
    here.take(occupied)
    running = [Running(NOW + 100, occupied)]
    big = Need(1, cores=8, seconds=1000)
    needs = [big, Need(2, cores=1, seconds=101), Need(3, cores=1, seconds=99)]
    result = plan(needs, here, running, NOW)
    assert started(result) == [3]
    assert result.reserved == (big, NOW + 100)


def test_wide_jobs_run_together_and_none_waits_much_longer_than_its_patience():
    # 2 cores, 1 s jobs of one and two cores arriving mixed; each start and end is simulated.
    here, clock, running, begun = room(cores=2), 0.0, [], {}
    arrivals = [Need(i, cores=2 if i % 3 == 0 else 1, seconds=1.0) for i in range(600)]
    window = []
    while arrivals or window or running:
        while arrivals and len(window) < 16:
            window.append(replace(arrivals.pop(0), since=clock))
        for start in plan(window, here, running, clock).starts:
            here.take(start.placement)
            running.append(Running(clock + 1.0 + 0.1 * (start.need.key % 7), start.placement))
            begun[start.need.key] = clock - start.need.since
            window.remove(start.need)
        running.sort(key=lambda r: r.end)
        clock = running[0].end
        here.give(running.pop(0).placement)
    assert sorted(begun) == list(range(600))
    # The cores were drained a few times, not for each of the 200 wide jobs.
    work = sum((1.0 + 0.1 * (k % 7)) * (2 if k % 3 == 0 else 1) for k in begun)
    assert work / (2 * clock) > 0.97
    # Patience, then those that were late before it, at most a window of them.
    assert max(begun.values()) < PATIENCE + 16 * 1.6


def test_a_higher_priority_goes_before_a_wider_job():
    wide, urgent = Need(1, cores=8, since=NOW), Need(2, priority=1, since=NOW)
    assert started(plan([urgent, wide], room(), [], NOW)) == [2]


def test_room_is_kept_at_once_for_a_job_that_could_not_finish_later():
    here = room(cores=2)
    occupied = here.place(Need(0))
    here.take(occupied)
    needs = [Need(1, cores=2, seconds=50, since=NOW), Need(2, seconds=50, since=NOW)]
    running = [Running(NOW + 5, occupied)]
    assert started(plan(needs, here, running, NOW)) == [2]
    assert started(plan(needs, here, running, NOW, deadline=NOW + 100)) == []


def test_a_long_job_passes_where_the_big_one_leaves_room_beside_it():
    here = room()
    occupied = here.place(Need(0, cores=6))
    here.take(occupied)
    needs = [Need(1, cores=6, seconds=1000), Need(2, cores=2, seconds=9999)]
    assert started(plan(needs, here, [Running(NOW + 100, occupied)], NOW)) == [2]


def test_nothing_is_kept_free_for_a_job_that_could_not_finish():
    here = room()
    occupied = here.place(Need(0, cores=6))
    here.take(occupied)
    needs = [Need(1, cores=8, seconds=500), Need(2, cores=2, seconds=300)]
    result = plan(needs, here, [Running(NOW + 100, occupied)], NOW, longest=400,
                  deadline=NOW + 400)
    assert result.reserved is None
    assert started(result) == [2]


def test_what_can_not_finish_in_time_does_not_start():
    needs = [Need(1, seconds=500), Need(2, seconds=300)]
    assert started(plan(needs, room(), [], NOW, longest=400, deadline=NOW + 400)) == [2]


def test_memory_is_shared_by_cores_unless_asked_for():
    here = room(cores=4, memory=4000)
    needs = [Need(1, cores=1, memory=2000), *(Need(n, cores=1) for n in (2, 3, 4))]
    assert started(plan(needs, here, [], NOW)) == [1, 2, 3]  # 4 would need the fourth thousand


def test_gpus_are_given_out_once():
    result = plan([Need(n, gpus=1) for n in (1, 2, 3)], room(gpus=2), [], NOW)
    assert [s.placement[0].gpus for s in result.starts] == [(0,), (1,)]


def test_a_job_over_nodes_gets_whole_nodes_kept_free_by_small_ones():
    here = room(nodes=3, cores=4)
    needs = [Need(1, cores=1), Need(2, cores=3), Need(3, nodes=2, cores=4)]
    result = plan(needs, here, [], NOW)
    assert started(result) == [1, 2, 3]
    assert {s.node for s in result.starts[2].placement} == {1, 2}


def test_ranks_that_do_not_divide_are_rounded_up_on_each_node():
    assert Need.of(1, Resources(nodes=2, ranks=5, threads=2)).cores == 6
    assert Need.of(1, Resources(walltime=100), seconds=20.0).seconds == 20.0
    assert Need.of(1, Resources(walltime=100), seconds=2000.0).seconds == 100.0


NEEDS = st.lists(st.builds(
    Need, key=st.integers(), nodes=st.integers(1, 3), cores=st.integers(1, 5),
    memory=st.none() | st.integers(1, 900), gpus=st.integers(0, 1),
    seconds=st.floats(1, 500)), max_size=12)


@settings(deadline=None, max_examples=40)
@given(needs=NEEDS)
def test_no_core_gpu_or_byte_is_given_twice_and_the_reserved_job_is_never_late(needs):
    whole = room(nodes=3, cores=4, memory=1000, gpus=1)
    clock, waiting, running = NOW, needs, []
    free = whole.copy()
    promised = {}
    for _ in range(40):
        result = plan(waiting, free, running, clock)
        for start in result.starts:
            free.take(start.placement)
            running.append(Running(clock + start.need.seconds, start.placement))
            waiting = [n for n in waiting if n is not start.need]
            if id(start.need) in promised:
                assert clock <= promised[id(start.need)] + 1e-6
        for node in free.nodes:
            assert node.memory >= -1e-3
        held = [(s.node, c) for r in running for s in r.placement for c in s.cores]
        assert len(held) == len(set(held))
        if result.reserved is not None:
            need, when = result.reserved
            assert when <= promised.setdefault(id(need), when) + 1e-6
        if not running:
            break
        running.sort(key=lambda r: r.end)
        clock = running[0].end
        free.give(running.pop(0).placement)
    # What is left fits nowhere, not even in an empty allocation.
    assert all(whole.place(n) is None for n in waiting)


@pytest.mark.parametrize("free", [[0, 2, 3, 5], [1, 4, 6, 7]])
def test_neighbouring_cores_are_preferred(free):
    here = Room([Node("n", free)])
    a, b = here.place(Need(1, cores=2))[0].cores
    assert b - a == 1
