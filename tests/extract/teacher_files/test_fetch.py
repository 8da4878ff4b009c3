"""Fetching teachers' files: from a hub on this machine's loopback, with what goes wrong there; and offline."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.weights import CONVERTED_NAME, RECORD_NAME
from extract.teachers.loading import load_teacher
from tests.extract import teacher_cases as cases
from tests.extract.teacher_inputs import pixels_of

pytestmark = pytest.mark.end_to_end


class Hub(BaseHTTPRequestHandler):
    """Serves files as the Hugging Face Hub does, and records what was asked for."""

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body):
        data = self.server.files.get(self.path)
        asked = self.headers.get("Range")
        self.server.asked.append((self.command, self.path, asked))
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if with_body:
            body = data[first:]
            cut = self.server.cut.pop(self.path, None)
            self.wfile.write(body if cut is None else body[:cut])

    def log_message(self, *_):
        """Keep the test's output quiet."""


@pytest.fixture
def hub():
    """A hub: put files into ``files`` by path; ``cut`` ends an answer early, once."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.asked, server.cut = {}, [], {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def publish(server, prefix, folder, names):
    for name in names:
        quoted = name.replace("(", "%28").replace(")", "%29")
        server.files[f"/{prefix}/resolve/main/{quoted}"] = (folder / name).read_bytes()


def entry_of(case, folder, download, **changes):
    stated = case.entry.model_dump(exclude_defaults=True) | {"folder": str(folder), "download": download}
    return stated | changes


def write_pipeline(path, teachers):
    corpora = {"pairs": {"files": ["pairs/*.tar"]}}
    content = {"tiny": {"corpora": corpora, "teachers": teachers, "store": {"path": "store", "corpus": "pairs"}}}
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def extract(repository, command, config, *arguments, **environment):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    proxies = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-m", "extract", command, *arguments, "--pipeline", "tiny", "--config", str(config)],
        cwd=repository,
        env=inherited | proxies | {"OMP_NUM_THREADS": "1", "HF_HOME": str(config.parent / "hf")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def pmc(tmp_path, hub):
    """PMC-CLIP, published on the hub: its case, its entry that fetches it, and the pipeline's file."""
    source = tmp_path / "authors"
    source.mkdir()
    case = cases.pmcclip(source)
    weights = ("image_encoder(resnet50).pth", "text_encoder.pth", "text_projection_layer.pth")
    publish(hub, "datasets/axiong/pmc_oa", source, weights)
    publish(hub, "microsoft/bert", source / "text", ("config.json", "vocab.txt"))
    download = [
        {"repo": "axiong/pmc_oa", "kind": "dataset", "files": list(weights)},
        {"repo": "microsoft/bert", "files": ["config.json", "vocab.txt"], "optional": ["x.json"], "into": "text"},
    ]
    entry = entry_of(case, tmp_path / "weights" / "pmcclip", download)
    return case, entry, write_pipeline(tmp_path / "pipelines.yaml", {"pmcclip": entry})


def test_fetched_files_make_the_authors_teacher_and_a_second_call_asks_for_nothing(tmp_path, repository, hub, pmc):
    case, entry, config = pmc
    done = extract(repository, "fetch", config, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "weights" / "pmcclip"
    assert (folder / CONVERTED_NAME).is_file()
    assert (folder / RECORD_NAME).is_file()
    fetched = type(case.entry)(**{key: value for key, value in entry.items() if key != "download"})
    pixels_BHWC = pixels_of(64)
    ours, theirs = (
        load_teacher(teacher_spec("pmcclip", one), one).encode_image(pixels_BHWC) for one in (fetched, case.entry)
    )
    assert (ours == theirs).all()
    hub.asked.clear()
    again = extract(repository, "fetch", config, "pmcclip", HF_ENDPOINT=hub.url)
    assert "nothing to fetch" in again.stderr
    # The optional file is not there and may appear any day.
    files = {path for _, path, _ in hub.asked if not path.startswith("/api/")}
    assert files == {"/microsoft/bert/resolve/main/x.json"}


def test_a_listing_says_what_is_here_and_what_is_not(tmp_path, repository, hub, pmc):
    _, _, config = pmc
    before = json.loads(extract(repository, "teachers", config, "--json").stdout)["pmcclip"]
    assert (before["present"], before["problem"]["kind"], before["spec_hash"]) == (False, "missing", None)
    assert [file["present"] for file in before["files"]] == [False] * 6
    assert before["source"] == "hf dataset axiong/pmc_oa, hf microsoft/bert"
    extract(repository, "fetch", config, HF_ENDPOINT=hub.url)
    after = json.loads(extract(repository, "teachers", config, "--json").stdout)["pmcclip"]
    assert (after["present"], after["problem"]) == (True, None)
    assert after["nbytes"] == (tmp_path / "weights" / "pmcclip" / CONVERTED_NAME).stat().st_size
    assert len(after["spec_hash"]) == 64
    text = extract(repository, "teachers", config).stdout
    assert "present" in text
    assert after["spec_hash"][:8] in text


def test_a_file_that_the_repository_lacks_is_named(repository, hub, pmc):
    _, _, config = pmc
    del hub.files["/datasets/axiong/pmc_oa/resolve/main/text_encoder.pth"]
    done = extract(repository, "fetch", config, HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "error: teacher pmcclip: hf dataset axiong/pmc_oa has no file text_encoder.pth" in done.stderr


def test_a_page_in_place_of_a_file_is_refused(repository, hub, pmc):
    _, _, config = pmc
    hub.files["/datasets/axiong/pmc_oa/resolve/main/text_encoder.pth"] = b"<!DOCTYPE html><html>busy</html>"
    done = extract(repository, "fetch", config, HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "text_encoder.pth: an HTML page, not weights" in done.stderr


def test_a_file_of_another_digest_is_refused_and_not_kept(tmp_path, repository, hub, pmc):
    _, entry, config = pmc
    entry["download"][0]["sha256"] = {"text_encoder.pth": "0" * 64}
    write_pipeline(config, {"pmcclip": entry})
    done = extract(repository, "fetch", config, HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "text_encoder.pth of hf dataset axiong/pmc_oa is another file than the pipeline expects" in done.stderr
    assert not (tmp_path / "weights" / "pmcclip" / "text_encoder.pth").exists()


@pytest.mark.parametrize(
    "environment",
    # The hub's client tries for half a minute before it believes that nobody answers.
    [{"HF_HUB_OFFLINE": "1"}, pytest.param({"HF_ENDPOINT": "http://127.0.0.1:9"}, marks=pytest.mark.fault)],
)
def test_without_a_network_every_file_is_named_with_its_origin_and_its_place(tmp_path, repository, pmc, environment):
    _, _, config = pmc
    done = extract(repository, "fetch", config, **environment)
    assert done.returncode == 1
    place = tmp_path / "weights" / "pmcclip"
    for line in (
        f"  text_encoder.pth of hf dataset axiong/pmc_oa\n    to {place / 'text_encoder.pth'}",
        f"  vocab.txt of hf microsoft/bert\n    to {place / 'text' / 'vocab.txt'}",
        f"  x.json of hf microsoft/bert (if it is there)\n    to {place / 'text' / 'x.json'}",
    ):
        assert line in done.stderr
    assert ("HF_HUB_OFFLINE is set" in done.stderr) == ("HF_HUB_OFFLINE" in environment)


def test_medclips_archive_is_unpacked_and_a_download_that_was_cut_off_goes_on(tmp_path, repository, hub):
    source = tmp_path / "authors"
    source.mkdir()
    case = cases.medclip(source)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.write(source / "pytorch_model.bin", "medclip-vit/pytorch_model.bin")
    hub.files["/medclip-vit-pretrained.zip"] = archive.getvalue()
    publish(hub, "emilyalsentzer/Bio_ClinicalBERT", source / "text", ("config.json", "vocab.txt"))
    download = [
        {"url": f"{hub.url}/medclip-vit-pretrained.zip", "files": ["pytorch_model.bin"]},
        {"repo": "emilyalsentzer/Bio_ClinicalBERT", "files": ["config.json", "vocab.txt"], "into": "text"},
    ]
    folder = tmp_path / "weights" / "medclip"
    config = write_pipeline(tmp_path / "pipelines.yaml", {"medclip": entry_of(case, folder, download)})
    hub.cut["/medclip-vit-pretrained.zip"] = 1000
    broken = extract(repository, "fetch", config, HF_ENDPOINT=hub.url)
    assert broken.returncode == 1
    assert "cannot be fetched" in broken.stderr
    assert (folder / "medclip-vit-pretrained.zip.part").stat().st_size == 1000
    done = extract(repository, "fetch", config, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert ("GET", "/medclip-vit-pretrained.zip", "bytes=1000-") in hub.asked
    entry = case.entry.model_copy(update={"folder": str(folder)})
    assert teacher_spec("medclip", entry).hash == teacher_spec("medclip", case.entry).hash
    assert not list(folder.glob("*.zip*"))


def test_a_name_that_the_pipeline_lacks_is_refused(repository, pmc):
    _, _, config = pmc
    done = extract(repository, "fetch", config, "plip")
    assert done.returncode == 1
    assert "error: no teacher plip in the pipeline; it has pmcclip" in done.stderr
