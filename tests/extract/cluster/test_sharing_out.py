"""The driver shares tasks out with regard to actors that cannot take one yet."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from extract.cluster.execute import Driver
from tests.extract.run.test_schedule import schedule_of


@pytest.mark.parametrize(("loading", "given"), [(0, [0, 1]), (1, [0]), (3, [0])])
def test_an_actor_that_has_a_task_leaves_the_next_to_one_that_still_loads(loading, given):
    taken = []
    driver = object.__new__(Driver)  # without a cluster
    driver._clock, driver._schedule = lambda: 0.0, schedule_of(2)
    driver._fleet = SimpleNamespace(
        in_stage=lambda stage: ["ready"] if stage == "idle" else [],
        count=lambda *stages: loading if "loading" in stages else 0,
        run=lambda name, task, now: taken.append(task.range_id),
    )
    driver._give()
    assert sorted(set(taken)) == given
    assert len(taken) == len(given)
