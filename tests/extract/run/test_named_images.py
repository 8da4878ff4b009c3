"""Images that a table names by paths and URLs of any kind: each that cannot be had is a bad row, and ends nothing."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socket
import threading
import time
from collections import Counter

import pytest

from store.corpus.image_source import ImageSource
from store.errors import CorpusError, PairDecodeError
from store.format.records import Status
from store.index.curation_report import read_report
from store.io import web
from store.io.fetching import THREADS
from store.read.reader import FeatureStore
from tests.extract.cluster_cases import Run

GOOD = ("good", "again")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /200/... with the server's picture, /CODE/... with that code; /to?URL leads elsewhere."""

    def do_GET(self):
        self.server.asked[self.path] += 1
        if "hangs-up" in self.path:
            self.close_connection = True
            return
        code = int(self.path[1:4]) if self.path[1:4].isdecimal() else 302
        self.send_response(code)
        content = self.server.picture if code == 200 else b"<html>secret of the host"
        if self.server.changes:
            content += str(self.server.asked.total()).encode()
        if code == 302:
            self.send_header("Location", self.path.partition("?")[2])
        if "cut" in self.path:
            content = content[: len(content) // 2]
            self.send_header("Content-Length", str(2 * len(content)))
        else:
            self.send_header("Content-Length", str(len(content)))
        self.send_header("Retry-After", "3600")
        self.end_headers()
        if "drip" in self.path:
            self.drip(content)
        else:
            self.wfile.write(content)

    def drip(self, content):
        with contextlib.suppress(OSError):
            for place in range(len(content)):
                self.wfile.write(content[place : place + 1])
                self.wfile.flush()
                time.sleep(0.05)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(picture):
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.picture, running.asked, running.changes, running.daemon_threads = picture, Counter(), False, True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def picture(encoded):
    import numpy as np

    return encoded(np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8))


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Forget what earlier tests found out about hosts, and wait only briefly."""
    web._away.clear()
    web._failures.clear()
    web._pool.cache_clear()
    monkeypatch.setattr(web, "READ_S", 0.5)
    monkeypatch.setattr(web, "CONNECT_S", 0.5)


@pytest.fixture
def pipeline_of(tmp_path, picture, write_pipeline, teachers):
    """Return a function that writes a pipeline over rows of (key, path of the image), between two good rows."""
    (tmp_path / "good.png").write_bytes(picture)

    def write(rows, *, allow=()):
        rows = [(GOOD[0], "good.png"), *rows, (GOOD[1], "good.png")]
        lines = [json.dumps({"key": key, "image": path, "caption": f"of {key}"}) for key, path in rows]
        (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
        path = write_pipeline(
            tmp_path, files=["pairs.jsonl"], teachers={"small": teachers["small"]}, max_bad_fraction=1.0
        )
        content = json.loads(path.read_text())
        content["tiny"]["corpora"]["pairs"]["allow"] = list(allow)
        path.write_text(json.dumps(content))
        return path

    return write


def results(store):
    """Return the status and the reason of each key."""
    opened = FeatureStore(store)
    keys = opened.pairs.read(0, opened.info.rows, ["key"])["key"].to_pylist()
    reasons = {bad.key: bad.reason for receipt in opened.receipts("small").values() for bad in receipt.bad_rows}
    return {key: (int(found), reasons.get(key)) for key, found in zip(keys, opened.status("small"), strict=True)}


def require_bad(found, rows):
    assert [found[key][0] for key in GOOD] == [Status.OK, Status.OK]
    for key, _ in rows:
        status, reason = found[key]
        assert status == Status.BAD_IMAGE, key
        assert reason
        assert len(reason) <= 300
        assert reason.isprintable()
    return {key: found[key][1] for key, _ in rows}


@pytest.fixture
def odd_paths(tmp_path):
    """Rows whose paths and files are of every kind that is no image; the last two are files."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "nowhere.png").symlink_to("not there.png")
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "socket.png"))
    (tmp_path / "text.png").write_text("root:x:0:0")
    (tmp_path / "empty.png").write_bytes(b"")
    yield [
        ("folder", "folder"),
        ("through a file", "good.png/x.png"),
        ("missing", "missing.png"),
        ("pipe", "pipe.png"),
        ("socket", "socket.png"),
        ("loop", "loop.png"),
        ("dangling", "nowhere.png"),
        ("NUL", "a\0b.png"),
        ("long name", "x" * 300 + ".png"),
        ("long path", "x/" * 2000 + "x.png"),
        ("longer", "y" * 100_000),
        ("lone surrogate", "\ud800.png"),
        ("data", "data:image/png;base64,iVBORw0KGgo="),
        ("scheme", "gopher://host/a.png"),
        ("no host", "http://"),
        ("passwd", "/etc/passwd"),
        ("above", "../../../../../../../../etc/passwd"),
        ("environment", "/proc/self/environ"),
        ("zero", "/dev/zero"),
        ("file URL", f"file://{tmp_path}/good.png"),
        ("password", "http://user:s3cr3t@host/a.png"),
        ("key", "s3://KEY:s3cr3t@bucket/a.png"),
        ("token", "https://host/a.png?token=s3cr3t"),
        ("escape", "\x1b[31m.png"),
        ("no image", "text.png"),
        ("empty", "empty.png"),
    ]
    left.close()


def test_paths_of_every_kind_are_bad_rows_and_the_others_go_on(odd_paths, pipeline_of, extract_here):
    rows = odd_paths
    config = pipeline_of(rows)
    store, outcome = extract_here(config)
    reasons = require_bad(results(store), rows)
    assert outcome.failed == {}
    assert "root:x" not in json.dumps(reasons)
    report = read_report(FeatureStore(store).location, FeatureStore(store).info)
    assert (report.members, report.keys, report.usable) == (
        len(rows) + 2,
        len(rows) + 2,
        4,
    )  # two are files, but no images
    no_path = report.passed.pop("caption without image").count
    assert no_path == 4  # three with a credential, and one that is too long
    assert sum(found.count for found in report.passed.values()) == len(rows) - 2
    everything = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b"s3cr3t" not in everything


@pytest.mark.end_to_end
def test_credentials_in_a_table_are_in_no_file_and_no_message(tmp_path, pipeline_of, cli):
    urls = ("http://user:s3cr3t@host/a.png", "s3://KEY:s3cr3t@bucket/a.png", "https://host/a.png?token=s3cr3t")
    config = pipeline_of(enumerate(urls))
    said = [cli("index", "--pipeline", "tiny", "--config", config, "--report")]
    said.append(cli("run", "--local", "--pipeline", "tiny", "--config", config))
    assert [code for code, _, _ in said] == [0, 0], said
    assert "holds a credential" in said[0][1]
    assert "s3cr3t" not in str(said)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]


@pytest.mark.fault
@pytest.mark.ray
def test_they_are_bad_rows_on_ray_too(tmp_path, odd_paths, pipeline_of, prepare):
    config = pipeline_of(odd_paths)
    prepare(config)
    with Run(config) as run:
        code, said = run.end()
    assert code == 0, said
    require_bad(results(tmp_path / "store"), odd_paths)


def test_a_picture_that_changes_while_it_is_indexed_is_told(server, pipeline_of, prepare):
    server.changes = True
    config = pipeline_of([("x", f"http://127.0.0.1:{server.server_port}/200/x.png")], allow=["127.0.0.1"])
    with pytest.raises(CorpusError, match="x: the image cannot be read again as extraction reads it"):
        prepare(config)


def test_answers_of_every_kind_are_bad_rows_and_the_others_go_on(server, pipeline_of, extract_here):
    host = f"http://127.0.0.1:{server.server_port}"
    codes = (400, 401, 403, 404, 410, 429, 500, 503)
    rows = [(str(code), f"{host}/{code}/a.png") for code in codes]
    rows += [
        ("cut", f"{host}/200/cut.png"),
        ("circle", f"{host}/to?{host}/to"),
        ("file", f"{host}/to?file:///etc/hosts"),
    ]
    rows += [("elsewhere", f"{host}/to?http://localhost:{server.server_port}/200/secret.png")]
    rows += [("nested", f"{host}/to?/404/a.png"), ("s3", "s3://other/a.png")]
    upper = host.replace("http", "HTTP")
    config = pipeline_of([*rows, ("reached", f"{upper}/to?/200/a.png")], allow=["127.0.0.1"])
    store, outcome = extract_here(config)
    found = results(store)
    reasons = require_bad(found, rows)
    assert found["reached"] == (Status.OK, None)
    assert outcome.failed == {}
    assert all(f"status {code}" in reasons[str(code)] for code in codes)
    assert not server.asked["/200/secret.png"]
    assert server.asked["/404/a.png"] == 4  # once each for index and run, by two rows
    assert "secret of the host" not in json.dumps(reasons)


@pytest.mark.parametrize("kind", ["refuses", "is silent"])
def test_a_host_that_is_down_costs_its_time_once(pipeline_of, extract_here, monkeypatch, kind):
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    if kind == "is silent":
        listening.listen(100)
    port = listening.getsockname()[1]
    rows = [(f"r{n:03d}", f"http://127.0.0.1:{port}/{n}.png") for n in range(200)]
    pool, asked = web._pool(os.getpid()), []
    request = pool.request
    monkeypatch.setattr(
        pool, "request", lambda *arguments, **more: asked.append(arguments) or request(*arguments, **more)
    )
    store, outcome = extract_here(pipeline_of(rows, allow=["127.0.0.1"]))
    listening.close()
    reasons = require_bad(results(store), rows)
    assert outcome.failed == {}
    assert all("does not answer" in reason for reason in reasons.values())
    [(told, count)] = outcome.bad_rows.items()
    assert (told.partition(" (")[0], count) == ("bad_image: the host does not answer", 200)
    # Of 200 rows that index and run both look at; the first requests are made at once.
    assert 1 <= len(asked) <= THREADS


def test_an_image_that_was_there_when_it_was_indexed_is_no_bad_row(tmp_path, pipeline_of, prepare, extract_here):
    config = pipeline_of([])
    prepare(config)
    (tmp_path / "good.png").unlink()
    with pytest.raises(CorpusError, match="was there when it was indexed"):
        extract_here(config)
    assert FeatureStore(tmp_path / "store").status("small").tolist() == [Status.MISSING] * 2


def test_what_comes_to_be_allowed_later_is_read_without_a_new_index(
    tmp_path_factory, picture, pipeline_of, extract_here, prepare
):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.png"
    elsewhere.write_bytes(picture)
    config = pipeline_of([("x", str(elsewhere))])
    prepare(config)
    config.write_text(config.read_text().replace('"allow": []', f'"allow": ["{elsewhere.parent}"]'))
    store, _ = extract_here(config)
    assert results(store)["x"] == (Status.OK, None)


def test_a_host_that_sends_byte_by_byte_has_a_bound_for_the_whole_file(server, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "WHOLE_S", 0.3)
    with pytest.raises(PairDecodeError, match="not there after"):
        ImageSource(tmp_path, allow=["127.0.0.1"]).image(f"http://127.0.0.1:{server.server_port}/200/drip.png")


def test_one_url_at_which_a_host_hangs_up_does_not_end_its_others(server, tmp_path, picture):
    images, host = ImageSource(tmp_path, allow=["127.0.0.1"]), f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(PairDecodeError, match="the answer breaks off"):
        images.image(f"{host}/200/hangs-up.png")
    assert images.image(f"{host}/200/a.png") == picture
