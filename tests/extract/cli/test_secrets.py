"""Passwords and tokens that a run needs, or meets in its corpus, are in no file and no message of its programs."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.end_to_end

PLANTED = "geheim"
"""Is in every password and token, in plain letters or in base64."""

SPELLINGS = [
    PLANTED.encode(),
    *(base64.b64encode(before + PLANTED.encode())[len(before) and 4 : -4] for before in (b"", b"abc")),
]


@pytest.fixture
def host(encoded):
    """A server that shows `/a.png` to whoever has the password, and repeats the request in everything it refuses."""
    picture = encoded(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            allowed = self.path == "/a.png" and self.headers.get("Authorization", "").startswith("Basic")
            body = picture if allowed else f"{self.path}\n{self.headers}".encode()
            self.send_response(200 if allowed else 403)
            self.send_header("X-Error-Message", f"no: {self.headers.get('Authorization')}".replace("\n", " "))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def world(tmp_path, host, encoded, teachers, monkeypatch):
    """A pipeline whose corpus has images at URLs with and without tokens, in an environment full of secrets."""
    netrc = tmp_path / "secrets"
    netrc.write_text(f"machine 127.0.0.1 login ada password {PLANTED}1\n")
    netrc.chmod(0o600)
    secrets = {
        "NETRC": str(netrc),
        "HF_TOKEN": f"hf_{PLANTED}2",
        "HF_ENDPOINT": f"http://{host}",
        "AWS_ACCESS_KEY_ID": f"AK{PLANTED}3",
        "AWS_SECRET_ACCESS_KEY": f"{PLANTED}4",
        "AWS_SESSION_TOKEN": f"{PLANTED}5",
        "AWS_ENDPOINT_URL": f"http://{host}",
        "AWS_ALLOW_HTTP": "true",
        "HTTPS_PROXY": f"http://ada:{PLANTED}6@127.0.0.1:9",
        "https_proxy": f"http://ada:{PLANTED}6@127.0.0.1:9",
        "MMKD_LOG": "DEBUG",
        "OMP_NUM_THREADS": "1",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "work"
    (folder / "corpus").mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = [f"{row}.png" for row in range(40)]
    for name in images:
        (folder / "corpus" / name).write_bytes(encoded(rng.integers(0, 255, (64, 64, 3), np.uint8)))
    images += [
        f"http://{host}/a.png",
        f"http://{host}/gone.png",
        f"http://{host}/a.png?token={PLANTED}7",
        f"http://{host}/a.png?X-Amz-Signature={PLANTED}8&x=1",
        f"http://ada:{PLANTED}9@{host}/a.png",
        f"s3://AK{PLANTED}:{PLANTED}@bucket/a.png",
    ]
    captions = [("a chest x-ray", "a CT slice", "a fundus photograph")[row % 3] for row in range(len(images))]
    records = [
        {"key": f"k{row}", "image": image, "caption": caption, "split": "val" if row % 5 == 0 else "train"}
        for row, (image, caption) in enumerate(zip(images, captions, strict=True))
    ]
    (folder / "corpus/pairs.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    model = {"init": str(teachers["small"])}
    pipeline = {
        "corpora": {"pairs": {"files": ["corpus/pairs.jsonl"], "allow": ["127.0.0.1", "any"]}},
        "store": {"path": "store", "corpus": "pairs", "range_rows": 16, "chunk_rows": 16},
        "teachers": {
            "small": {"folder": str(teachers["small"]), "embed_dim": 32, "licence": "MIT"},
            "absent": {"open_clip": "someone/model"},
        },
        "train": {
            "students": {
                "one": {
                    "recipe": "task_only",
                    "out": "one",
                    "model": model,
                    "optimization": {"steps": 2, "batch_size": 8, "lr": 1e-4},
                    "validation": {"split": "val"},
                }
            }
        },
    }
    pipeline["evaluate"] = {"out": "evaluated", "retrieval": {"own": {"corpus": "pairs"}}}
    tiny = pipeline | {"teachers": {"small": pipeline["teachers"]["small"]}}
    path = folder / "pipelines.yaml"
    path.write_text(json.dumps({"whole": pipeline, "tiny": tiny}))
    return folder


def spellings_in(written: bytes) -> list[bytes]:
    return [written[max(0, at - 60) : at + 40] for one in SPELLINGS if (at := written.find(one)) >= 0]


def secrets_in(written):
    """Return where secrets stand in what was written, by its name."""
    found = {str(name): spellings_in(content) for name, content in written.items()}
    return {name: places for name, places in found.items() if places}


def files_below(folder, *, but=None):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and but not in path.parents}


def all_said(command, repository, *, code=0):
    done = subprocess.run([sys.executable, "-m", *command], cwd=repository, capture_output=True, check=False)
    said = done.stdout + done.stderr
    assert b"Traceback" not in said, said.decode()[-3000:]
    assert done.returncode == code, said.decode()
    return said


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_ray_writes_and_says_no_secret_neither_do_rays_own_logs(world, repository, monkeypatch):
    here = ["--pipeline", "tiny", "--config", str(world / "pipelines.yaml")]
    run = ["extract", "run", *here, "--set", "extract.max_bad_fraction=1", "--set", "extract.workers=1"]
    with tempfile.TemporaryDirectory(prefix="ray") as logs:  # a socket's path has at most 107 letters
        for name, value in {"RAY_TMPDIR": logs, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}.items():
            monkeypatch.setenv(name, value)
        said = {
            name: all_said(command, repository)
            for name, command in {"index": ["extract", "index", *here], "run": run}.items()
        }
        rays = files_below(Path(logs))
    assert any("worker" in path.name and path.suffix == ".err" for path in rays)
    assert len(list((world / "store/receipts").rglob("r*.json"))) == 3
    assert secrets_in({**said, **rays, **files_below(world, but=world / "corpus")}) == {}


def test_a_whole_run_writes_and_says_no_secret(world, repository, encoded):
    store, said = world / "store", {}
    here = ["--pipeline", "tiny", "--config", str(world / "pipelines.yaml")]
    whole = ["--pipeline", "whole", "--config", str(world / "pipelines.yaml")]
    commands = {
        "index": ["extract", "index", *here, "--report"],
        "doctor": ["extract", "doctor", *whole, "--json"],
        "fetch": ["extract", "fetch", *whole],
        "plan": ["extract", "plan", *here, "--probe", "0", "--json"],
        "run": ["extract", "run", *here, "--local", "--set", "extract.max_bad_fraction=1"],
        "status": ["extract", "status", str(store), "--json"],
        **{
            name: ["store", name, str(store), "--json"]
            for name in ("info", "provenance", "quarantine", "verify", "stats")
        },
        "row": ["store", "row", str(store), "42", "--json"],
        "image": ["store", "row", str(store), "42", "--image", str(world / "42.png")],
        "export": ["store", "export", str(store), "--out", str(world / "exported"), "--format", "npz"],
        "s3": ["store", "info", "s3://bucket/store"],
        "login": ["store", "info", f"s3://AK{PLANTED}:{PLANTED}@bucket/store"],
        "distill": ["train", "distill", *here],
        "release": ["train", "export", str(world / "one"), "--out", str(world / "released"), "--store", str(store)],
        "evaluate": ["evaluate", "run", *here, "--model", "one", "--resamples", "20", "--json"],
        "report": ["evaluate", "report", *here, "--out", str(world / "report.html")],
        "predict": [
            *("evaluate", "predict", str(world / "corpus/0.png"), "--model", f"local-dir:{world / 'released'}"),
            *("--class", "cat", "--class", "dog", "--json"),
        ],
    }
    for name, command in commands.items():
        fails = name in {"doctor", "fetch", "image", "s3", "login"}
        said[name] = all_said(command, repository, code=1 if fails else 0)
    assert (world / "released/mmkd.json").is_file()
    files = files_below(world, but=world / "corpus")
    assert len(files) > 20
    assert secrets_in({**said, **files}) == {}
    import pyarrow.parquet as pq

    uris = [uri for path in (store / "pairs").glob("part-*") for uri in pq.read_table(path)["uri"].to_pylist()]
    assert len(uris) == 46
    assert not spellings_in(json.dumps(uris).encode())
    assert os.environ["HF_TOKEN"].encode() not in b"".join(files.values())
