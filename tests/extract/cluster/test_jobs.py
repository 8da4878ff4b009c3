"""Extraction as a Ray job, submitted and stopped as a user does, to a head that was started by ``ray start``."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from tests.extract.cluster_cases import PATIENCE_S, REPOSITORY, environment, progress, receipts

pytestmark = [pytest.mark.fault, pytest.mark.ray, pytest.mark.end_to_end, pytest.mark.timeout(1200)]

UNITS = 50


def free_ports(number):
    """Return distinct ports: all are held until the last is found."""
    with contextlib.ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(number)]


@pytest.fixture(scope="module")
def ray():
    """Return a function that runs ``ray`` with some arguments against a head of our own: (exit code, output)."""
    program = Path(sys.executable).with_name("ray")
    variables = environment(PATH=f"{program.parent}:{environment()['PATH']}")
    # Short: Ray makes sockets below it, whose paths are bounded.
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    head_port, port, agent_port, client_port = free_ports(4)
    command = [program, "start", "--head", "--block", "--num-cpus", "6", "--object-store-memory", "100000000"]
    command += ["--port", head_port, "--dashboard-port", port, "--temp-dir", folder, "--disable-usage-stats"]
    command += ["--dashboard-agent-listen-port", agent_port, "--ray-client-server-port", client_port]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen([*map(str, command)], env=variables, cwd=REPOSITORY, stdout=log, stderr=log)

    def run(*arguments):
        done = subprocess.run(
            [str(program), *map(str, arguments)],
            env=variables | {"RAY_ADDRESS": f"http://127.0.0.1:{port}"},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout

    deadline = time.monotonic() + PATIENCE_S
    while run("job", "list")[0]:
        assert head.poll() is None, (folder / "head.log").read_text()
        assert time.monotonic() < deadline
    yield run
    family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def config(tmp_path, long_pipeline, prepare):
    """A pipeline whose store is indexed and empty."""
    path = long_pipeline(tmp_path, workers=2, progress_interval_s=0.2)
    prepare(path)
    return path


def submitted(config, *arguments):
    program = ["python", "-m", "extract", "run", "--pipeline", "tiny", "--config", config]
    return ["--working-dir", ".", "--", *program, *arguments]


def test_a_job_that_is_stopped_ends_cleanly_and_another_one_goes_on(
    ray, config, extract_here, stored_digests, undisturbed
):
    store = config.parent / "store"
    assert ray("job", "submit", "--no-wait", "--submission-id", "first", *submitted(config))[0] == 0
    deadline = time.monotonic() + PATIENCE_S
    while len(receipts(store)) < 2:
        assert time.monotonic() < deadline, ray("job", "logs", "first")[1]
        time.sleep(0.01)
    code, said = ray("job", "stop", "first")
    assert code == 0, said
    kept = receipts(store)
    assert 2 <= len(kept) < UNITS
    assert progress(store)["state"] == "stopped"
    assert "interrupted: what was committed stays" in ray("job", "logs", "first")[1]
    code, said = ray("job", "submit", *submitted(config))
    assert code == 0, said
    assert f"{len(kept)} were there before, {UNITS} in all" in said
    assert kept.items() <= receipts(store).items()
    assert extract_here(config)[1].done == 0
    assert stored_digests(store) == undisturbed


def test_a_relative_store_in_a_job_is_refused_with_the_way_out(ray, config):
    code, said = ray("job", "submit", *submitted(config, "--store", "runs/x"))
    assert code != 0
    assert "--store runs/x: a relative path, and a Ray job runs in a copy of the folder" in said
    assert "give the whole path" in said
    assert "Traceback (most recent call last)" not in said
