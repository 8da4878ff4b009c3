"""Rules that choose pairs, what each refuses, and what other rules would change."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from store.config.pipeline_file import read_pipeline
from store.corpus.curation import Keep
from store.corpus.section import Corpus
from store.errors import ConfigError, CorpusError, StoreError
from store.format.pairs import PairTable
from store.index.create import index_corpus, settings_changed
from store.index.curation_report import read_report, render
from store.index.merge import read_corpus
from store.index.rule_change import rule_change
from store.io.location import locate
from store.pipeline import Pipeline
from store.texts.language import is_english


@pytest.fixture
def pair_of(as_bytes):
    """The members of one pair."""

    def make(key, *, image=None, size=(40, 30), caption="a caption of some words", **record):
        if image is None:
            drawn = np.random.default_rng(sum(map(ord, key))).integers(0, 255, (*reversed(size), 3))
            image = as_bytes(Image.fromarray(drawn.astype(np.uint8)))
        return [(f"{key}.png", image), (f"{key}.txt", caption.encode()), (f"{key}.json", json.dumps(record).encode())]

    return make


@pytest.fixture
def indexed(write_tar, tmp_path):
    """Index pairs under rules; the keys of the rows and the report."""

    def index(pairs, keep, **settings):
        tar = write_tar("0.tar", [member for pair in pairs for member in pair])
        corpus = Corpus.model_validate_json(json.dumps({"files": [str(tar)], "keep": keep, **settings}))
        location = locate(tmp_path / "store")
        info, _ = index_corpus(location, corpus, range_rows=4, chunk_rows=2)
        keys = PairTable(location, info).read(0, info.rows, ["key"])["key"].to_pylist()
        return keys, read_report(location, info)

    return index


def test_label_rules_include_and_exclude(pair_of, indexed):
    pairs = [
        pair_of("a", label=["Microscopy"], panel="single"),
        pair_of("b", label=["Microscopy", "Plots and Charts"], panel="single"),
        pair_of("c", label=["Table"], panel="single"),
        pair_of("d", label=["clinical imaging"], panel="multiple"),
        pair_of("e", panel="single"),
    ]
    rules = [
        {"field": "json.label", "include": ["Microscopy", "Clinical Imaging"], "exclude": ["plots and charts"]},
        {"field": "json.panel", "include": ["single"]},
    ]
    keys, report = indexed(pairs, {"labels": rules})
    assert keys == ["a"]
    assert report.dropped == {"labels: json.label": 3, "labels: json.panel": 1}
    assert (report.pairs, report.rows) == (5, 1)


def test_rules_can_name_mapped_columns_and_need_a_known_modality(pair_of, indexed):
    pairs = [
        pair_of("a", label="CT scan", split="train"),
        pair_of("b", label="plot", split="train"),
        pair_of("c", label="ct scan", split="test"),
    ]
    keys, report = indexed(
        pairs,
        {"known_modality": True, "labels": [{"field": "split", "exclude": ["test"]}]},
        fields={"modality": "json.label"},
        modality_map={"CT scan": "ct"},
    )
    assert keys == ["a"]
    assert report.dropped == {"labels: split": 1, "known_modality": 1}
    assert (report.modalities, report.unmapped) == ({"ct": 1}, {"plot": 1})


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ({"caption_words": {"at_least": 3}}, ["b", "c", "d"]),
        ({"caption_words": {"at_least": 2, "at_most": 4}}, ["a", "b"]),
        ({"caption_characters": {"at_most": 9}}, ["a", "empty"]),
        ({"language": "en"}, ["a", "b", "c"]),
        ({"licenses": ["cc by", "CC0"]}, ["a", "c"]),
        ({"image": {"side_px": {"at_least": 20}}}, ["a", "b"]),
        ({"image": {"max_aspect": 2}}, ["a", "c", "d"]),
    ],
    ids=["words", "both ends", "characters", "language", "licence", "side", "aspect"],
)
def test_a_rule_on_caption_image_or_licence_keeps_what_it_says(pair_of, indexed, keep, kept):
    pairs = [
        pair_of("a", caption="CT scan", license="CC BY"),
        pair_of("b", caption="an axial CT scan", size=(90, 30), license="CC BY-NC"),
        pair_of("c", caption="the lesion in the left lobe was seen on CT", size=(10, 10), license="cc0"),
        pair_of("d", caption="la lesión en el lóbulo izquierdo se ve en la TC", size=(20, 10)),
        [*pair_of("empty", caption="")[1:2], ("empty.png", b"no image"), ("empty.json", b'{"license": "other"}')],
    ]
    assert indexed(pairs, keep)[0] == kept


@pytest.mark.parametrize(
    ("caption", "english"),
    [
        ("Axial T2-weighted MRI", True),
        ("Expression of TGF-β and α-SMA in the liver of mice fed with a high-fat diet", True),
        ("Figure 3", True),
        ("肺部 CT 显示结节", False),
        ("Рентгенограмма органов грудной клетки", False),
        ("12 / 34", False),
        ("Radiographie du thorax montrant une opacité dans le lobe supérieur", False),
        ("Röntgenbild des Thorax mit einer Verschattung in der rechten Lunge", False),
        ("Radiografia do tórax com uma opacidade no lobo superior direito", False),
    ],
)
def test_language_is_judged_by_letters_and_function_words(caption, english):
    assert is_english(caption) is english


def test_exact_duplicates_are_counted_and_dropped_if_asked_to(pair_of, indexed):
    pairs = [pair_of("a", caption="one"), pair_of("b", caption="two")]
    image = pairs[0][0][1]
    pairs += [pair_of("c", image=image, caption="one"), pair_of("d", image=image, caption="other")]
    keys, report = indexed(pairs, {})
    assert (keys, report.same_image, report.same_pair) == (["a", "b", "c", "d"], 2, 1)
    assert "pairs with an image that occurs before      2" in render(report)


@pytest.mark.parametrize(("kind", "kept"), [("pair", ["a", "b", "d"]), ("image", ["a", "b"])])
def test_of_duplicates_the_first_is_kept(pair_of, indexed, kind, kept):
    pairs = [pair_of("a", caption="one"), pair_of("b", caption="two")]
    image = pairs[0][0][1]
    pairs += [pair_of("c", image=image, caption="one"), pair_of("d", image=image, caption="other")]
    keys, report = indexed(pairs, {"duplicates": kind})
    assert keys == kept
    assert report.dropped == {f"duplicates: {kind}": 4 - len(kept)}


def test_several_captions_of_an_image_are_no_duplicates_of_each_other(pair_of, indexed):
    pairs = [pair_of("a", captions=["x", "y"]), pair_of("b", captions=["x", "z"])]
    pairs[1][0] = ("b.png", pairs[0][0][1])
    keys, report = indexed(pairs, {"duplicates": "image"}, fields={"caption": "json.captions"})
    assert keys == ["a#1", "a#2"]
    assert (report.same_image, report.same_pair) == (2, 1)


def test_near_duplicates_are_found_through_recompression(pair_of, indexed, as_bytes):
    smooth = np.random.default_rng(3).integers(0, 255, (6, 6)).astype(np.uint8)
    image = Image.fromarray(smooth).resize((300, 300), Image.Resampling.BICUBIC).convert("RGB")
    pairs = [
        pair_of("a", image=as_bytes(image)),
        pair_of("b"),
        pair_of("c", image=as_bytes(image.resize((200, 200)), "JPEG", quality=60)),
        pair_of("d", image=as_bytes(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))),
    ]
    pairs[2][0] = ("c.jpg", pairs[2][0][1])
    keys, report = indexed(pairs, {"near_duplicates": 4})
    assert keys == ["a", "b", "d"]
    assert report.dropped == {"near_duplicates: 4": 1}


def test_rules_that_keep_nothing_are_refused_with_their_counts(pair_of, indexed):
    with pytest.raises(CorpusError, match=r"keep none of its 1 pairs \(caption_words: 1\)"):
        indexed([pair_of("a")], {"caption_words": {"at_least": 100}})


def test_a_field_of_a_rule_that_no_record_has_is_refused(pair_of, indexed):
    with pytest.raises(CorpusError, match=r"keep\.labels: no record has 'json\.labl'; did you mean 'json\.label'\?"):
        indexed([pair_of("a", label="x")], {"labels": [{"field": "json.labl", "include": ["x"]}]})


def test_rules_in_a_pipeline_are_checked_with_line_and_key(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "one:\n  corpora:\n    c:\n      files: [a.tar]\n      keep: {near_duplicates: 20, langage: en}\n"
        "  store: {path: s, corpus: c}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_pipeline(path, "one", Pipeline)
    assert "p.yaml:5: corpora.c.keep.langage: unknown key; did you mean 'language'?" in str(caught.value)
    assert "corpora.c.keep.near_duplicates" in str(caught.value)


def test_rules_are_applied_in_the_order_of_the_report():
    rules = {"near_duplicates": 2, "duplicates": "image", "licenses": ["x"], "labels": [{"field": "split"}]}
    keep = Keep.model_validate_json(json.dumps({**rules, "language": "en"}))
    assert keep.names() == ["labels: split", "language: en", "licenses", "duplicates: image", "near_duplicates: 2"]


def test_other_rules_leave_a_store_alone_and_say_what_they_would_change(pair_of, indexed, tmp_path):
    pairs = [pair_of(key, caption=" ".join(["word"] * count)) for key, count in (("a", 1), ("b", 5), ("c", 9))]
    indexed(pairs, {"caption_words": {"at_least": 3}})
    before = {key: (tmp_path / "store" / key).read_bytes() for key, _ in locate(tmp_path / "store").list()}
    other = Corpus.model_validate_json(
        json.dumps({"files": [str(tmp_path / "0.tar")], "keep": {"caption_words": {"at_most": 6}}})
    )
    assert settings_changed(tmp_path / "store", other)
    with pytest.raises(StoreError, match="settings changed since this store was made") as caught:
        index_corpus(tmp_path / "store", other, range_rows=4, chunk_rows=2)
    assert "index --report" in caught.value.hint
    change = rule_change(tmp_path / "store", other)
    assert (change.added, change.first_added, change.dropped, change.first_dropped) == (1, ["a"], 1, ["c"])
    assert change.report.dropped == {"caption_words": 1}
    after = {key: (tmp_path / "store" / key).read_bytes() for key, _ in locate(tmp_path / "store").list()}
    assert after == before


def test_rules_of_other_files_cannot_be_compared(pair_of, indexed, write_tar, tmp_path):
    indexed([pair_of("a")], {})
    other = Corpus(files=[str(write_tar("elsewhere/1.tar", pair_of("b")))], keep=Keep(known_modality=True))
    with pytest.raises(StoreError, match="made from other corpus files"):
        rule_change(tmp_path / "store", other)


def test_a_pair_that_the_rules_refuse_may_repeat_a_key(write_tar, pair_of):
    files = [write_tar(f"{n}.tar", pair_of("a", panel=panel)) for n, panel in enumerate(("single", "multiple"))]
    rule = {"labels": [{"field": "json.panel", "include": ["single"]}]}
    corpus = Corpus.model_validate_json(json.dumps({"files": [str(file) for file in files], "keep": rule}))
    assert read_corpus(corpus).table["key"].to_pylist() == ["a"]
