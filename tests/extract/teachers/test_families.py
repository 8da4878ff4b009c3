"""Every teacher, tiny and with random weights, in its authors' file format: loaded, it computes what theirs does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from extract.teacher_files.specs import teacher_spec
from extract.teacher_files.states import convert
from extract.teachers.loading import load_teacher
from store.read.reader import FeatureStore
from tests.extract import teacher_cases as cases
from tests.extract.teacher_cases import CASES
from tests.extract.teacher_inputs import CAPTIONS, normalized, pixels_of

COSINE = 0.99999


def load(name, case):
    return load_teacher(teacher_spec(name, case.entry), case.entry)


def assert_same_features(teacher, case):
    pixels_BHWC = pixels_of(teacher.geometry.size_px)
    with torch.inference_mode():
        image = functional.normalize(case.image(normalized(pixels_BHWC, case.normal)), dim=-1).numpy()
        text = functional.normalize(case.text(CAPTIONS), dim=-1).numpy()
    for ours, theirs in ((teacher.encode_image(pixels_BHWC), image), (teacher.encode_text(CAPTIONS), text)):
        assert ours.shape == (len(theirs), case.entry.embed_dim)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
        assert (ours * theirs).sum(axis=1).min() > COSINE
        # Else the comparison would say nothing: features of other pairs must be farther away than the bound.
        assert (ours @ theirs.T)[~np.eye(len(theirs), dtype=bool)].max() < COSINE


@pytest.mark.parametrize("name", CASES)
def test_a_teachers_features_are_those_of_its_authors(tmp_path, name):
    case = cases.written(name, tmp_path)
    teacher = load(name, case)
    assert teacher.name == name
    assert 1 < teacher.logit_scale < 101
    assert_same_features(teacher, case)


@pytest.mark.parametrize("name", ["bmca", "unimedclip", "biomedclip", "plip", "pmcclip", "medclip"])
def test_conversion_to_safetensors_changes_neither_features_nor_spec(tmp_path, name):
    case = cases.written(name, tmp_path)
    before = teacher_spec(name, case.entry)
    assert convert(name, case.entry)
    for file in tmp_path.iterdir():
        if file.suffix in (".pt", ".bin", ".pth"):
            file.unlink()
    assert teacher_spec(name, case.entry).hash == before.hash
    assert_same_features(load(name, case), case)
    assert not convert(name, case.entry)


def test_the_authors_own_file_of_pubmedclip_loads_in_half_precision_and_openai_names(tmp_path):
    case = cases.pubmedclip_authors(tmp_path)
    assert_same_features(load("pubmedclip", case), case)


@pytest.mark.parametrize("heads", [8, 4])
@pytest.mark.parametrize("text_feature", ["pooler", "cls"])
def test_pmc_clips_open_choices_are_options(tmp_path, heads, text_feature):
    case = cases.pmcclip(tmp_path, heads=heads, text_feature=text_feature)
    assert_same_features(load("pmcclip", case), case)


def test_pmc_clips_whole_checkpoint_loads_too_and_has_its_logit_scale(tmp_path):
    case = cases.pmcclip(tmp_path, whole=True)
    teacher = load("pmcclip", case)
    assert_same_features(teacher, case)
    assert teacher.logit_scale == pytest.approx(85.2, abs=0.1)


def test_biomedclips_older_configuration_is_understood_and_is_the_same_spec(tmp_path):
    new, old = (cases.written("biomedclip", tmp_path / which, old_names=which == "old") for which in ("new", "old"))
    assert teacher_spec("biomedclip", old.entry).hash == teacher_spec("biomedclip", new.entry).hash
    assert_same_features(load("biomedclip", old), old)


def test_medclips_caption_has_the_same_feature_alone_and_in_a_batch(tmp_path):
    teacher = load("medclip", cases.medclip(tmp_path))
    together = teacher.encode_text(CAPTIONS)
    alone = np.concatenate([teacher.encode_text([caption]) for caption in CAPTIONS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_medclip_reads_capitals_as_small_letters(tmp_path):
    teacher = load("medclip", cases.medclip(tmp_path))
    np.testing.assert_array_equal(teacher.encode_text(["CT Lung"]), teacher.encode_text(["ct lung"]))


def test_quick_gelu_is_an_option_that_changes_features_and_spec(tmp_path):
    case = cases.open_clip_hub(tmp_path)
    quick = case.entry.model_copy(update={"quick_gelu": True})
    pixels_BHWC = pixels_of(64)
    plain, other = load("quiltnet", case), load_teacher(teacher_spec("quiltnet", quick), quick)
    assert plain.spec.hash != other.spec.hash
    assert (plain.encode_image(pixels_BHWC) * other.encode_image(pixels_BHWC)).sum(axis=1).max() < COSINE


def test_half_precision_is_an_option_that_is_recorded(tmp_path):
    case = cases.open_clip_hub(tmp_path)
    entry = case.entry.model_copy(update={"precision": "bf16"})
    teacher, pixels_BHWC = load_teacher(teacher_spec("quiltnet", entry), entry), pixels_of(64)
    assert teacher.spec.compute_dtype == "bfloat16"
    exact = load("quiltnet", case)
    cosines = (teacher.encode_image(pixels_BHWC) * exact.encode_image(pixels_BHWC)).sum(axis=1)
    assert 0.99 < cosines.min() < cosines.max() < 1 - 1e-7


@pytest.mark.parametrize("name", ["bmca", "biomedclip", "plip", "pmcclip", "medclip"])
def test_truncated_captions_are_known_as_the_teacher_cuts_them(tmp_path, name):
    case = cases.written(name, tmp_path)
    tokens = load(name, case).tokenize(CAPTIONS)
    assert tokens.truncated_B.tolist() == [False, False, False, True]
    context = 256 if name == "biomedclip" else 77
    assert tokens.ids_BL.shape == (4, context)
    assert tokens.lengths_B[3] == context


def test_teachers_share_tokens_only_if_their_tokenizers_have_the_same_settings(tmp_path):
    folders = [tmp_path / name for name in ("one", "twin", "more_special")]
    for folder in folders:
        folder.mkdir()
    entries = [cases.open_clip_hub(folder).entry for folder in folders]
    path = folders[2] / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"] |= {
        "vocab_size": 49409,
        "tokenizer_kwargs": {"additional_special_tokens": ["<finding>"]},
    }
    path.write_text(json.dumps(config))
    weights = folders[2] / "open_clip_pytorch_model.bin"
    state = torch.load(weights)
    embedding = state["token_embedding.weight"]
    torch.save(state | {"token_embedding.weight": torch.cat([embedding, embedding[:1]])}, weights)
    one, twin, more = (load_teacher(teacher_spec("quiltnet", entry), entry) for entry in entries)
    assert one.tokenizer_key == twin.tokenizer_key != more.tokenizer_key
    assert (one.tokenize(["<finding>"]).ids_BL != more.tokenize(["<finding>"]).ids_BL).any()


@pytest.mark.parametrize(("words", "cut"), [(75, False), (76, True)])
def test_a_caption_that_just_fits_is_not_truncated(tmp_path, words, cut):
    case = cases.open_clip_hub(tmp_path)
    assert load("quiltnet", case).tokenize([" ".join(["lung"] * words)]).truncated_B.tolist() == [cut]


def test_one_run_takes_teachers_of_every_family_and_decodes_each_image_once_per_geometry(
    tmp_path, corpus, extract_here
):
    entries = {}
    for name in ("bmca", "biomedclip", "plip", "pmcclip", "medclip"):
        case = cases.written(name, tmp_path / name)
        entries[name] = case.entry.model_dump(mode="json", exclude_defaults=True)
    pipeline = {
        "corpora": {"pairs": {"files": [str(corpus / "*.tar")]}},
        "teachers": entries,
        "store": {"path": "store", "corpus": "pairs", "range_rows": 32, "chunk_rows": 16},
        "extract": {"batch_size": 16},
    }
    (tmp_path / "pipelines.yaml").write_text(json.dumps({"tiny": pipeline}))  # JSON is YAML
    store, outcome = extract_here(tmp_path / "pipelines.yaml")
    assert (outcome.done, outcome.failed) == (10, {})
    features = FeatureStore(store)
    assert all(features.is_complete(name) for name in entries)
    geometries = {name: features.spec(name).preprocessing["geometry"]["resize_mode"] for name in entries}
    assert geometries == {
        "bmca": "shortest",
        "biomedclip": "shortest",
        "plip": "shortest_floor_crop",
        "pmcclip": "shortest",
        "medclip": "pad_square_grey",
    }
    assert extract_here(tmp_path / "pipelines.yaml")[1].done == 0
