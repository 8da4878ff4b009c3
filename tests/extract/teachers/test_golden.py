"""The golden check: a teacher against released features, true ones and doctored ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from extract.teacher_files.entry import Variant
from extract.teacher_files.geometry import fit
from extract.teacher_files.specs import teacher_spec
from extract.teachers.golden import OWN, compare, examine, read_released, summary
from extract.teachers.loading import load_teacher
from store.errors import CorpusError, WeightsNotFoundError
from tests.extract import teacher_cases as cases
from tests.extract.teacher_inputs import pixels_of

MAX_PIXELS = 10**6
CAPTIONS = ["a left lung nodule", "axial CT of the liver", "chest radiograph: effusion"]


@pytest.fixture(scope="module")
def quiltnet(tmp_path_factory):
    """A teacher, and pairs with the features that it gives them: (case, folder as released)."""
    root = tmp_path_factory.mktemp("golden")
    (root / "weights").mkdir()
    case = cases.open_clip_hub(root / "weights")
    return case, release(root / "data", {"QuiltNet": case.entry})


def release(folder, entries):
    """Write pairs and features of teachers as MMKD-CLIP's authors released them."""
    teachers = {name: load_teacher(teacher_spec(name, entry), entry) for name, entry in entries.items()}
    lines = []
    for number, caption in enumerate(CAPTIONS):
        place = folder / "features" / f"pair{number}"
        place.mkdir(parents=True)
        image = Image.fromarray(pixels_of(70 + number, count=1, seed=number)[0])
        image.save(place / "image.png")
        features = {}
        for name, teacher in teachers.items():
            pixels_BHWC = fit(image, teacher.geometry)[None].copy()
            features[f"{name}_img"] = torch.from_numpy(teacher.encode_image(pixels_BHWC))
            features[f"{name}_txt"] = torch.from_numpy(teacher.encode_text([caption]))
        torch.save(features, place / "clips_output.pt")
        image_path = f"features/pair{number}/image.png"
        entry = {"id": f"pair{number}", "imgpath": image_path, "txt": caption, "available_clips": list(entries)}
        lines.append(json.dumps(entry))
    (folder / "meta.jsonl").write_text("\n".join(lines))
    return folder


def changed(released, **arrays):
    """Return released features with some replaced."""
    own = released["quiltnet"]
    fields = {"keys": own.keys, "images": own.images, "captions": own.captions}
    kept = {"image_ND": own.image_ND, "text_ND": own.text_ND}
    return released | {"quiltnet": type(own)(**fields, **(kept | arrays))}


def test_a_teacher_agrees_with_its_own_features(quiltnet):
    case, folder = quiltnet
    verdicts = examine("quiltnet", case.entry, read_released(folder), max_pixels=MAX_PIXELS)
    assert [verdict.reading for verdict in verdicts] == [OWN]
    assert verdicts[0].passed
    assert set(verdicts[0].image) == set(verdicts[0].text) == {"pair0", "pair1", "pair2"}
    assert min(verdicts[0].worst) > 0.99999
    assert summary("quiltnet", verdicts) == "quiltnet: agrees with the released features"


def test_features_of_permuted_pairs_are_recognised(quiltnet):
    case, folder = quiltnet
    released = read_released(folder)
    own = released["quiltnet"]
    doctored = changed(released, image_ND=own.image_ND[[1, 2, 0]], text_ND=own.text_ND[[1, 2, 0]])
    verdict = examine("quiltnet", case.entry, doctored, max_pixels=MAX_PIXELS)[0]
    assert not verdict.passed
    assert "the same features in another order" in verdict.note


def test_features_of_another_teacher_are_recognised(quiltnet):
    case, folder = quiltnet
    released = read_released(folder)
    own, noise = released["quiltnet"], np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    doctored = changed(released, image_ND=noise, text_ND=noise) | {"genmedclip": own}
    verdict = examine("quiltnet", case.entry, doctored, max_pixels=MAX_PIXELS)[0]
    assert not verdict.passed
    assert verdict.note == "these are the features of genmedclip"


@pytest.mark.parametrize(
    ("side", "note"), [("image_ND", "captions agree, images do not"), ("text_ND", "images agree, captions do not")]
)
def test_noise_on_one_side_is_said_of_that_side(quiltnet, side, note):
    case, folder = quiltnet
    released = read_released(folder)
    values_ND = getattr(released["quiltnet"], side)
    noisy = values_ND + 0.02 * np.random.default_rng(1).normal(size=values_ND.shape).astype(np.float32)
    verdict = examine("quiltnet", case.entry, changed(released, **{side: noisy}), max_pixels=MAX_PIXELS)[0]
    assert not verdict.passed
    assert note in verdict.note


def test_one_pair_that_is_off_is_enough_to_fail_and_rounding_is_not(quiltnet):
    case, folder = quiltnet
    released = read_released(folder)
    own = released["quiltnet"]
    rounded = changed(released, image_ND=own.image_ND.astype(np.float16).astype(np.float32))
    assert compare(OWN, own.image_ND, own.text_ND, rounded, "quiltnet").passed
    one_off = own.image_ND.copy()
    one_off[2] = np.roll(one_off[2], 1)
    assert not compare(OWN, one_off, own.text_ND, released, "quiltnet").passed
    assert case.entry.embed_dim == 24


def test_features_that_are_not_numbers_do_not_pass(quiltnet):
    _, folder = quiltnet
    released = read_released(folder)
    own = released["quiltnet"]
    assert not compare(OWN, own.image_ND * np.nan, own.text_ND, released, "quiltnet").passed


def test_another_width_is_said(quiltnet):
    _, folder = quiltnet
    released = read_released(folder)
    verdict = compare(OWN, np.ones((3, 8), np.float32), np.ones((3, 8), np.float32), released, "quiltnet")
    assert not verdict.passed
    assert verdict.note == "8 wide, the released ones 24: another model"


def test_where_the_entry_fails_the_variant_that_agrees_is_found(quiltnet, tmp_path):
    case, folder = quiltnet
    entry = cases.open_clip_hub(tmp_path, seed=11).entry
    variants = {
        "absent": Variant(folder=str(tmp_path / "absent")),
        "quick_gelu": Variant(quick_gelu=True),
        "b16": Variant(folder=case.entry.folder),
        "never_reached": Variant(folder=str(tmp_path / "absent")),
    }
    configured = entry.model_copy(update={"variants": variants})
    verdicts = examine("quiltnet", configured, read_released(folder), max_pixels=MAX_PIXELS)
    assert {verdict.reading: verdict.passed for verdict in verdicts} == {
        OWN: False,
        "absent": False,
        "quick_gelu": False,
        "b16": True,
    }
    assert verdicts[1].note.startswith("not tried: ")
    assert "the variant b16 agrees" in summary("quiltnet", verdicts)


def test_pmc_clips_variants_are_told_apart(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    entry = cases.pmcclip(folder, heads=8, text_feature="pooler").entry
    truth = entry.model_copy(update={"heads": 4, "text_feature": "cls"})
    released = read_released(release(tmp_path / "data", {"PMCCLIP": truth}))
    variants = {
        "heads4": Variant(heads=4),
        "cls": Variant(text_feature="cls"),
        "heads4_cls": Variant(heads=4, text_feature="cls"),
    }
    verdicts = examine("pmcclip", entry.model_copy(update={"variants": variants}), released, max_pixels=MAX_PIXELS)
    assert [verdict.passed for verdict in verdicts] == [False, False, False, True]
    assert "images agree" in verdicts[1].note
    assert "captions agree" in verdicts[2].note


def test_a_teacher_without_weights_is_not_a_teacher_that_fails(quiltnet, tmp_path):
    case, folder = quiltnet
    absent, released = case.entry.model_copy(update={"folder": str(tmp_path)}), read_released(folder)
    with pytest.raises(WeightsNotFoundError):
        examine("quiltnet", absent, released, max_pixels=MAX_PIXELS)


def test_a_folder_that_is_no_release_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"no meta\.jsonl"):
        read_released(tmp_path)


def test_the_released_excerpt_has_features_of_every_teacher_but_medclip(shared_data):
    released = read_released(shared_data("mmkd_demo"))
    widths = {name: own.image_ND.shape[1] for name, own in released.items()}
    narrow = ("biomedclip", "unimedclip", "quiltnet", "genmedclip", "plip", "pubmedclip")
    assert widths == {"bmca": 768, "pmcclip": 768} | dict.fromkeys(narrow, 512)


@pytest.mark.end_to_end
def test_the_command_prints_the_comparison_and_its_exit_code_says_whether_all_agree(tmp_path, quiltnet, cli):
    case, folder = quiltnet
    other = cases.open_clip_hub(tmp_path, seed=11).entry.folder
    teachers = {"quiltnet": {"folder": case.entry.folder, "embed_dim": 24}}
    teachers["plip"] = {"folder": str(tmp_path / "absent"), "transformers": "vinid/plip"}
    pipeline = {"corpora": {"x": {"files": ["x.tar"]}}, "teachers": teachers, "store": {"path": "s", "corpus": "x"}}
    config = tmp_path / "pipelines.yaml"
    config.write_text(json.dumps({"tiny": pipeline}))
    options = ("--against", folder, "--pipeline", "tiny", "--config", config)
    code, stdout, stderr = cli("golden", *options, "--json")
    assert code == 0, stderr
    assert "plip: not compared: the release holds no features of it" in stderr
    assert [verdict["passed"] for verdict in json.loads(stdout)["quiltnet"]] == [True]
    code, stdout, stderr = cli("golden", *options, "--set", f"teachers.quiltnet.folder={other}")
    assert code == 1
    assert "does not agree" in stdout
