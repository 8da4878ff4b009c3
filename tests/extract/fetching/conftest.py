"""A hub on loopback, teachers that are published on it, and the commands that a user types."""

from __future__ import annotations

import io
import json
import os
import shutil
import ssl
import subprocess
import sys
import zipfile

import pytest
from huggingface_hub import constants

from extract.fetching import http
from extract.fetching.fetch import Fetch
from extract.fetching.pins import LOCK_NAME, Pins
from extract.teacher_files.entry import TeacherEntry
from tests.extract import teacher_cases as cases
from tests.extract.hub import serving


@pytest.fixture
def hub():
    """A hub of the test's own."""
    with serving() as server:
        yield server


@pytest.fixture
def extract(tmp_path, repository):
    """Return a function that runs ``python -m extract`` beside the test's pipelines.yaml: the ended process."""

    def run(*arguments, **environment):
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        local = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", "OMP_NUM_THREADS": "1"}
        paths = {"PYTHONPATH": str(repository), "HF_HOME": str(tmp_path / "hf"), "COLUMNS": "240"}
        done = subprocess.run(
            [sys.executable, "-m", "extract", *map(str, arguments)],
            cwd=tmp_path,
            env=inherited | local | paths | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def write_teachers(tmp_path):
    """Return a function that writes entries as the pipeline ``mmkd`` of a pipelines.yaml, and returns its path."""

    def write(teachers, files=("pairs/*.tar",)):
        pipeline = {
            "corpora": {"pairs": {"files": [*files]}},
            "teachers": teachers,
            "store": {"path": "store", "corpus": "pairs", "range_rows": 16, "chunk_rows": 16},
            "extract": {"batch_size": 16},
        }
        path = tmp_path / "pipelines.yaml"
        path.write_text(json.dumps({"mmkd": pipeline}))  # JSON is YAML
        return path

    return write


@pytest.fixture
def entry_of():
    """Return a function that states a case's entry as pipelines.yaml does: its own folder, its own downloads."""

    def state(case, folder, download, **changes):
        stated = case.entry.model_dump(mode="json", exclude_defaults=True)
        return stated | {"folder": str(folder), "download": download} | changes

    return state


@pytest.fixture
def quiltnet(tmp_path, hub, write_teachers, entry_of):
    """QuiltNet, published on the hub and named by pipelines.yaml: (case, entry, folder of its files)."""
    source = tmp_path / "authors"
    source.mkdir()
    case = cases.open_clip_hub(source)
    names = ["open_clip_config.json", "open_clip_pytorch_model.bin"]
    hub.publish("wisdomik/QuiltNet-B-32", source, names)
    download = [{"repo": "wisdomik/QuiltNet-B-32", "files": names}]
    entry = entry_of(case, "weights/quiltnet", download, licence="MIT", licence_read="2026-11-29")
    write_teachers({"quiltnet": entry})
    return case, entry, tmp_path / "weights" / "quiltnet"


@pytest.fixture
def pmcclip(tmp_path, hub, write_teachers, entry_of):
    """PMC-CLIP, published in two repositories and named by pipelines.yaml: (case, entry, folder of its files)."""
    source = tmp_path / "authors"
    source.mkdir()
    case = cases.pmcclip(source)
    weights = ["image_encoder(resnet50).pth", "text_encoder.pth", "text_projection_layer.pth"]
    hub.publish("datasets/axiong/pmc_oa", source, weights)
    hub.publish("microsoft/bert", source / "text", ["config.json", "vocab.txt"])
    download = [
        {"repo": "axiong/pmc_oa", "kind": "dataset", "files": weights},
        {"repo": "microsoft/bert", "files": ["config.json", "vocab.txt"], "optional": ["x.json"], "into": "text"},
    ]
    entry = entry_of(case, "weights/pmcclip", download)
    write_teachers({"pmcclip": entry})
    return case, entry, tmp_path / "weights" / "pmcclip"


@pytest.fixture
def fetching(tmp_path, hub, monkeypatch):
    """Return a function that fetches a teacher in this process from the test's hub: the number of fetched files."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(http, "PAUSE_S", 0.01)
    monkeypatch.setattr(http, "_silent", {})
    for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")

    def fetch(name, entry, *, keep_source=True):
        stated = TeacherEntry.model_validate_json(json.dumps(entry), context={"folder": tmp_path})
        command = f"python -m extract fetch {name}"
        one = Fetch(name=name, entry=stated, pins=Pins(tmp_path / LOCK_NAME), command=command)
        return one.run(one.plan(), keep_source=keep_source)

    return fetch


@pytest.fixture
def https_hub(tmp_path):
    """A hub of HTTPS with a certificate that nobody signed, at ``certificate``."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names]
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as server:
        server.certificate = certificate
        yield server


@pytest.fixture
def zipped_weights(hub):
    """Return a function that serves QuiltNet's files as a zip, with another last byte of the weights: its address."""

    def zipped(last):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as members:
            for name, data in next(iter(hub.repos["wisdomik/QuiltNet-B-32"].values())).items():
                members.writestr(f"quiltnet/{name}", data[:-1] + last if name.endswith(".bin") else data)
        hub.files["/files/quiltnet.zip"] = content.getvalue()
        return f"{hub.url}/files/quiltnet.zip"

    return zipped
