"""``python -m extract index`` and ``append``: what they print, a kill and its resume, the rules for real records."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from extract.config import ExtractPipeline
from store.config.pipeline_file import read_pipeline
from store.format.pairs import PairTable
from store.format.records import read_store_info
from store.index.merge import read_corpus
from store.io.location import locate


def keys_of(store):
    info = read_store_info(locate(store))
    return PairTable(locate(store), info).read(0, info.rows, ["key"])["key"].to_pylist()


@pytest.fixture
def pairs(encoded):
    """A function that makes (key, image, caption) triples."""

    def make(numbers, *, side=8):
        rng = np.random.default_rng(list(numbers))
        drawn = rng.integers(0, 255, (len(numbers), side, side, 3)).astype(np.uint8)
        return [(f"k{n:03d}", encoded(image), f"caption {n}") for n, image in zip(numbers, drawn, strict=True)]

    return make


@pytest.fixture
def pipeline(tmp_path, teachers, write_pipeline, write_tar, pairs):
    """A pipeline over twelve pairs, and a function that sets the rules of its corpus."""
    write_tar(tmp_path / "corpus" / "0", pairs(range(12)))
    path = write_pipeline(tmp_path, files=[tmp_path / "corpus/**/*.tar"], teachers=teachers)

    def keep(**rules):
        content = json.loads(path.read_text())
        content["tiny"]["corpora"]["pairs"]["keep"] = rules
        path.write_text(json.dumps(content, indent=1))

    return path, keep


@pytest.mark.end_to_end
def test_the_report_says_what_each_rule_refused_and_what_others_would_change(tmp_path, pipeline, cli):
    path, keep = pipeline
    keep(caption_characters={"at_most": 9})
    code, stdout, stderr = cli("index", "--pipeline", "tiny", "--config", path, "--report")
    assert code == 0, stderr
    report = json.loads(stdout)
    assert {name: report[name] for name in ("files", "members", "keys", "pairs", "usable", "rows", "dropped")} == {
        "files": 1,
        "members": 24,
        "keys": 12,
        "pairs": 12,
        "usable": 12,
        "rows": 10,
        "dropped": {"caption_characters": 2},
    }
    before = keys_of(tmp_path / "store")
    keep(labels=[{"field": "key", "exclude": ["k001"]}])
    code, stdout, stderr = cli("index", "--pipeline", "tiny", "--config", path)
    assert code == 1
    assert "settings changed since this store was made" in " ".join(stderr.split())
    code, stdout, stderr = cli("index", "--pipeline", "tiny", "--config", path, "--report")
    assert code == 0, stderr
    assert json.loads(stdout)["rows"] == 11
    assert "the present settings would add 2 rows: k010, k011\n" in stderr
    assert "the present settings would drop 1 rows: k001\n" in stderr
    assert "left as it is" in stderr
    assert keys_of(tmp_path / "store") == before


@pytest.mark.end_to_end
def test_new_tars_are_appended_and_extraction_goes_on_with_them(tmp_path, pipeline, cli, write_tar, pairs):
    path, _ = pipeline
    assert cli("index", "--pipeline", "tiny", "--config", path)[0] == 0
    write_tar(tmp_path / "corpus" / "1", pairs(range(12, 20)))
    code, _, stderr = cli("index", "--pipeline", "tiny", "--config", path)
    assert code == 1
    assert "python -m extract append adds the new files' pairs" in " ".join(stderr.split())
    code, _, stderr = cli("append", "--pipeline", "tiny", "--config", path)
    assert code == 0, stderr
    assert "8 rows more, 20 in all" in stderr
    assert keys_of(tmp_path / "store") == [f"k{n:03d}" for n in range(20)]
    code, _, stderr = cli("append", "--pipeline", "tiny", "--config", path)
    assert code == 0
    assert "holds all 2 files of the corpus already: nothing to do" in stderr


@pytest.mark.end_to_end
def test_an_index_that_is_killed_goes_on_where_it_was(tmp_path, pipeline, start, cli, write_tar, pairs):
    path, _ = pipeline
    for number in range(1, 9):
        write_tar(tmp_path / "corpus" / str(number), pairs(range(100 * number, 100 * number + 40), side=200))
    store = tmp_path / "store"
    with start("index", "--pipeline", "tiny", "--config", path, "--workers", 1) as process:
        while process.poll() is None and len(list(store.glob("index/*.parquet"))) < 2:
            time.sleep(0.001)
        process.kill()
    assert not (store / "store.json").exists()
    parts = {part: part.stat().st_mtime_ns for part in store.glob("index/*.parquet")}
    assert 0 < len(parts) < 9
    code, _, stderr = cli("index", "--pipeline", "tiny", "--config", path, "--workers", 1)
    assert code == 0, stderr
    assert keys_of(store) == [f"k{n:03d}" for n in [*range(12), *(100 * t + i for t in range(1, 9) for i in range(40))]]


def test_the_rules_of_the_mmkd_pipeline_keep_the_authors_own_pairs(repository, shared_data):
    source = shared_data("mmkd_demo")
    biomedica = read_pipeline(repository / "pipelines.yaml", "mmkd", ExtractPipeline).corpora["biomedica"]
    here = {"key": "id", "image": "imgpath", "caption": "txt", "json_file": "metapath"}
    corpus = biomedica.model_copy(
        update={
            "files": [str(Path(source) / "meta.jsonl")],
            "qualify_keys": False,
            "fields": biomedica.fields.model_copy(update=here),
        }
    )
    index = read_corpus(corpus)
    assert index.account.passed == {}
    assert sorted(index.table["modality"].to_pylist()) == [
        "ct",
        "endoscopy",
        "histopathology",
        "histopathology",
        "histopathology",
        "histopathology",
        "intraoral",
        "surgery",
    ]
    assert set(index.table["license"].to_pylist()) == {"CC BY"}
    assert all(source.startswith("PMC") for source in index.table["source"].to_pylist())
