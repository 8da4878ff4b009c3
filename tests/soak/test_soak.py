"""The soak itself: its actions, its replay, its checks, and a short one."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from .__main__ import LOG, soak
from .actions import ON_S3, WEIGHTS, drawn, logged
from .adversary import Soak
from .checks import without_receipt
from .trainer import epochs_of

SEED = 8


def first(seed, storage="folder", count=400):
    return list(islice(drawn(seed, storage=storage), count))


@pytest.mark.parametrize(("storage", "kinds"), [("folder", WEIGHTS), ("s3", ON_S3)])
def test_actions_are_a_function_of_the_seed_and_all_kinds_occur(storage, kinds):
    assert first(7, storage) == first(7, storage)
    assert first(7, storage) != first(8, storage)
    assert {action.kind for action in first(7, storage)} == set(kinds)
    assert all(hasattr(Soak, f"_{kind}") for kind in kinds)


def test_a_log_gives_back_its_settings_and_its_actions(tmp_path):
    lines = [{"at_s": 0.0, "seed": 7, "storage": "folder"}, {"at_s": 3.0, "ended": "trainer", "code": 0}]
    lines[1:1] = [{"at_s": 1.5, **action.as_json(), "result": "done"} for action in first(7, count=5)]
    log = tmp_path / LOG
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings, actions = logged(log)
    assert settings["seed"] == 7
    assert actions == first(7, count=5)


def test_ranges_without_a_receipt_or_behind_the_rows_of_the_run_are_found():
    line = {"epoch": 3, "ranges": {"small": [0, 1], "wide": [0, 9]}, "there": ["small/0", "wide/0", "wide/9"]}
    assert without_receipt([line], known=10) == [(3, "small", 1)]
    assert without_receipt([line], known=9) == [(3, "small", 1), (3, "wide", 9)]


def test_an_epoch_that_was_begun_again_counts_as_it_was_last():
    lines = [{"epoch": 0, "ranges": 1}, {"epoch": 1, "ranges": 1}, {"epoch": 1, "ranges": 2}, {"epoch": 2, "ranges": 3}]
    assert [line["ranges"] for line in epochs_of(lines)] == [1, 2, 3]


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.end_to_end
@pytest.mark.timeout(1200)
def test_a_short_soak_ends_as_if_nothing_had_happened(tmp_path):
    found, counts = soak(tmp_path / "soak", minutes=3, seed=SEED, storage="folder", steps=300)
    assert found == []
    assert sum(counts.values()) >= 2  # the machine decides how many find something to harm
