"""The page about a store, as a browser reads it: what it shows of any store, what it loads, and what it never runs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from store.cli.program import app
from store.corpus.section import Corpus
from store.errors import StoreError
from store.format.records import Status
from store.index.create import index_corpus
from store.inspect.agreement import agreement
from store.inspect.coverage import coverage, tally
from store.inspect.feature_statistics import teacher_statistics
from store.read.reader import FeatureStore
from tests.benchmarks.store.synthetic_store import make_store
from tests.store.conftest import Units

ROOT = Path(__file__).parents[3]
SMALL = ROOT / "tests/store/fixtures/small/store"
HEADINGS = ("In short", "Coverage", "What is bad and why", "Provenance", "Timings")


@pytest.fixture
def store(units):
    """Ten rows in three ranges: alpha has a bad one, beta lacks two ranges, seer encodes images alone."""
    units.fill({2: Status.BAD_IMAGE})
    units.one_sided()
    return units


def test_page_and_data_say_what_the_other_commands_say(store, made):
    page, data, _ = made(store.path)
    opened = FeatureStore(store.path)
    assert all(heading in page.text for heading in HEADINGS)
    counts = {name: {m: vars_of(one) for m, one in of.items()} for name, of in coverage(tally(opened, "all")).items()}
    assert data["coverage"] == counts
    for side, found in zip(("image", "text"), data["agreements"], strict=True):
        wanted = agreement(opened, side=side, sample=100, seed=0)
        assert found["teachers"] == list(wanted.teachers)
        assert np.array(found["cka"], float) == pytest.approx(np.array(wanted.cka, float), nan_ok=True)
    for name in ("alpha", "beta"):
        wanted = teacher_statistics(opened, name, sample=100, seed=0)
        assert data["similarities"][name]["mean"] == pytest.approx(wanted.similarity_mean)
        assert data["similarities"][name]["quantiles"] == pytest.approx(wanted.similarity_quantiles)
        assert data["statistics"][name]["text"] == vars_of(wanted.text)
    assert "seer" not in data["similarities"]
    assert [*data["statistics"]["seer"]] == ["image"]
    assert "no: 6 features of a row are missing, 2 are bad" in page.text
    assert (data["sample"], data["of_rows"], data["seed"]) == (10, 10, 0)
    assert "10 of 10 rows that have a feature, drawn with seed 0" in page.text


def vars_of(record):
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def test_small_images_are_those_of_the_rows(store, made):
    page, data, _ = made(store.path)
    seen = {}
    for tag, attributes in page.elements:
        if tag == "img":
            row = int(re.fullmatch(r"image of row (\d+)", attributes["alt"])[1])
            seen[row] = Image.open(io.BytesIO(base64.b64decode(attributes["src"].partition(",")[2])))
    assert len(seen) >= 4
    for row, image in seen.items():
        assert np.asarray(image).mean(axis=(0, 1)) == pytest.approx([row, 2 * row, 3 * row], abs=3)
    assert data["pictures"] == {"missing": 0, "why": None}
    assert sum(tag == "image" for tag, _ in page.elements) == len(data["map"]["pictured"])


def test_neighbours_are_those_of_the_whole_store_where_the_sample_is_the_whole_store(store, made, capsys):
    _, data, _ = made(store.path)
    for query in data["queries"]:
        for teacher, found in query["teachers"].items():
            if found:
                arguments = ["neighbors", str(store.path), str(query["row"]), "--teacher", teacher, "-k", "4", "--json"]
                get_command(app)(arguments, standalone_mode=False)
                wanted = json.loads(capsys.readouterr().out)["neighbors"]
                assert [one["row"] for one in found] == [one["row"] for one in wanted]


def test_a_sample_is_drawn_with_a_seed_and_the_page_says_so_and_is_the_same_again(store, made):
    page, data, out = made(store.path, "--sample", "6", "--seed", "3")
    assert "6 of 10 rows that have a feature, drawn with seed 3" in page.text
    first = out.read_bytes()
    assert made(store.path, "--sample", "6", "--seed", "3")[2].read_bytes() == first
    others = [made(store.path, "--sample", "6", "--seed", str(seed))[1]["map"] for seed in range(4, 8)]
    assert any(other["rows"] != data["map"]["rows"] for other in others)


def test_a_browser_loads_nothing_and_runs_nothing(store, made):
    page, _, out = made(store.path)
    assert all(one.startswith(("data:", "#")) for one in page.sources)
    assert "script" not in {tag for tag, _ in page.elements}
    [policy] = [found["content"] for _, found in page.elements if found.get("http-equiv")]
    style = re.search(r"<style>(.*?)</style>", out.read_text(), re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not [name for _, found in page.elements for name in found if name.startswith("on") or name == "style"]


def test_a_store_without_its_corpus_has_a_page_that_says_why_it_has_no_images(made):
    page, data, _ = made(SMALL)
    assert page.images() == []
    assert data["pictures"]["missing"] == len(data["pairs"]) > 0
    assert (
        f"{data['pictures']['missing']} of {len(data['pairs'])} are not shown: {data['pictures']['why']}" in page.text
    )
    assert "/corpora/small" in page.text
    assert [(one["rows"], one["row"]) for one in data["reasons"]] == [(1, 5), (1, 5)]


def test_a_store_without_a_teacher_has_a_page_that_says_what_to_do(units, made):
    page, data, _ = made(units.path)
    assert "No teacher was ever registered." in page.text
    assert "python -m extract run" in page.text
    assert (data["map"], data["queries"], data["agreements"], data["timings"]) == (None, [], [], None)


def test_a_teacher_that_was_only_registered_is_shown_as_missing(units, made):
    units.register()
    page, data, _ = made(units.path)
    assert "10 missing" in page.text
    assert data["similarities"] == {"alpha": None}


def test_a_store_of_features_alone_has_a_page(tmp_path, made):
    widths, present = {"one": 16, "two": 12}, {"one": 1.0, "two": 0.5}
    for _ in make_store(tmp_path / "s", rows=3000, widths=widths, present=present, range_rows=512, chunk_rows=64):
        pass
    page, data, out = made(tmp_path / "s", "--sample", "500", "--teacher", "two")
    assert (data["sample"], data["map"]["teacher"], page.images()) == (500, "two", [])
    assert len(data["map"]["rows"]) == sum(tag == "circle" for tag, _ in page.elements)
    assert out.stat().st_size < 10e6
    with pytest.raises(StoreError, match="no teacher 'three'"):
        made(tmp_path / "s", "--teacher", "three")


HOSTILE = '</style><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m\u202e'


def test_what_strangers_wrote_is_text_and_its_length_is_bounded(tmp_path, write_tar, as_bytes, made):
    members = []
    for number in range(12):
        image = as_bytes(Image.new("RGB", (8, 8), (9 * number, 0, 0)))
        record = {"modality": f"{HOSTILE}{number % 2}", "license": HOSTILE + "x" * 200_000 + str(number)}
        caption = HOSTILE + "long " * 200_000
        members += [(f"k{number}.png", image), (f"k{number}.txt", caption.encode())]
        members.append((f"k{number}.json", json.dumps(record).encode()))
    tar = write_tar("corpus/000.tar", members)
    info, _ = index_corpus(tmp_path / "store", Corpus(files=[str(tar)]), range_rows=4, chunk_rows=2)
    units = Units(tmp_path / "store", info)
    notes = {"licence": HOSTILE, "source": HOSTILE}
    units.register("alpha", notes=notes)
    for range_id in range(3):
        features = units.features(range_id)
        if range_id == 2:
            features.status[0] = Status.BAD_IMAGE
            features.reasons[0] = HOSTILE
        units.commit(range_id, features=features, spec=units.spec("alpha", notes=notes), run_id="first")
    page, _, out = made(units.path)
    plain = {tag for tag, _ in made(SMALL)[0].elements} | {"img", "image"}
    assert {tag for tag, _ in page.elements} <= plain
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text
    assert "\x1b" not in out.read_text()
    assert out.stat().st_size < 1e6


def test_the_command_wants_a_place_for_the_page_or_json(store, capsys):
    with pytest.raises(Exception, match="give --out FILE"):
        get_command(app)(["report", str(store.path)], standalone_mode=False)
    get_command(app)(["report", str(store.path), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["pictures"] == {"missing": 0, "why": None}


def test_a_store_on_object_storage_has_the_same_page(store, s3, made):
    shutil.copytree(store.path, s3.folder / "bucket/page")
    _, here, _ = made(store.path)
    page, there, _ = made("s3://bucket/page")
    for content in (here, there):
        del content["store"]["path"]
    assert there == here
    assert len(page.images()) > 4
