"""The queue of a run by itself: no Ray, no store, and a clock that the tests turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.config import ExtractSection
from extract.run.killers import KillerSearch
from extract.run.plan import RangeWork
from extract.run.schedule import PROBE_S, RESTART_S, Failure, Restarts, Schedule, failure_of
from extract.worker.task import TASKS_AT_ONCE
from store.errors import CorpusError, ExtractionError

ROWS = 64


def schedule_of(ranges, **limits):
    work = [RangeWork(range_id=number, teachers=("a", "b")) for number in range(ranges)]
    rows = {number: range(ROWS * number, ROWS * (number + 1)) for number in range(ranges)}
    return Schedule(work, rows=rows, settings=ExtractSection(**({"attempts": 3, "stall_timeout_s": 100.0} | limits)))


def play(schedule, kills):
    """Do all there is with one worker, which dies of the rows that kill; return the tasks in order."""
    tasks, now = [], 0.0
    while (task := schedule.take("w", now=now)) is not None:
        tasks.append(task)
        now += 1.0
        rows = task.probe if task.probe is not None else range(ROWS * task.range_id, ROWS * (task.range_id + 1))
        if any(row in rows and row not in task.killers for row in kills):
            schedule.lost("w", Failure.CRASH, "its process died")
        else:
            schedule.done(schedule.tasks_of("w")[0], now=now)
    assert schedule.over
    return tasks


def test_ranges_are_given_out_in_order():
    schedule = schedule_of(3)
    first, second = schedule.take("w1", now=0), schedule.take("w2", now=0)
    assert (first.range_id, second.range_id, first.teachers, first.attempt) == (0, 1, ("a", "b"), 1)
    assert (schedule.outstanding, schedule.at_work, schedule.over) == (3, {"w1", "w2"}, False)
    schedule.done(schedule.tasks_of("w1")[0], now=1)
    schedule.done(schedule.tasks_of("w2")[0], now=1)
    assert schedule.take("w1", now=1).range_id == 2
    assert schedule.take("w2", now=1) is None
    schedule.done(schedule.tasks_of("w1")[0], now=2)
    assert schedule.over
    assert not schedule.given_up


def test_a_range_that_fails_goes_to_the_back_and_is_given_up_after_its_last_attempt():
    schedule = schedule_of(2)
    seen = []
    while (task := schedule.take("w", now=0)) is not None:
        seen.append((task.range_id, task.attempt))
        if task.range_id == 0:
            schedule.failed(task, f"broken {task.attempt}", now=0)
        else:
            schedule.done(schedule.tasks_of("w")[0], now=0)
    assert seen == [(0, 1), (1, 1), (0, 2), (0, 3)]
    assert schedule.given_up == {0: "broken 3"}


def test_a_worker_that_is_taken_away_costs_no_attempt_until_that_happens_too_often():
    schedule = schedule_of(1, attempts=1)
    for _ in range(10):
        assert schedule.take("w", now=0).attempt == 1
        schedule.lost("w", Failure.LOSS, "preempted")
    assert not schedule.given_up
    assert schedule.take("w", now=0).probe is None
    schedule.lost("w", Failure.LOSS, "preempted")
    assert schedule.take("w", now=0).probe is not None  # it counts now, as a death does


@pytest.mark.parametrize("kills", [{70}, {64}, {127}, {64, 65, 127}, {90, 91, 92, 93}])
def test_rows_that_kill_are_found_by_halving_and_the_range_is_done_without_them(kills):
    schedule = schedule_of(3)
    tasks = play(schedule, kills)
    assert not schedule.given_up
    last = tasks[-1]
    assert (last.range_id, last.attempt, last.probe, set(last.killers)) == (1, 4, None, kills)
    assert all("3 workers died" in reason and "its process died" in reason for reason in last.killers.values())
    probes = [task for task in tasks if task.probe is not None]
    assert len(probes) <= 2 * len(kills) * 7  # log2 of the rows, and one to be sure
    # The range's own attempts come first, behind the ranges that do no harm.
    assert [task.range_id for task in tasks[:5]] == [0, 1, 2, 1, 1]


def test_a_range_of_which_workers_die_but_of_no_row_alone_is_given_up():
    schedule = schedule_of(1, attempts=2)
    while (task := schedule.take("w", now=0)) is not None:
        if task.probe is None:
            schedule.lost("w", Failure.CRASH, "its process died")
        else:
            schedule.done(schedule.tasks_of("w")[0], now=0)
    assert schedule.given_up == {0: "workers died of it 2 times, and of none of its rows alone"}


def test_a_range_whose_every_row_kills_is_given_up_soon():
    schedule = schedule_of(1, max_killer_rows=4)
    tasks = play(schedule, set(range(ROWS)))
    assert "more than 4 of its rows" in schedule.given_up[0]
    assert len(tasks) < 30


def test_a_range_that_kills_even_without_its_killers_is_given_up():
    schedule = schedule_of(1)
    while (task := schedule.take("w", now=0)) is not None:
        if task.probe is None or 7 in task.probe:
            schedule.lost("w", Failure.CRASH, "its process died")
        else:
            schedule.done(schedule.tasks_of("w")[0], now=0)
    assert "without 1 rows of which workers died" in schedule.given_up[0]


def test_a_probe_that_raises_ends_the_search():
    schedule = schedule_of(1, attempts=1)
    schedule.take("w", now=0)
    schedule.lost("w", Failure.CRASH, "its process died")
    schedule.failed(schedule.take("w", now=0), "ValueError: no", now=0)
    assert schedule.over
    assert "ValueError: no" in schedule.given_up[0]


def test_a_preempted_probe_is_tried_again_and_proves_nothing():
    schedule = schedule_of(1, attempts=1)
    schedule.take("w", now=0)
    schedule.lost("w", Failure.CRASH, "its process died")
    before = schedule.take("w", now=0).probe
    schedule.lost("w", Failure.LOSS, "preempted")
    assert schedule.take("w", now=0).probe == before


def test_a_worker_is_overdue_when_it_shows_no_progress_for_too_long():
    schedule = schedule_of(2, stall_timeout_s=10.0)
    schedule.take("w", now=0)
    schedule.take("v", now=5)
    assert schedule.overdue(now=10) == {}
    schedule.step("w", 1, now=9)
    schedule.step("w", 1, now=14)  # it answers, and has done nothing meanwhile
    assert schedule.overdue(now=16) == {"v": "no sign of progress for 10 s"}
    assert set(schedule.overdue(now=20)) == {"v", "w"}


def test_a_range_may_have_a_bound_of_its_own():
    schedule = schedule_of(1, stall_timeout_s=10.0, range_timeout_s=30.0)
    schedule.take("w", now=0)
    for now in range(0, 31, 5):
        schedule.step("w", now, now=now)
    assert schedule.overdue(now=30) == {}
    assert schedule.overdue(now=31) == {"w": "not done within 30 s"}


def test_a_probe_is_bounded_by_what_its_rows_usually_take():
    schedule = schedule_of(2, attempts=1, stall_timeout_s=1e6)
    schedule.take("w", now=0)
    schedule.done(schedule.tasks_of("w")[0], now=640.0)  # ten seconds a row
    schedule.take("w", now=640.0)
    schedule.lost("w", Failure.CRASH, "its process died")
    probe = schedule.take("w", now=1000.0).probe
    assert len(probe) == ROWS // 2
    bound = 10 * 10.0 * len(probe)
    assert bound > PROBE_S
    assert schedule.overdue(now=1000 + bound) == {}
    assert set(schedule.overdue(now=1001 + bound)) == {"w"}


@pytest.mark.parametrize("range_s", [None, 50.0])
def test_a_probe_before_any_range_was_done_has_no_bound_but_the_ranges_own(range_s):
    schedule = schedule_of(1, attempts=1, stall_timeout_s=1e6, range_timeout_s=range_s)
    schedule.take("w", now=0)
    schedule.lost("w", Failure.CRASH, "its process died")
    assert schedule.take("w", now=0).probe is not None
    assert schedule.overdue(now=50) == {}
    assert schedule.overdue(now=1e5) == ({} if range_s is None else {"w": "not done within 50 s"})


@pytest.mark.parametrize(("row_s", "range_s", "bound"), [(10.0, 1000.0, 1000), (10.0, 1e5, 3200), (0.1, None, PROBE_S)])
def test_a_probe_has_no_more_time_than_a_range_and_no_less_than_a_new_worker_needs(row_s, range_s, bound):
    schedule = schedule_of(2, attempts=1, stall_timeout_s=1e6, range_timeout_s=range_s)
    schedule.take("w", now=0)
    schedule.done(schedule.tasks_of("w")[0], now=ROWS * row_s)
    schedule.take("w", now=0)
    schedule.lost("w", Failure.CRASH, "its process died")
    assert len(schedule.take("w", now=0).probe) == ROWS // 2
    assert schedule.overdue(now=bound) == {}
    assert schedule.overdue(now=bound + 1) == {"w": f"not done within {bound:.0f} s"}


def test_a_range_without_a_bound_is_overdue_only_when_it_stalls():
    schedule = schedule_of(1, stall_timeout_s=10.0)
    schedule.take("w", now=0)
    schedule.step("w", 1, now=1e6)
    assert schedule.overdue(now=1e6 + 10) == {}
    assert schedule.overdue(now=1e6 + 11) == {"w": "no sign of progress for 10 s"}


def test_an_answer_of_a_worker_without_a_task_is_no_progress_of_another():
    schedule = schedule_of(1, stall_timeout_s=10.0)
    schedule.take("w", now=0)
    schedule.step("v", 1, now=9)
    assert set(schedule.overdue(now=11)) == {"w"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no\nnumber"), (Failure.ERROR, "ValueError: number")),
        (RuntimeError(), (Failure.ERROR, "RuntimeError: ")),
        (
            RuntimeError("CUDA error: device-side assert\nadvice"),
            (Failure.CRASH, "RuntimeError: CUDA error: device-side assert"),
        ),
        (RuntimeError("CUDA error: out of memory"), (Failure.ERROR, "RuntimeError: CUDA error: out of memory")),
        (RuntimeError("CUDA out of memory"), (Failure.ERROR, "RuntimeError: CUDA out of memory")),
    ],
)
def test_an_exception_is_an_error_unless_the_device_cannot_be_used_any_longer(error, expected):
    assert failure_of(error) == expected


def test_a_users_mistake_is_no_failure_of_a_range():
    with pytest.raises(CorpusError, match="moved"):
        failure_of(CorpusError("moved"))


def test_workers_lost_before_they_are_ready_are_started_later_each_time_and_the_third_in_a_row_ends_the_run():
    restarts = Restarts()
    assert restarts.allowed(now=0)
    restarts.lost(Failure.LOSS, "preempted", others_work=False, now=0)  # counts as no failure
    assert not restarts.allowed(now=RESTART_S - 0.1)
    assert restarts.allowed(now=RESTART_S)
    for lost in (1, 2):
        restarts.lost(Failure.CRASH, "died", others_work=False, now=100)
        assert not restarts.allowed(now=99 + RESTART_S * 2**lost)
        assert restarts.allowed(now=100 + RESTART_S * 2**lost)
    restarts.lost(Failure.CRASH, "died", others_work=True, now=100)
    with pytest.raises(ExtractionError, match="4 workers in a row were lost before they were ready; the last: out"):
        restarts.lost(Failure.ERROR, "out", others_work=False, now=100)


def test_the_wait_for_another_worker_is_two_minutes_at_most():
    restarts = Restarts()
    for _ in range(20):
        restarts.lost(Failure.CRASH, "died", others_work=True, now=100)
    assert not restarts.allowed(now=100 + 127)
    assert restarts.allowed(now=100 + 128)


def test_a_worker_that_becomes_ready_ends_a_row_of_losses():
    restarts = Restarts()
    for _ in range(5):
        restarts.lost(Failure.CRASH, "died", others_work=False, now=0)
        restarts.lost(Failure.CRASH, "died", others_work=False, now=0)
        restarts.ready()


def test_a_schedule_that_is_stopped_begins_nothing_and_is_over_when_what_is_at_work_is_done():
    schedule = schedule_of(3)
    schedule.take("w", now=0)
    schedule.stop()
    assert (schedule.over, schedule.outstanding) == (False, 1)
    assert schedule.take("v", now=0) is None
    schedule.done(schedule.tasks_of("w")[0], now=1)
    assert schedule.over
    assert schedule.stopped


def test_a_schedule_that_is_stopped_when_all_is_done_counts_as_done():
    schedule = schedule_of(1)
    schedule.take("w", now=0)
    schedule.stop()
    schedule.done(schedule.tasks_of("w")[0], now=1)
    assert schedule.over
    assert not schedule.stopped


def test_a_worker_has_a_few_tasks_at_once():
    schedule = schedule_of(5)
    taken = [schedule.take("w", now=0) for _ in range(TASKS_AT_ONCE)]
    assert [task.range_id for task in taken] == list(range(TASKS_AT_ONCE))
    assert schedule.take("w", now=0) is None
    schedule.done(taken[1], now=1)
    assert schedule.take("w", now=1).range_id == TASKS_AT_ONCE
    assert [task.range_id for task in schedule.tasks_of("w")] == [0, 2, 3]
    assert schedule.outstanding == 2


def test_workers_that_die_with_several_tasks_cost_the_innocent_ones_nothing():
    schedule = schedule_of(6, attempts=2)
    innocent, attempts = [], []
    for now in range(1000):
        while schedule.take("w", now=now) is not None:
            pass
        tasks = schedule.tasks_of("w")
        if not tasks:
            break
        rows = [task.probe or range(ROWS * task.range_id, ROWS * (task.range_id + 1)) for task in tasks]
        if any(130 in of and 130 not in task.killers for task, of in zip(tasks, rows, strict=True)):
            attempts += [task.attempt for task in tasks if task.range_id == 2 and len(tasks) == 1 and not task.probe]
            schedule.lost("w", Failure.CRASH, "its process died")
        else:
            innocent += [task.range_id for task in tasks if task.range_id != 2]
            schedule.done(tasks[0], now=now)
    assert schedule.over
    assert not schedule.given_up
    assert {*innocent} == {0, 1, 3, 4, 5}
    assert attempts == [2, 3]  # the first one counts for nobody


def test_a_task_that_may_have_killed_a_worker_is_alone_in_the_next_one():
    schedule = schedule_of(4)
    first = [schedule.take("w", now=0) for _ in range(2)]
    schedule.lost("w", Failure.CRASH, "its process died")
    others = [schedule.take("w", now=0) for _ in range(2)]
    assert [task.range_id for task in others] == [2, 3]
    assert schedule.take("w", now=0) is None  # the next one must be alone
    for task in others:
        schedule.done(task, now=1)
    suspect = schedule.take("w", now=1)
    assert (suspect.range_id, suspect.attempt) == (first[0].range_id, 2)
    assert schedule.take("w", now=1) is None
    schedule.done(suspect, now=2)
    assert schedule.take("w", now=2).range_id == first[1].range_id


def test_a_range_of_a_worker_that_was_busy_before_has_its_whole_time():
    schedule = schedule_of(2, stall_timeout_s=1e6, range_timeout_s=30.0)
    first = schedule.take("w", now=0)
    schedule.take("w", now=0)
    schedule.done(first, now=25)
    assert schedule.overdue(now=50) == {}
    assert schedule.overdue(now=56) == {"w": "not done within 30 s"}


def test_at_the_end_no_worker_holds_what_another_could_do_and_ranges_are_split_by_teacher():
    schedule = schedule_of(3)
    assert schedule.take("w", now=0, workers=2).teachers == ("a", "b")
    assert schedule.take("v", now=0, workers=2).teachers == ("a", "b")
    assert schedule.take("w", now=0, workers=2) is None
    schedule.done(schedule.tasks_of("w")[0], now=1)
    halves = schedule.take("w", now=1, workers=2), schedule.take("v", now=1, workers=2)
    assert halves[1] is None  # it has a task
    schedule.done(schedule.tasks_of("v")[0], now=1)
    halves = halves[0], schedule.take("v", now=1, workers=2)
    assert [(half.range_id, half.teachers) for half in halves] == [(2, ("a",)), (2, ("b",))]
    for half in halves:
        schedule.done(half, now=2)
    assert schedule.over


def test_a_range_that_failed_is_tried_again_as_a_whole_however_many_workers_wait():
    schedule = schedule_of(1)
    schedule.failed(schedule.take("w", now=0), "broken", now=1)
    again = schedule.take("w", now=1, workers=2)
    assert (again.teachers, again.attempt) == (("a", "b"), 2)


def test_a_task_that_was_dropped_waits_again_and_costs_no_attempt():
    schedule = schedule_of(2)
    task = schedule.take("w", now=0)
    schedule.stop()
    schedule.give_back(task, now=1)
    assert schedule.over
    assert schedule.stopped
    assert not schedule.given_up


@given(size=st.integers(1, 200), data=st.data())
def test_the_search_finds_exactly_the_rows_that_kill(size, data):
    kills = data.draw(st.sets(st.integers(100, 99 + size), min_size=1, max_size=5))
    search = KillerSearch(range(100, 100 + size), max_killers=5)
    tried = 0
    while (rows := search.next()) is not None:
        assert search.next() == rows
        tried += 1
        if kills & {*rows}:
            search.died("died")
        else:
            search.survived()
    assert set(search.killers) == kills
    assert tried <= 2 * len(kills) * (size.bit_length() + 1)
