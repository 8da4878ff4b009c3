"""Checkpoint files: whole or not there, the last few kept, no code in them."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from store.errors import MMKDError
from train.runtime.checkpoint import Checkpoints

REPOSITORY = Path(__file__).parents[3]


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
    assert "step-000000002.pt cannot be read (" in caplog.text
    data = bytearray((tmp_path / "step-000000001.pt").read_bytes())
    data[data.index(torch.full((2,), 1.0).numpy().tobytes())] ^= 1  # one bit of a weight
    (tmp_path / "step-000000001.pt").write_bytes(bytes(data))
    with pytest.raises(MMKDError, match="no checkpoint can be read") as caught:
        checkpoints.latest()
    assert "--resume never" in caught.value.hint


def test_of_a_long_reason_the_first_line_is_told(tmp_path, caplog, monkeypatch):
    def fails(path):
        raise RuntimeError("invalid header\nException raised from here\nframe #0")

    checkpoints = Checkpoints(tmp_path, kept=3)
    checkpoints.save(state(1))
    monkeypatch.setattr("train.runtime.checkpoint._read", fails)
    with pytest.raises(MMKDError, match="no checkpoint can be read"):
        checkpoints.latest()
    assert "step-000000001.pt cannot be read (invalid header); an older one is taken" in caplog.text


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


MEMORY = """
import resource, sys, torch
from pathlib import Path
from train.runtime.checkpoint import Checkpoints

checkpoints = Checkpoints(Path(sys.argv[1]), kept=1)
checkpoints.save({"step": 1, "model": {}})
weights = {f"layer {number}": torch.ones(8 * 2**20 // 4) for number in range(24)}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checkpoints.save({"step": 2, "model": weights})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.end_to_end
def test_saving_takes_no_memory_for_a_copy(tmp_path):
    """192 MB of weights are written piece by piece."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 24 * 1024  # KiB; a copy in memory would take 8 times as much


@pytest.mark.parametrize("room", [20_000, 300_000, 3_900_000])
def test_a_disk_that_is_full_is_named_as_such_and_the_checkpoint_before_stays(tmp_path, room):
    checkpoints = Checkpoints(tmp_path, kept=1)
    checkpoints.save(state(5))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints.save({"step": 6, "model": {str(number): torch.zeros(50_000) for number in range(20)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["step-000000005.pt"]
    assert checkpoints.latest()["step"] == 5
