"""Pretraining, projecting and distilling end to end on a corpus of 64 pairs."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from extract.run.pixels import make_pixels
from store.errors import ConfigError, CorpusError, IncompleteStoreError, MMKDError, SpecMismatchError
from store.format.pixels import Pixels, PixelSpec
from train.config import ModelSection, TrainPipeline, ValidationSection
from train.recipes import fit_projections as project_run
from train.recipes.fit_projections import project
from train.trainer import stages as runs
from train.trainer import train_model as training
from train.trainer.train_model import Circumstances
from train.trainer.train_step import Updater


@pytest.fixture
def make_pipeline(tmp_path, phantom, tiny_model):
    """Return a pipeline with one model of each kind; settings are merged into every ``optimization``."""

    def make(*, select="all", store="store", embed_dim=32, **settings):
        model = {**tiny_model, "config": {**tiny_model["config"], "embed_dim": embed_dim}}
        optimization = {"steps": 3, "batch_size": 16, "lr": 1e-3, "log_every": 1, **settings}
        shared = {"model": model, "optimization": optimization}
        train = {
            "pretrain": {"tiny": {"corpus": "phantom", "out": str(tmp_path / "tiny"), **shared}},
            "project": {"out": str(tmp_path / "projection"), "latent_dim": 32, "hidden_dim": 16, "steps": 3},
            "students": {
                "distilled": {"recipe": "paper", "out": str(tmp_path / "distilled"), **shared},
                "task_only": {"recipe": "task_only", "out": str(tmp_path / "task_only"), **shared},
            },
        }
        train["project"]["batch_size"] = 16
        return TrainPipeline.model_validate(
            {
                "corpora": {"phantom": {"files": phantom}},
                "store": {"path": str(tmp_path / store), "corpus": "phantom"},
                "select": select,
                "train": train,
            }
        )

    return make


@pytest.mark.parametrize("tf32", [True, False])
def test_float32_is_less_than_that_on_a_card_only_where_it_is_asked_for(make_pipeline, monkeypatch, tf32):
    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before, seen = flags(), []
    monkeypatch.setattr(training, "fit", lambda *_, **__: seen.append(flags()))
    pretrain(make_pipeline(tf32=tf32))
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    assert seen == [(tf32, tf32)]


def pretrain(pipeline, **options):
    return runs.pretrain(pipeline, "tiny", pipeline.train.pretrain["tiny"], Circumstances(**options))


def distill(pipeline, name="distilled", **options):
    return runs.distill(pipeline, name, pipeline.train.students[name], Circumstances(**options))


def metrics(folder: Path):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def left_in(folder: Path):
    return sorted(path.name for path in folder.iterdir())


def test_pretrain_leaves_a_folder_that_open_clip_loads_and_is_done_once(tmp_path, make_pipeline):
    assert pretrain(make_pipeline())
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'tiny'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'tiny'}")(["kidney stone"])
    assert model.encode_text(tokens).shape == (1, 32)
    assert [line["step"] for line in metrics(tmp_path / "tiny")] == [0, 1, 2]
    before = (tmp_path / "tiny" / "metrics.jsonl").stat().st_mtime_ns
    assert not pretrain(make_pipeline())
    assert (tmp_path / "tiny" / "metrics.jsonl").stat().st_mtime_ns == before
    assert left_in(tmp_path) == ["tiny"]


def test_the_same_run_gives_the_same_weights(tmp_path, make_pipeline):
    pretrain(make_pipeline())
    first = (tmp_path / "tiny" / "open_clip_model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "tiny")
    pretrain(make_pipeline())
    assert (tmp_path / "tiny" / "open_clip_model.safetensors").read_bytes() == first


def test_other_settings_need_overwrite_to_replace_a_result(tmp_path, make_pipeline):
    pretrain(make_pipeline())
    with pytest.raises(ConfigError, match="result of another run") as caught:
        pretrain(make_pipeline(seed=1))
    assert "--overwrite" in caught.value.hint
    old = (tmp_path / "tiny" / "open_clip_model.safetensors").read_bytes()
    assert pretrain(make_pipeline(seed=1), overwrite=True)
    assert (tmp_path / "tiny" / "open_clip_model.safetensors").read_bytes() != old
    assert not pretrain(make_pipeline(seed=1))


def test_a_folder_that_is_no_run_is_never_overwritten(tmp_path, make_pipeline):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "mine.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="is a folder that is not the result of a run"):
            pretrain(make_pipeline(), overwrite=overwrite)
    assert left_in(tmp_path / "tiny") == ["mine.txt"]


def test_an_interrupted_run_leaves_no_result_and_the_next_one_starts_anew(tmp_path, make_pipeline, monkeypatch):
    def interrupt(*_args, files, **_kwargs):
        (files.folder / "metrics.jsonl").write_text("half a line")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pretrain(make_pipeline())
    assert not (tmp_path / "tiny").exists()
    assert pretrain(make_pipeline())
    assert left_in(tmp_path) == ["tiny"]
    assert len(metrics(tmp_path / "tiny")) == 3


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_one_goes_on(tmp_path, make_pipeline, monkeypatch):
    fit = training.fit

    def begin_another(*arguments, **options):
        with pytest.raises(MMKDError, match=rf"tiny: another program is training .*process {os.getpid()} on "):
            pretrain(make_pipeline(seed=1))
        fit(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", begin_another)
        assert pretrain(make_pipeline())
    assert left_in(tmp_path) == ["tiny"]
    assert not pretrain(make_pipeline())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is visible")
def test_a_run_on_a_gpu_that_is_not_there_is_refused_before_the_corpus_is_read(tmp_path, make_pipeline, make_store):
    make_store()
    pipeline = make_pipeline(device="cuda")
    with pytest.raises(ConfigError, match=r"pretrain\.tiny\.optimization\.device: no CUDA device is visible") as caught:
        pretrain(pipeline)
    assert caught.value.hint.startswith("--set train.pretrain.tiny.optimization.device=cpu")
    with pytest.raises(ConfigError, match=r"students\.task_only\.optimization\.device: no CUDA device is visible"):
        distill(pipeline, "task_only")
    assert left_in(tmp_path) == ["store"]


def test_a_batch_larger_than_the_corpus_is_refused(make_pipeline):
    with pytest.raises(CorpusError, match=r"tiny: 64 pairs .* optimization.batch_size = 65") as caught:
        pretrain(make_pipeline(batch_size=65))
    assert caught.value.hint == "set optimization.batch_size to 64 or less"


def test_project_then_distill_trains_from_the_store(tmp_path, make_pipeline, make_store):
    make_store()
    pipeline = make_pipeline()
    assert project(pipeline, pipeline.train.project)
    assert not project(pipeline, pipeline.train.project)
    assert distill(pipeline)
    assert not distill(pipeline)
    lines = metrics(tmp_path / "distilled")
    for line in lines:
        parts = line["task_loss"] + 50 * line["feature_loss"] + line["interactive_loss"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
    assert len(lines) == 3
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'distilled'}")
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 32)


def test_teachers_that_the_selection_leaves_out_need_no_projection(tmp_path, make_pipeline, make_store):
    make_store()
    pipeline = make_pipeline(select={"beta": {}})
    project(pipeline, pipeline.train.project)
    assert distill(pipeline)
    assert metrics(tmp_path / "distilled")[-1]["feature_loss"] > 0


def test_projections_that_are_worse_than_the_mean_feature_are_warned_of(make_pipeline, make_store, caplog):
    make_store()
    pipeline = make_pipeline()
    project(pipeline, pipeline.train.project)
    assert "worse than by predicting the mean feature: raise train.project.steps (3)" in caplog.text


def test_projections_that_are_better_than_the_mean_feature_are_not(
    tmp_path, make_pipeline, make_store, monkeypatch, caplog
):
    make_store()
    pipeline = make_pipeline()
    fit = project_run.fit_projection
    # Random unit features have no structure: no fit restores them better than their mean does.

    def flattered(*arguments, **options):
        return dataclasses.replace(fit(*arguments, **options), mse_of_mean=9.0)

    monkeypatch.setattr(project_run, "fit_projection", flattered)
    assert project(pipeline, pipeline.train.project)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_validation_looks_at_held_out_pairs_that_are_not_trained_on(tmp_path, make_pipeline, make_store, monkeypatch):
    store = make_store()
    seen = set()
    update = Updater.update

    def noting(self, batch):
        seen.update(batch.rows_B.tolist())
        return update(self, batch)

    monkeypatch.setattr(Updater, "update", noting)
    pipeline = make_pipeline(steps=9, validate_every=4)
    student = pipeline.train.students["task_only"].model_copy(update={"validation": ValidationSection(holdout=0.3)})
    assert runs.distill(pipeline, "task_only", student)
    digests = store.pairs.read(0, 64, ["image_sha256"])["image_sha256"].to_pylist()
    held = {row for row, digest in enumerate(digests) if int(digest, 16) < 0.3 * 2**256}
    assert held
    assert not seen & held
    lines = [line for line in metrics(tmp_path / "task_only") if "image_to_text_recall@1" in line]
    assert [line["step"] for line in lines] == [3, 7, 8]
    ways = {f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    assert set(lines[0]) == ways | {"step"}
    # The last look is at the weights that are kept: what open_clip makes of them must agree.
    assert lines[-1]["image_to_text_recall@10"] == pytest.approx(recall_at_10(tmp_path / "task_only", store, held))


def recall_at_10(folder, store, held):
    """The share of held-out images whose own caption is among the ten nearest, by plain open_clip."""
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    table = store.pairs.read(0, 64, ["uri", "member", "caption"]).to_pylist()
    pairs = [table[row] for row in sorted(held)]
    pixels = [Image.open(io.BytesIO(store.images.fetch(pair["uri"], pair["member"]))).convert("RGB") for pair in pairs]
    resized = np.stack([np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC)) for image in pixels])
    normal = torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.visual.image_mean, model.visual.image_std))
    captions = [pair["caption"] for pair in pairs]
    with torch.no_grad():
        image_BE = model.eval().encode_image((normal - mean) / std, normalize=True)
        text_BE = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(captions), normalize=True)
    cosine_BB = (image_BE @ text_BE.T).numpy()
    found = 0
    for place, caption in enumerate(captions):
        others = [cosine_BB[place, other] for other in range(len(captions)) if captions[other] != caption]
        found += sum(cosine >= cosine_BB[place, place] for cosine in others) < 10
    return found / len(captions)


def test_validating_on_a_split_that_is_not_there_is_an_error_before_training(tmp_path, make_pipeline, make_store):
    make_store()
    with pytest.raises(CorpusError, match=r"task_only: 0 pairs to validate on \(split val\)"):
        distill(make_pipeline(validate_every=4), "task_only")


@pytest.mark.parametrize("images", ["corpus", "pixels"])
def test_stage_1_trains_on_a_stores_pairs_without_any_feature(tmp_path, make_pipeline, make_store, images):
    store = make_store()
    shutil.rmtree(tmp_path / "store" / "receipts")
    if images == "pixels":
        spec = PixelSpec.of(Pixels(short_side_px=64, format="webp", quality="lossless"))
        make_pixels(store.location, spec, threads=1)
    pipeline = make_pipeline()
    run = pipeline.train.pretrain["tiny"].model_copy(update={"corpus": None, "images": images, "window_blocks": 2})
    assert runs.pretrain(pipeline, "tiny", run)
    assert not runs.pretrain(pipeline, "tiny", run)
    assert [line["step"] for line in metrics(tmp_path / "tiny")] == [0, 1, 2]
    if images == "pixels":
        # Lossless images of the corpus's own size: the same training.
        other = run.model_copy(update={"images": "corpus", "out": str(tmp_path / "other")})
        assert runs.pretrain(pipeline, "tiny", other)
        weights = [tmp_path / name / "open_clip_model.safetensors" for name in ("tiny", "other")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_pixels_of_a_corpus_are_refused(make_pipeline):
    run = make_pipeline().train.pretrain["tiny"]
    with pytest.raises(ValueError, match="leave corpus out"):
        type(run).model_validate(run.model_dump() | {"images": "pixels"})


@pytest.mark.end_to_end
def test_images_decoded_in_processes_give_the_same_weights(tmp_path, make_pipeline, make_store):
    make_store()
    pipeline = make_pipeline()
    distill(pipeline, "task_only")
    expected = (tmp_path / "task_only" / "open_clip_model.safetensors").read_bytes()
    # Another way to go about it, not another run: nothing to do.
    assert not distill(make_pipeline(image_workers=2), "task_only")
    shutil.rmtree(tmp_path / "task_only")
    assert distill(make_pipeline(image_workers=2), "task_only")
    assert (tmp_path / "task_only" / "open_clip_model.safetensors").read_bytes() == expected


def test_task_only_needs_no_projection_and_reports_no_teacher_loss(tmp_path, make_pipeline, make_store):
    make_store()
    assert distill(make_pipeline(), "task_only")
    names = {"step", "loss", "lr", "logit_scale", "text_columns", "step_flops", "seconds"}
    assert set(metrics(tmp_path / "task_only")[0]) == names


def test_distilling_before_projecting_says_what_to_run_first(tmp_path, make_pipeline, make_store):
    make_store()
    with pytest.raises(ConfigError, match="projections are not fitted yet") as caught:
        distill(make_pipeline())
    assert caught.value.hint == "python -m train project --pipeline NAME"
    assert not (tmp_path / "distilled").exists()


def test_a_projection_of_other_features_is_refused(make_pipeline, make_store):
    make_store("store")
    make_store("changed", weights="1" * 64)
    pipeline = make_pipeline()
    project(pipeline, pipeline.train.project)
    with pytest.raises(SpecMismatchError, match="alpha: fitted on") as caught:
        distill(make_pipeline(store="changed"))
    assert "beta" not in str(caught.value)


def test_a_student_of_another_width_than_the_projection_is_refused(make_pipeline, make_store):
    make_store()
    pipeline = make_pipeline(embed_dim=48)
    project(pipeline, pipeline.train.project)
    with pytest.raises(ConfigError, match=r"students\.distilled\.model\.config\.embed_dim: 48, but .* to 32"):
        distill(pipeline)


def test_a_model_to_begin_with_of_another_width_is_refused(tmp_path, make_pipeline, make_store):
    make_store()
    pipeline = make_pipeline()
    project(pipeline, pipeline.train.project)
    assert pretrain(make_pipeline(embed_dim=48))
    model = ModelSection(init=str(tmp_path / "tiny"))
    student = pipeline.train.students["distilled"].model_copy(update={"model": model})
    with pytest.raises(ConfigError, match="embeddings of 48, but features are projected to 32") as caught:
        runs.distill(pipeline, "distilled", student)
    assert "latent_dim: 48" in caught.value.hint


def test_an_empty_store_is_refused(tmp_path, make_pipeline, make_store):
    make_store()
    shutil.rmtree(tmp_path / "store" / "receipts")
    pipeline = make_pipeline()
    with pytest.raises(IncompleteStoreError, match="holds no features yet"):
        project(pipeline, pipeline.train.project)


def test_a_store_that_is_partly_committed_is_used_with_a_warning(tmp_path, make_pipeline, make_store, caplog):
    make_store()
    (tmp_path / "store" / "receipts" / "alpha" / "r000001.json").unlink()
    pipeline = make_pipeline()
    assert project(pipeline, pipeline.train.project)
    assert "not complete: alpha" in caplog.text
