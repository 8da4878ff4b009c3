"""The golden check: a teacher against released features, true ones and doctored ones."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from extract.teacher_files.entry import Variant
from extract.teacher_files.geometry import fit
from extract.teacher_files.specs import teacher_spec
from extract.teachers.golden import OWN, Verdict, compare, read_released
from extract.teachers.loading import load_teacher
from extract.teachers.readings import examine, summary
from store.cli.options import print_json
from store.errors import CorpusError, PairDecodeError, WeightsNotFoundError
from tests.extract import teacher_cases as cases
from tests.extract.teacher_inputs import OPENAI, pixels_of

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
    assert verdicts[0].band == "agrees"
    assert set(verdicts[0].image) == set(verdicts[0].text) == {"pair0", "pair1", "pair2"}
    assert min(verdicts[0].worst) > 0.99999
    assert summary("quiltnet", verdicts) == ["quiltnet: agrees with the released features; nothing to change"]


def test_features_of_permuted_pairs_are_recognised(quiltnet):
    case, folder = quiltnet
    released = read_released(folder)
    own = released["quiltnet"]
    doctored = changed(released, image_ND=own.image_ND[[1, 2, 0]], text_ND=own.text_ND[[1, 2, 0]])
    verdict = examine("quiltnet", case.entry, doctored, max_pixels=MAX_PIXELS)[0]
    assert verdict.band in ("differs", "not tried")
    assert "the same features in another order" in verdict.note


def test_features_of_another_teacher_are_recognised(quiltnet):
    case, folder = quiltnet
    released = read_released(folder)
    own, noise = released["quiltnet"], np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    doctored = changed(released, image_ND=noise, text_ND=noise) | {"genmedclip": own}
    verdict = examine("quiltnet", case.entry, doctored, max_pixels=MAX_PIXELS)[0]
    assert verdict.band in ("differs", "not tried")
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
    assert verdict.band in ("differs", "not tried")
    assert note in verdict.note


def test_one_pair_that_is_off_is_enough_to_fail_and_rounding_is_not(quiltnet):
    case, folder = quiltnet
    released = read_released(folder)
    own = released["quiltnet"]
    rounded = changed(released, image_ND=own.image_ND.astype(np.float16).astype(np.float32))
    assert compare(OWN, own.image_ND, own.text_ND, rounded, "quiltnet").band == "agrees"
    one_off = own.image_ND.copy()
    one_off[2] = np.roll(one_off[2], 1)
    assert compare(OWN, one_off, own.text_ND, released, "quiltnet").bands == ("differs", "agrees")
    assert case.entry.embed_dim == 24


def test_features_that_are_not_numbers_do_not_pass(quiltnet):
    _, folder = quiltnet
    released = read_released(folder)
    own = released["quiltnet"]
    assert compare(OWN, own.image_ND * np.nan, own.text_ND, released, "quiltnet").bands == ("differs", "agrees")


def test_another_width_is_said(quiltnet):
    _, folder = quiltnet
    released = read_released(folder)
    verdict = compare(OWN, np.ones((3, 8), np.float32), np.ones((3, 8), np.float32), released, "quiltnet")
    assert verdict.band in ("differs", "not tried")
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
    assert {verdict.reading: verdict.band for verdict in verdicts} == {
        OWN: "differs",
        "absent": "not tried",
        "quick_gelu": "differs",
        "b16": "agrees",
    }
    missing = "weights are missing: python -m extract fetch quiltnet --variant absent"
    assert verdicts[1].note == missing
    assert summary("quiltnet", verdicts) == [
        "quiltnet: agrees with the released features if read as b16",
        f"quiltnet: absent was not tried: {missing}",
        f"pipelines.yaml, teachers.quiltnet: {{folder: {case.entry.folder}}}",
    ]


def test_the_best_variant_of_each_tower_are_put_together(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    entry = cases.pmcclip(folder, heads=8, text_feature="pooler").entry
    truth = entry.model_copy(update={"heads": 4, "text_feature": "cls"})
    released = read_released(release(tmp_path / "data", {"PMCCLIP": truth}))
    variants = {"heads4": Variant(heads=4), "per_image": Variant(batch_norm="per_image")}
    variants |= {"cls": Variant(text_feature="cls"), "cls_mask": Variant(text_feature="cls", text_mask=True)}
    verdicts = examine("pmcclip", entry.model_copy(update={"variants": variants}), released, max_pixels=MAX_PIXELS)
    assert [(verdict.reading, verdict.band == "agrees") for verdict in verdicts] == [
        (OWN, False),
        ("heads4", False),
        ("per_image", False),
        ("cls", False),
        ("cls_mask", False),
        ("heads4 + cls", True),
    ]
    assert "images agree" in verdicts[1].note
    assert "captions agree" in verdicts[3].note
    assert summary("pmcclip", verdicts)[-1] == "pipelines.yaml, teachers.pmcclip: {heads: 4, text_feature: cls}"


@pytest.mark.parametrize(("cosine", "band"), [(0.99992, "agrees"), (0.9998, "close"), (0.9985, "differs")])
def test_a_cosine_belongs_to_one_of_three_bands(cosine, band):
    verdict = Verdict(reading=OWN, image={"a": 1.0, "b": cosine}, text={"a": 1.0, "b": 1.0})
    assert (verdict.band, verdict.bands) == (band, (band, "agrees"))


def grainy(number, grain):
    """Return a smooth image with noise; the more noise, the more a feature depends on the resize filter."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(60, 200, (6, 6, 3), np.uint8))
    smooth = np.asarray(coarse.resize((150, 131), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray((smooth + rng.normal(0, grain, smooth.shape)).clip(0, 255).astype(np.uint8))


def other_pixels(change, image):
    """Return an image as the model sees it, (3, 64, 64), by torch alone, with one change of open_clip's rule."""
    mean, std = change.get("mean", OPENAI[0]), change.get("std", OPENAI[1])
    mode = change.get("interpolation", "bicubic")
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    size = (64, int(64 * 150 / 131))
    small = functional.interpolate(values, size, mode=mode, antialias=change.get("antialias", True))
    left = round((size[1] - 64) / 2)
    small = small.round().clamp(0, 255)[..., left : left + 64] / 255
    return ((small - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))[0]


@pytest.mark.parametrize(
    ("change", "grain", "line"),
    [
        ({}, 20, None),
        ({"interpolation": "bilinear"}, 20, "{preprocess: {interpolation: bilinear}}"),
        ({"antialias": False}, 3, "{preprocess: {antialias: false}}"),
        (
            {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
            0,
            "{preprocess: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}}",
        ),
    ],
)
def test_a_small_difference_of_preprocessing_is_found_and_named(tmp_path, change, grain, line):
    (tmp_path / "weights").mkdir()
    case = cases.open_clip_hub(tmp_path / "weights")
    folder = release(tmp_path / "data", {"QuiltNet": case.entry})
    released = read_released(folder)
    for number, path in enumerate(released["quiltnet"].images):
        grainy(number, grain).save(path)
    pixels_BCHW = torch.stack([other_pixels(change, Image.open(path)) for path in released["quiltnet"].images])
    with torch.inference_mode():
        image_ND = functional.normalize(case.image(pixels_BCHW), dim=-1).numpy()
    verdicts = examine("quiltnet", case.entry, changed(released, image_ND=image_ND), max_pixels=MAX_PIXELS)
    if line is None:
        assert [verdict.band for verdict in verdicts] == ["agrees"]
        return
    assert verdicts[0].bands == ("close", "agrees")
    assert summary("quiltnet", verdicts)[-1] == f"pipelines.yaml, teachers.quiltnet: {line}"


def test_what_no_change_explains_stays_close_and_is_said(quiltnet):
    case, folder = quiltnet
    released = read_released(folder)
    own = released["quiltnet"].image_ND
    noisy = own + 0.005 * np.random.default_rng(1).normal(size=own.shape).astype(np.float32)
    verdicts = examine("quiltnet", case.entry, changed(released, image_ND=noisy), max_pixels=MAX_PIXELS)
    assert verdicts[0].band == "close"
    tried = {verdict.reading for verdict in verdicts[1:]}
    assert {"{interpolation: bilinear}", "{antialias: false}", "{resize_mode: squash}", "{precision: bf16}"} <= tried
    assert "none of the changes that were tried explains the rest" in summary("quiltnet", verdicts)[-1]


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


def written(folder, target, change):
    """Copy a release with changed lines of ``meta.jsonl`` and a changed file of features, the second pair's."""
    shutil.copytree(folder, target)
    features = target / "features/pair1/clips_output.pt"
    entries = [json.loads(line) for line in (target / "meta.jsonl").read_text().splitlines()]
    loaded = torch.load(features)
    change(entries, loaded)
    torch.save(loaded, features)
    (target / "meta.jsonl").write_text("\n".join(map(json.dumps, entries)))
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries, _: entries[1].update(id=7), r"meta\.jsonl:2: id: expected text, got 7"),
        (lambda entries, _: entries.append([1]), r"meta\.jsonl:4: expected an object, got \[1\]"),
        (lambda _, features: features.update(QuiltNet_img=torch.ones(1, 5)), "features of QuiltNet are 5 and 24 wide"),
        (lambda _, features: features.update(QuiltNet_img=1.0), "expected tensors by name"),
    ],
)
def test_a_release_of_another_form_is_refused(quiltnet, tmp_path, change, message):
    with pytest.raises(CorpusError, match=message):
        read_released(written(quiltnet[1], tmp_path / "data", change))


def test_pairs_with_one_id_do_not_stand_for_each_other(quiltnet, tmp_path):
    """The second pair disagrees; the third, of the same id, agrees."""

    def change(entries, features):
        entries[2]["id"] = "pair1"
        features["QuiltNet_img"] = features["QuiltNet_img"].flip(-1)

    released = read_released(written(quiltnet[1], tmp_path / "data", change))
    assert released["quiltnet"].keys == ["pair0", "1 pair1", "2 pair1"]
    own = read_released(quiltnet[1])["quiltnet"]
    assert compare(OWN, own.image_ND, own.text_ND, released, "quiltnet").bands[0] == "differs"


def test_released_features_that_are_not_finite_are_named_and_are_null_in_json(quiltnet, tmp_path, capsys):
    folder = written(quiltnet[1], tmp_path / "data", lambda _, features: features["QuiltNet_img"].fill_(torch.nan))
    own = read_released(quiltnet[1])["quiltnet"]
    verdict = compare(OWN, own.image_ND, own.text_ND, read_released(folder), "quiltnet")
    assert verdict.note == "1 pairs have released features that are not finite, pair1 first"
    print_json(verdict.image)
    assert json.loads(capsys.readouterr().out)["pair1"] is None


def test_an_image_that_cannot_be_read_is_named(quiltnet, tmp_path):
    case, folder = quiltnet
    copied = written(folder, tmp_path / "data", lambda *_: None)
    (copied / "features/pair1/image.png").write_bytes(b"no image")
    with pytest.raises(PairDecodeError, match=r"pair1/image\.png: not an image"):
        examine("quiltnet", case.entry, read_released(copied), max_pixels=MAX_PIXELS)


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
    assert [reading["band"] for reading in json.loads(stdout)["quiltnet"]["readings"]] == ["agrees"]
    code, stdout, stderr = cli("golden", *options, "--set", f"teachers.quiltnet.folder={other}")
    assert code == 1
    assert "no reading that was tried agrees" in stdout
    teachers["quiltnet"] |= {"folder": str(other), "variants": {"b16": {"folder": str(tmp_path / "absent")}}}
    config.write_text(json.dumps({"tiny": pipeline}))
    _, stdout, _ = cli("golden", *options, "--teacher", "quiltnet")
    assert f"python -m extract fetch quiltnet --pipeline tiny --config {config} --variant b16" in stdout
