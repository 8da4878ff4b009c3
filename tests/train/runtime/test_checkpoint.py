"""Checkpoint files: whole or not there, the last few kept, no code in them."""

from __future__ import annotations

import pytest
import torch

from store.errors import MMKDError
from train.runtime.checkpoint import Checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def state(step):
    return {"step": step, "model": {"weight": torch.full((2,), float(step))}, "data": {"ranges": {"a": [0, 2]}}}


def test_the_last_few_stay_and_the_latest_is_read_without_running_code(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", kept=2)
    assert checkpoints.latest() is None
    for step in (5, 10, 200):
        checkpoints.save(state(step))
    assert names(tmp_path / "c") == ["step-000000010.pt", "step-000000200.pt"]
    found = checkpoints.latest()
    assert found["step"] == 200
    assert torch.equal(found["model"]["weight"], torch.full((2,), 200.0))
    assert found["data"] == {"ranges": {"a": [0, 2]}}


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, kept=3)
    checkpoints.save(state(1))
    checkpoints.save(state(2)).write_bytes(b"half a file")
    assert checkpoints.latest()["step"] == 1
    assert "step-000000002.pt cannot be read" in caplog.text
    data = bytearray((tmp_path / "step-000000001.pt").read_bytes())
    data[data.index(torch.full((2,), 1.0).numpy().tobytes())] ^= 1  # one bit of a weight
    (tmp_path / "step-000000001.pt").write_bytes(bytes(data))
    with pytest.raises(MMKDError, match="no checkpoint can be read") as caught:
        checkpoints.latest()
    assert "--resume never" in caught.value.hint


class Code:
    def __reduce__(self):
        return print, ("this must not run",)


def test_a_checkpoint_that_holds_code_is_not_run(tmp_path, capsys):
    torch.save({"format": 1, "step": 3, "model": Code()}, tmp_path / "step-000000003.pt")
    with pytest.raises(MMKDError, match="no checkpoint can be read"):
        Checkpoints(tmp_path, kept=1).latest()
    assert "must not run" not in capsys.readouterr().out


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    torch.save({"format": 99, "step": 3}, tmp_path / "step-000000003.pt")
    with pytest.raises(MMKDError, match="of format 99, this program reads 1"):
        Checkpoints(tmp_path, kept=1).latest()


def test_what_a_killed_writer_left_is_swept_by_the_next_one(tmp_path):
    (tmp_path / ".step-000000001.pt.77.abc.tmp").write_bytes(b"half")
    Checkpoints(tmp_path, kept=1).save(state(2))
    assert names(tmp_path) == ["step-000000002.pt"]
