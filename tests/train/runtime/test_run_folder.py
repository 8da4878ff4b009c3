"""A run's folder: what it may replace, and who may work on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from store.errors import ConfigError, MMKDError
from train.runtime.run_folder import CHECKPOINTS, RECORD, UNFINISHED, appearing, begun_as, is_done

REPOSITORY = Path(__file__).parents[3]
MINE, OTHER = {"lr": 1}, {"lr": 2}


@pytest.fixture
def out(tmp_path):
    """The folder of a result of MINE."""
    with appearing(tmp_path / "run", MINE) as folder:
        (folder / "weights").write_text("old")
    return tmp_path / "run"


def test_a_result_of_the_same_run_is_done_and_one_of_another_run_is_refused(out):
    assert is_done(out, MINE, overwrite=False)
    with pytest.raises(ConfigError, match="holds the result of another run"):
        is_done(out, OTHER, overwrite=False)
    assert not is_done(out, OTHER, overwrite=True)


def test_what_is_not_there_or_empty_is_not_done(tmp_path):
    assert not is_done(tmp_path / "absent", MINE, overwrite=False)
    (tmp_path / "empty").mkdir()
    assert not is_done(tmp_path / "empty", MINE, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_or_a_folder_that_is_no_result_is_refused_even_with_overwrite(tmp_path, overwrite):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="is a file, so nothing is put in its place"):
        is_done(tmp_path / "file", MINE, overwrite=overwrite)
    with pytest.raises(ConfigError, match=r"is not the result of a run \(it has no train\.json\)") as caught:
        is_done(tmp_path / "folder", MINE, overwrite=overwrite)
    assert "overwrite" not in caught.value.hint


def test_a_file_where_a_folder_above_belongs_is_named(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="file is a file, expected a folder"):
        is_done(tmp_path / "file" / "runs" / "run", MINE, overwrite=True)


@pytest.mark.parametrize("damage", [b"", b'{"lr": ', b"\xff\xfe"])
def test_a_damaged_record_is_an_error_that_names_it_and_overwrite_replaces_the_result(out, damage):
    (out / RECORD).write_bytes(damage)
    with pytest.raises(ConfigError, match=r"train\.json is damaged") as caught:
        is_done(out, MINE, overwrite=False)
    assert "--overwrite" in caught.value.hint
    assert not is_done(out, MINE, overwrite=True)


def test_a_folder_appears_whole_in_place_of_the_old_one_and_nothing_else_stays(out):
    with appearing(out, OTHER, overwrite=True) as folder:
        (folder / "weights").write_text("new")
        assert (out / "weights").read_text() == "old"
    assert (out / "weights").read_text() == "new"
    assert json.loads((out / RECORD).read_text()) == OTHER
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def test_a_result_that_appeared_meanwhile_is_not_replaced_unasked(out):
    with pytest.raises(ConfigError, match="holds the result of another run"), appearing(out, OTHER):
        pytest.fail("the block must not begin")
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def fail_half_way(out):
    refused = pytest.raises(MMKDError, match=f"another program is training .*process {os.getpid()} on ")
    with appearing(out, MINE) as folder:
        (folder / "weights").write_text("half")
        with refused, appearing(out, OTHER):
            pytest.fail("the block must not begin")
        assert (folder / "weights").read_text() == "half"
        raise ZeroDivisionError


def test_a_second_run_is_refused_while_the_first_one_works_and_not_after_it_failed(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail_half_way(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == [".run.partial"]
    with appearing(tmp_path / "run", MINE) as folder:
        assert [path.name for path in folder.iterdir()] == [UNFINISHED]


@pytest.mark.end_to_end
def test_the_lock_of_a_killed_run_does_not_hinder_the_next_one(tmp_path):
    body = (
        "import sys, time; from pathlib import Path; from train.runtime.run_folder import appearing\n"
        "with appearing(Path(sys.argv[1]), {}): print('ready', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", body, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "ready\n"
        with pytest.raises(MMKDError, match=f"process {program.pid} on "), appearing(tmp_path / "run", MINE):
            pytest.fail("the block must not begin")
        program.kill()
    assert (tmp_path / ".run.lock").exists()
    with appearing(tmp_path / "run", MINE):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_run_began_as_is_known_only_of_the_same_run_with_checkpoints(tmp_path):
    then, now = ({"lr": 1, "store": {"ranges": {"a": count}}} for count in (2, 5))
    assert begun_as(tmp_path / "run", now) is None
    with pytest.raises(KeyboardInterrupt), appearing(tmp_path / "run", then) as folder:
        raise KeyboardInterrupt
    assert begun_as(tmp_path / "run", now) is None
    (folder / CHECKPOINTS).mkdir()
    (folder / CHECKPOINTS / "step-000000001.pt").touch()
    assert begun_as(tmp_path / "run", now) == then
    assert begun_as(tmp_path / "run", {**now, "lr": 2}) is None
    (folder / UNFINISHED).rename(folder / RECORD)
    assert begun_as(tmp_path / "run", now) == then
