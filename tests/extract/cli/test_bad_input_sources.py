"""Corpora that are not what they are said to be: cut short, not there, a web page, a table without its column."""

from __future__ import annotations

import http.server
import json
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from extract.cli.commands_run import RAY_JOB
from extract.cli.program import app
from store.errors import ConfigError, CorpusError
from store.format.records import Status, read_store_info
from store.index.curation_report import read_report
from store.io.location import locate
from store.read.reader import FeatureStore

PAGE = b"<!DOCTYPE html><html><body>Sign in to continue</body></html>"


def command(*arguments):
    return get_command(app)(list(map(str, arguments)), prog_name="extract", standalone_mode=False)


def index(path):
    command("index", "--pipeline", "tiny", "--config", path, "--workers", 1)


@pytest.fixture
def pictures(encoded):
    """Four different pictures as PNG bytes."""
    rng = np.random.default_rng(0)
    return [encoded(pixels) for pixels in rng.integers(0, 255, (4, 64, 64, 3), np.uint8)]


@pytest.fixture
def site():
    """A web server: its address, and what it serves by path; anything else is 404."""
    served = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer(body=True)

        def do_HEAD(self):
            self._answer(body=False)

        def _answer(self, *, body):
            content = served.get(self.path)
            wanted = self.headers.get("Range", "").removeprefix("bytes=")
            if content is not None and wanted:
                first, last = (int(number or len(content)) for number in wanted.split("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}")
                content = content[first : last + 1]
            else:
                self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if body and content is not None:
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", served
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("cut", ["in a header", "in an image", "between members", "in the end"])
def test_a_tar_cut_in_the_middle_is_refused_and_leaves_no_store(
    tmp_path, write_tar, pictures, write_pipeline, teachers, cut
):
    folder = write_tar(tmp_path / "corpus", [(f"k{n}", image, "a caption") for n, image in enumerate(pictures)])
    [tar] = folder.glob("*.tar")
    whole, block = tar.read_bytes(), 512
    image_blocks = -(-len(pictures[0]) // block)
    second = block * (1 + image_blocks + 2)  # where the second pair begins
    places = {"in a header": second + 100, "in an image": second + block + 1000, "between members": second}
    tar.write_bytes(whole[: places.get(cut, len(whole.rstrip(b"\0")) + 10)])
    with pytest.raises(CorpusError, match=r"cannot be read as an uncompressed tar|is cut short") as caught:
        index(write_pipeline(tmp_path, files=[folder / "*.tar"], teachers=teachers))
    assert "fetch the file again" in caught.value.hint
    assert not (tmp_path / "store" / "store.json").exists()


def test_image_urls_that_answer_404_or_a_web_page_are_bad_rows_and_the_others_are_not(
    tmp_path, site, pictures, write_pipeline, teachers, extract_here, caplog
):
    address, served = site
    served |= {"/a.png": pictures[0], "/page.png": PAGE}
    records = [{"key": name, "url": f"{address}/{name}.png", "caption": f"of {name}"} for name in ("a", "gone", "page")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    path = write_pipeline(tmp_path, files=[tmp_path / "pairs.jsonl"], teachers={"small": teachers["small"]})
    path.write_text(path.read_text().replace('"files": [', '"allow": ["127.0.0.1"], "files": ['))
    index(path)
    passed = read_report(locate(tmp_path / "store"), read_store_info(locate(tmp_path / "store"))).passed
    assert passed["image's URL: the host answers with status 404"].count == 1
    assert "gone.png" in passed["image's URL: the host answers with status 404"].first
    store = FeatureStore(extract_here(path)[0])
    assert store.status("small").tolist() == [Status.OK, Status.BAD_IMAGE, Status.BAD_IMAGE]
    reasons = {bad.key: bad.reason for receipt in store.receipts("small").values() for bad in receipt.bad_rows}
    assert "not an image of a kind that is read" in reasons["page"]
    assert "DOCTYP" not in reasons["page"]
    assert reasons["gone"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.tar", "no such corpus file|no corpus file matches"), ("page.tar", "cannot be read as an uncompressed tar")],
)
def test_a_corpus_file_at_a_url_that_answers_404_or_a_web_page_is_refused(
    tmp_path, site, write_pipeline, teachers, name, message
):
    address, served = site
    served["/page.tar"] = PAGE
    with pytest.raises(CorpusError, match=message):
        index(write_pipeline(tmp_path, files=[f"{address}/{name}"], teachers=teachers))
    assert not (tmp_path / "store" / "store.json").exists()


@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        (("picture", "caption"), {}, "no column of images was found; there are picture, caption"),
        (("image", "words"), {}, "no column of captions was found; there are image, words"),
        (("image", "caption"), {"caption": "abstract"}, "abstract"),
    ],
)
def test_a_parquet_file_without_the_named_column_is_refused_with_those_it_has(
    tmp_path, pictures, write_pipeline, teachers, columns, fields, message
):
    table = pa.table({columns[0]: pictures, columns[1]: ["a caption"] * 4})
    pq.write_table(table, tmp_path / "pairs.parquet")
    path = write_pipeline(tmp_path, files=[tmp_path / "pairs.parquet"], teachers=teachers)
    content = json.loads(path.read_text())
    content["tiny"]["corpora"]["pairs"]["fields"] = fields
    path.write_text(json.dumps(content))
    with pytest.raises(CorpusError, match=message) as caught:
        index(path)
    assert caught.value.hint or "did you mean" in str(caught.value) or "there are" in str(caught.value)
    assert not (tmp_path / "store" / "store.json").exists()


@pytest.mark.parametrize("name", ["run", "plan", "drift"])
def test_a_relative_store_in_a_ray_job_is_refused_and_the_whole_path_named(
    tmp_path, corpus, write_pipeline, teachers, monkeypatch, name
):
    path = write_pipeline(tmp_path, files=[corpus / "*.tar"], teachers=teachers)
    monkeypatch.setenv(RAY_JOB, "{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match="--store runs/store: a relative path, and a Ray job runs in a copy"
    ) as caught:
        command(name, "--pipeline", "tiny", "--config", path, "--store", "runs/store")
    assert '--store "$PWD/runs/store"' in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_a_relative_store_is_taken_from_where_the_command_is_run(
    tmp_path, corpus, write_pipeline, teachers, monkeypatch, prepare, capsys
):
    config = write_pipeline(tmp_path / "settings", files=[corpus / "*.tar"], teachers=teachers)
    prepare(config)
    (tmp_path / "settings" / "store").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    command("plan", "--pipeline", "tiny", "--config", config, "--store", "elsewhere", "--probe", "0", "--json")
    content = json.loads(capsys.readouterr().out)
    assert (content["store"], content["rows"]) == (str(tmp_path / "elsewhere"), 60)
