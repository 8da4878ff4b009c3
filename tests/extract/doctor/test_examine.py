"""``extract doctor`` judges a pipeline that is ready, and one that lacks one thing after the other."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from extract.cli.commands_doctor import doctor
from extract.config import ExtractPipeline
from extract.doctor.examine import examine
from extract.teacher_files import digests
from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError
from store.io.location import locate
from store.io.lock import exclusive
from tests.extract.conftest import REPOSITORY
from tests.extract.hub import Fault, serving


def found(path, *, overrides=(), profile=None):
    """Return what each check finds, by its name."""
    pipeline = read_pipeline(path, "tiny", ExtractPipeline, overrides=list(overrides))
    return {one.check: one for one in examine(pipeline, options="--pipeline tiny", profile=profile)}


def everything(folder):
    # A folder's time changes with the temporary files that were in it.
    return {path: path.is_file() and path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def ready(tmp_path, teachers, corpus, write_pipeline, prepare, monkeypatch):
    """A pipeline over a corpus that is indexed, with teachers of its own."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    own = {name: shutil.copytree(folder, tmp_path / "models" / name) for name, folder in teachers.items()}
    path = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=own)
    prepare(path)
    return path


def run_doctor(path, *arguments, limit=None, **environment):
    """Run the command in a process of its own: (exit code, findings by check)."""
    command = [sys.executable, "-m", "extract", "doctor", "--pipeline", "tiny", "--config", path, "--json", *arguments]
    done = subprocess.run(
        [*map(str, command)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {one["check"]: one for one in json.loads(done.stdout)}


def test_a_pipeline_that_is_ready_has_no_failure_and_nothing_that_was_written_stays(ready, capsys, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 0)  # else digests of files so young are not kept anyway
    before = everything(ready.parent)
    checks = found(ready)
    assert {name for name, one in checks.items() if one.state == "fail"} == set()
    for name in ("python", "teacher small", "teacher wide", "memory", "hub", "corpus", "locks", "store", "disk"):
        assert checks[name].state == "ok", checks[name]
        assert checks[name].next == ""
    assert "60 rows, 8 of 8 units to do" in checks["store"].said
    assert "the run writes" in checks["disk"].said
    assert "the run writes" in checks["inodes"].said
    assert everything(ready.parent) == before
    digests._known.clear()
    digests.file_digest(ready.parent / "models/small/open_clip_model.safetensors")
    assert (ready.parent / "models/small/digests.json").is_file()
    assert doctor(pipeline="tiny", config=ready) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 0 fail")


@pytest.mark.end_to_end
def test_missing_weights_and_a_tiny_limit_of_files_end_with_one_and_say_what_to_do(ready):
    (ready.parent / "models/small/open_clip_model.safetensors").unlink()
    code, checks = run_doctor(ready, limit=200)
    assert code == 1
    assert checks["teacher small"]["state"] == "fail"
    assert "open_clip_model.safetensors" in checks["teacher small"]["said"]
    assert checks["teacher small"]["next"] != ""
    assert checks["memory"]["state"] == "warn"
    assert "small" in checks["memory"]["said"]
    assert (checks["open files"]["state"], checks["teacher wide"]["state"]) == ("fail", "ok")
    assert "a process may open 200 files" in checks["open files"]["said"]


@pytest.mark.end_to_end
def test_a_few_open_files_are_a_warning_and_a_pipeline_of_another_file_is_named_in_the_next_command(ready):
    (ready.parent / "store/store.json").unlink()
    code, checks = run_doctor(ready, limit=512)
    assert code == 0
    assert (checks["open files"]["state"], checks["store"]["state"]) == ("warn", "warn")
    assert checks["store"]["next"] == f"python -m extract index --pipeline tiny --config {ready}"


@pytest.mark.end_to_end
def test_the_hub_is_asked_only_where_teachers_come_from_it(ready):
    content = json.loads(ready.read_text())
    content["tiny"]["teachers"]["small"]["download"] = [{"repo": "somebody/small", "files": ["config.json"]}]
    ready.write_text(json.dumps(content))
    with serving() as hub:
        hub.faults[""] = Fault(status=503)
        code, checks = run_doctor(ready, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0")
        asked = hub.asked_for("HEAD")
    assert len(asked) == 1
    assert (code, checks["hub"]["state"], checks["teacher small"]["state"]) == (1, "fail", "fail")
    assert "status 503" in checks["hub"]["said"]
    assert checks["teacher small"]["next"] == f"python -m extract fetch small --pipeline tiny --config {ready}"
    code, checks = run_doctor(ready, HF_HUB_OFFLINE="1")
    assert (code, checks["hub"]["state"]) == (1, "fail")
    assert "HF_HUB_OFFLINE is set" in checks["hub"]["said"]


def test_large_weights_whose_digest_is_not_kept_are_not_read(ready):
    weights = ready.parent / "models/small/open_clip_model.safetensors"
    with weights.open("ab") as file:
        file.truncate(3 << 30)  # sparse: reading it would take seconds, and it is no longer what its header says
    before = {path: path.read_bytes() for path in ready.parent.rglob("digests.json")}
    checks = found(ready)
    assert {path: path.read_bytes() for path in ready.parent.rglob("digests.json")} == before
    assert checks["store"].state == "warn"
    assert checks["store"].next == "python -m extract plan --pipeline tiny --probe 0"


def test_a_place_that_cannot_be_written_fails(ready):
    checks = found(ready, overrides=["store.path=/proc/none/store"])
    assert checks["locks"].state == "fail"
    assert checks["locks"].said.startswith("/proc cannot be written: ")


def test_a_store_that_is_written_to_that_is_damaged_or_of_another_spec(ready, extract_here):
    store = ready.parent / "store"
    with exclusive(locate(store)):
        held = found(ready)["store"]
    assert (held.state, held.next) == ("warn", "python -m extract status --pipeline tiny")
    assert f"process {os.getpid()}" in held.said
    extract_here(ready)
    done = found(ready)["store"]
    assert done.state == "ok"
    assert "0 of 8 units to do" in done.said
    other = found(ready, overrides=["store.dtype=float32"])["store"]
    assert other.state == "fail"
    assert other.next == "python -m extract run --pipeline tiny --replace small --replace wide"
    (store / "store.json").write_text("{")
    assert found(ready)["store"].state == "fail"


def test_a_corpus_that_is_gone_fails(ready):
    checks = found(ready, overrides=["corpora.pairs.files=[nowhere/*.tar]"])
    assert checks["corpus"].state == "fail"
    assert "no corpus file matches" in checks["corpus"].said


def test_memory_is_judged_by_a_profile(ready, tmp_path):
    speeds = {name: {"parameter_bytes": 10**6, "peak_bytes": 3 * 10**6} for name in ("small", "wide")}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"teachers": speeds}))
    checks = found(ready, profile=profile)
    assert checks["memory"].state == "ok"
    assert checks["memory"].said.startswith("a worker needs 0.00 GB for all teachers at once")
    speeds["wide"]["peak_bytes"] = 10**15
    profile.write_text(json.dumps({"teachers": speeds}))
    checks = found(ready, profile=profile)
    assert checks["memory"].state == "fail"
    assert "1,000,000.00 GB" in checks["memory"].said
    profile.write_text('{"teachers": {"small": {}}}')
    with pytest.raises(ConfigError, match=r"--profile .*: not the JSON of a profile"):
        found(ready, profile=profile)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_a_pipeline_for_cards_fails_on_a_machine_without(ready, monkeypatch):
    checks = found(ready, overrides=["extract.device=cuda"])
    assert (checks["torch"].state, checks["memory"].state) == ("fail", "warn")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    checks = found(ready, overrides=["extract.device=cuda"])
    assert (checks["torch"].state, checks["cluster"].state) == ("warn", "fail")


def test_the_documents_name_every_check(ready):
    text = Path(REPOSITORY, "docs/extraction.md").read_text()
    checks = {name.partition(" ")[0] if name.startswith("teacher ") else name for name in found(ready)}
    assert {name for name in {*checks, "storage"} if f"| `{name}" not in text} == set()
