"""Addresses of models, and what their own configuration says: taken as the library takes it, or refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
from transformers import AutoImageProcessor, AutoModel

from extract.config import ExtractPipeline
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.geometry import Overrides
from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
from store.config.pipeline_file import read_pipeline
from store.errors import ConfigError, TeacherError, WeightsNotFoundError
from tests.extract import library_cases as cases


def read(tmp_path, **teachers):
    pipeline = {"corpora": {"x": {"files": ["x.tar"]}}, "teachers": teachers, "store": {"path": "s", "corpus": "x"}}
    path = tmp_path / "pipelines.yaml"
    path.write_text(json.dumps({"tiny": pipeline}))
    return read_pipeline(path, "tiny", ExtractPipeline).teachers


def change(path, **settings):
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("key", "address", "origin"),
    [
        ("open_clip", "owner/name", "hf owner/name"),
        ("open_clip", "hf-hub:owner/name@0123", "hf owner/name @ 0123"),
        ("open_clip", "ViT-B-16-SigLIP2-256/webli", "hf timm/ViT-B-16-SigLIP2-256"),
        ("transformers", "google/siglip2-base-patch16-224", "hf google/siglip2-base-patch16-224"),
        ("timm", "vit_base_patch14_dinov2.lvd142m", "hf timm/vit_base_patch14_dinov2.lvd142m"),
        ("timm", "hf-hub:MahmoodLab/UNI@b55a", "hf MahmoodLab/UNI @ b55a"),
    ],
)
def test_an_address_says_family_folder_and_files(tmp_path, key, address, origin):
    entry = read(tmp_path, one={key: address})["one"]
    assert entry.origin == origin
    assert entry.folder == str(tmp_path / "weights/one")
    assert {"model.safetensors", "open_clip_model.safetensors"} & {file.name for file in entry.wanted()}
    # A run passes entries on as JSON.
    dumped = entry.model_dump(mode="json", exclude_defaults=True)
    assert TeacherEntry.model_validate_json(json.dumps(dumped)) == entry


def test_a_folder_is_an_address_and_what_is_stated_goes_before_what_an_address_says(tmp_path):
    there = [{"repo": "a/b", "files": ["x.bin"]}]
    teachers = read(
        tmp_path,
        own={"transformers": "./models/x"},
        two={"timm": "hf-hub:a/b", "folder": "elsewhere", "download": there, "licence_read": "2026-11-29"},
    )
    assert (teachers["own"].folder, teachers["own"].download) == (str(tmp_path / "models/x"), ())
    assert teachers["two"].folder == str(tmp_path / "elsewhere")
    assert [file.name for file in teachers["two"].wanted()] == ["x.bin"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"timm": "vit_base_patch16_224"}, "name one as MODEL.TAG"),
        ({"timm": "owner/name"}, "a repository is written hf-hub:owner/name"),
        ({"transformers": "./a", "folder": "b"}, "transformers is a folder already; leave folder out"),
        ({"transformers": ""}, "names no repository"),
        ({"transformers": "name"}, "names no repository (OWNER/NAME) and no folder"),
        ({"transformers": "a/b", "timm": "hf-hub:a/b"}, "transformers and timm are addresses of one model each"),
        ({"transformers": "a/b", "family": "medclip"}, "leave family out"),
        ({"open_clip": "ViT-B-32/no_such"}, "open_clip has no weights 'no_such' of ViT-B-32; it has openai, "),
        ({"family": "timm", "folder": "x"}, "family timm is stated by an address"),
        ({"family": "clip", "folder": "weights/plip"}, "transformers: ./weights/plip"),
        (
            {"family": "clip", "folder": "w", "download": [{"repo": "vinid/plip", "files": ["x"]}]},
            "transformers: vinid/plip",
        ),
        ({"family": "medclip", "folder": "x"}, "family medclip needs embed_dim"),
        ({"timm": "hf-hub:a/b", "feature": "cls"}, "family timm has no feature; it has config"),
        ({"transformers": "a/b", "download": [{"repo": "a/b"}]}, "give at least one"),
        ({"folder": "x", "variants": {"v": {"timm": "nothing"}}}, "name one as MODEL.TAG"),
        ({"folder": "x", "text_mask": False}, "family open_clip has no text_mask"),
    ],
)
def test_what_is_no_address_is_refused_with_the_line_to_write(tmp_path, entry, message):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, one=entry)
    assert message in str(error.value)


def test_a_variant_may_be_a_model_of_another_library(tmp_path):
    variants = {"other": {"timm": "./other", "precision": "bf16"}}
    entry = read(tmp_path, one={"transformers": "a/b", "feature": "cls", "variants": variants})["one"]
    other = entry.readings()["other"]
    assert (other.family, other.transformers, other.feature, other.download) == ("timm", None, None, ())
    assert other.folder == str(tmp_path / "other")


def test_what_replaces_a_models_preprocessing_says_nothing_about_a_variant_of_another_library(tmp_path):
    variants = {"other": {"timm": "./other"}, "grey": {"preprocess": {"fill_color": 7}}}
    entry = read(tmp_path, one={"open_clip": "ViT-B-16-SigLIP/webli", "variants": variants})["one"]
    assert entry.preprocess.resize_mode == "squash"
    assert entry.readings()["other"].preprocess is None
    assert entry.readings()["grey"].preprocess.fill_color == 7


def test_preprocessing_without_a_crop_does_not_replace_one_with_a_crop(tmp_path):
    case = cases.dinov2(tmp_path)
    for mode in ("longest", "pad_square_grey"):
        entry = case.entry.model_copy(update={"preprocess": Overrides(resize_mode=mode)})
        with pytest.raises(ConfigError, match=f"resize_mode {mode} crops nothing; the model's own resizes to 32 px"):
            teacher_spec("one", entry)


def test_a_variant_by_address_has_a_folder_of_its_own(tmp_path):
    """Its configuration has the same name as the teacher's."""
    one = {"transformers": "a/b", "variants": {"other": {"timm": "hf-hub:c/d"}, "feature": {"feature": "cls"}}}
    readings = read(tmp_path, one=one)["one"].readings()
    assert readings["other"].folder == str(tmp_path / "weights/one_other")
    assert readings["feature"].folder == str(tmp_path / "weights/one")


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP/webli", "ViT-B-32/openai", "ViT-B-16/laion2b_s34b_b88k"])
def test_a_tag_of_open_clip_has_the_preprocessing_that_open_clip_gives_it(tmp_path, name):
    entry = read(tmp_path, one={"open_clip": name})["one"]
    stated = open_clip.get_pretrained_cfg(*name.split("/"))
    expected = {key: stated[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    assert entry.preprocess.model_dump(exclude_none=True) == {key: expected[key] for key in sorted(expected)} | expected
    assert entry.quick_gelu == (stated.get("quick_gelu") or None)


def test_a_tag_of_open_clip_is_read_without_torch_which_can_be_imported_afterwards():
    lines = [
        "import sys",
        "from extract.teacher_files.entry import TeacherEntry",
        "entry = TeacherEntry(folder='x', open_clip='ViT-B-32/openai')",
        "print(sorted({'torch', 'open_clip', 'transformers'} & set(sys.modules)), entry.quick_gelu)",
        "import safetensors.torch",
        "print('torch' in sys.modules)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["[] True", "True"], done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resample": 1}, "resample 1, expected 2"),
        ({"rescale_factor": 0.5}, "rescale_factor 0.5, expected 1/255"),
        ({"do_rescale": False}, "do_resize and do_rescale must be true"),
        ({"do_resize": False}, "do_resize and do_rescale must be true"),
        ({"do_pad": True}, "do_pad is not read"),
        ({"crop_pct": 0.9}, "crop_pct is not read"),
        ({"size": {"height": 32, "width": 48}}, "expected a square"),
        ({"do_center_crop": False}, "nothing is cropped"),
        ({"crop_size": 64}, "a crop of 64 px from 32 px"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "image_processor_type ConvNextImageProcessor"),
        ({"image_processor": [3]}, "'list' object has no attribute"),
        ({"size": {"shortest_edge": 0}, "crop_size": 0}, "size_px: Input should be greater than 0"),
        ({"image_std": [0, 0, 0]}, "std.0: Input should be greater than 0"),
    ],
)
def test_a_preprocessing_that_cannot_be_honoured_is_refused_by_name(tmp_path, settings, message):
    case = cases.dinov2(tmp_path)
    change(tmp_path / "preprocessor_config.json", **settings)
    with pytest.raises(TeacherError, match=r"preprocessor_config.json: a preprocessing that is not supported") as error:
        teacher_spec("one", case.entry)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_mode": "border"}, "crop_mode border"),
        ({"interpolation": "random"}, "interpolation random"),
        ({"input_size": [1, 32, 32]}, "three channels of a square"),
        ({"crop_border_pixels": 4}, "crop_border_pixels is not read"),
        ({"crop_pct": 0}, "division by zero"),
    ],
)
def test_a_preprocessing_of_timm_that_cannot_be_honoured_is_refused_by_name(tmp_path, settings, message):
    case = cases.timm_resnet(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(tmp_path / "config.json", pretrained_cfg=config["pretrained_cfg"] | settings)
    with pytest.raises(TeacherError, match=message):
        teacher_spec("one", case.entry)


def test_models_that_are_not_read_are_named(tmp_path):
    case = cases.dinov2(tmp_path)
    change(tmp_path / "config.json", model_type="siglip2")
    with pytest.raises(TeacherError, match="NaFlex"):
        teacher_spec("one", case.entry)
    change(tmp_path / "config.json", model_type="videomae")
    with pytest.raises(TeacherError, match="of model_type 'videomae', which is not read"):
        teacher_spec("one", case.entry)
    with pytest.raises(TeacherError, match="names no architecture"):
        teacher_spec("one", TeacherEntry(folder=str(tmp_path), timm=str(tmp_path)))


def test_an_encoder_without_its_preprocessing_is_asked_for_it(tmp_path):
    case = cases.dinov2(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"preprocessor_config.json missing"):
        teacher_spec("one", case.entry)


def test_a_nested_processor_file_of_newer_versions_is_the_same_spec(tmp_path):
    case = cases.dinov2(tmp_path)
    before = teacher_spec("one", case.entry).hash
    own = tmp_path / "preprocessor_config.json"
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(own.read_text())}))
    own.unlink()
    assert teacher_spec("one", case.entry).hash == before


def test_a_nested_processor_file_goes_before_the_older_file_as_in_transformers(tmp_path):
    case = cases.dinov2(tmp_path)
    older = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": older | {"resample": 2}}))
    assert AutoImageProcessor.from_pretrained(str(tmp_path), backend="pil").resample == 2
    assert teacher_spec("one", case.entry).preprocessing["geometry"]["interpolation"] == "bilinear"
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "AnyProcessor"}))
    assert teacher_spec("one", case.entry).preprocessing["geometry"]["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "weights that are quantised"),
        ({"vision_config": [1]}, "not of the form that its library writes"),
    ],
)
def test_a_configuration_that_cannot_be_honoured_is_refused(tmp_path, settings, message):
    case = cases.siglip(tmp_path, gemma=True)
    change(tmp_path / "config.json", **settings)
    with pytest.raises(TeacherError, match=message):
        teacher_spec("one", case.entry)


def test_a_configuration_that_its_library_cannot_build_is_refused(tmp_path):
    case = cases.dinov2(tmp_path)
    change(tmp_path / "config.json", num_hidden_layers="two")
    with pytest.raises(TeacherError, match=r"config.json cannot be loaded: .*num_hidden_layers"):
        load_teacher(teacher_spec("one", case.entry), case.entry)


def test_weights_in_several_files_are_refused_by_name(tmp_path):
    case = cases.dinov2(tmp_path)
    model = AutoModel.from_pretrained(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    with pytest.raises(WeightsNotFoundError, match=r"index.json: the weights are spread over several files"):
        teacher_spec("one", case.entry)


@pytest.mark.parametrize("address", ["./", "../", "~", "~/models", "./a b/c", "/"])
def test_a_run_can_hand_on_any_folder_that_is_an_address(tmp_path, address):
    entry = read(tmp_path, one={"transformers": address})["one"]
    dumped = json.dumps(entry.model_dump(mode="json", exclude_defaults=True))
    assert TeacherEntry.model_validate_json(dumped) == entry


def test_width_size_and_feature_must_fit(tmp_path):
    case = cases.vit(tmp_path)
    with pytest.raises(TeacherError, match="has features of 48 numbers, the pipeline says 64"):
        teacher_spec("one", case.entry.model_copy(update={"embed_dim": 64}))
    change(tmp_path / "preprocessor_config.json", size=48)
    with pytest.raises(TeacherError, match="takes images of 32 px, its preprocessing makes 48 px"):
        teacher_spec("one", case.entry)
    (tmp_path / "swin").mkdir()
    swin = cases.swin(tmp_path / "swin", "cls").entry
    with pytest.raises(TeacherError, match="has no class token"):
        teacher_spec("one", swin)
    (tmp_path / "siglip").mkdir()
    siglip = cases.siglip(tmp_path / "siglip", gemma=True).entry.model_copy(update={"feature": "cls"})
    with pytest.raises(TeacherError, match="a model of two towers, which has one output"):
        teacher_spec("one", siglip)


def test_a_spec_says_side_feature_and_bias(tmp_path):
    for name in ("mean", "gemma"):
        (tmp_path / name).mkdir()
    alone = teacher_spec("one", cases.dinov2_registers(tmp_path / "mean").entry)
    assert (alone.sides, alone.tokenizer, alone.notes["logit_scale"]) == (("image",), {}, None)
    assert alone.output == "mean of the last layer's patch tokens, L2-normalised"
    both = load_teacher(teacher_spec("one", entry := cases.siglip(tmp_path / "gemma", gemma=True).entry), entry)
    assert both.logit_scale == pytest.approx(116.7, abs=0.1)
    assert both.spec.notes["logit_bias"] == pytest.approx(-12.9, abs=1e-3)
    assert both.spec.tokenizer["lower_case"]


def test_shipped_pipelines_name_each_teacher_by_a_valid_entry():
    path = Path(__file__).parents[3] / "pipelines.yaml"
    modern, mmkd = (read_pipeline(path, name, ExtractPipeline).teachers for name in ("modern", "mmkd"))
    assert dict(list(modern.items())[:9]) == mmkd
    assert all(entry.embed_dim and entry.licence and entry.download for entry in modern.values())
