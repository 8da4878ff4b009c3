"""Making the pixel cache: what an image becomes, resuming, the command, training from the store alone."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from extract.corpora.import_mmkd import import_mmkd
from extract.corpora.small_image import encode, keep, shrink
from extract.run.dispatch import execute_here
from extract.run.pixels import make_pixels
from store.corpus.section import Corpus
from store.errors import CorpusError, IncompleteStoreError, PairDecodeError, SpecMismatchError
from store.format.pixels import Pixels, PixelSpec
from store.images.decode import decode_image
from store.index.create import index_corpus
from store.read.reader import FeatureStore
from train.config import TrainPipeline
from train.recipes.fit_projections import project
from train.trainer import stages as runs

SPEC = PixelSpec.of(Pixels(short_side_px=48))


def gradient(width, height):
    """A picture that every codec keeps well and no two places of which are alike."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))


def file_of(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 200), (48, 96)), ((301, 100), (144, 48)), ((60, 60), (48, 48)), ((48, 300), (48, 300)), ((9, 7), (9, 7))],
)
def test_the_short_side_is_made_small_and_never_enlarged(size, expected):
    assert shrink(gradient(*size), 48).size == expected


@pytest.mark.parametrize(
    "section", [Pixels(), Pixels(format="webp", quality="lossless"), Pixels(format="webp", quality=95)]
)
def test_a_kept_image_is_the_small_one_as_the_format_has_it(section):
    spec = PixelSpec.of(section.model_copy(update={"short_side_px": 48}))
    image = gradient(120, 90)
    kept = keep(file_of(image, "BMP"), spec)
    assert (kept.width, kept.height) == (64, 48)
    with Image.open(io.BytesIO(kept.data)) as opened:
        assert (opened.format.lower(), opened.mode, opened.size) == (spec.format, "RGB", (64, 48))
    wanted = np.asarray(image.resize((64, 48), Image.Resampling.LANCZOS)).astype(int)
    difference = np.abs(np.asarray(decode_image(kept.data)).astype(int) - wanted)
    assert difference.mean() < 3
    assert section.quality != "lossless" or not difference.any()


def test_the_same_image_gives_the_same_bytes_and_takes_no_metadata_along():
    data = file_of(
        gradient(120, 90), "JPEG", quality=95, comment=b"a name", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"
    )
    for spec in (SPEC, PixelSpec.of(Pixels(short_side_px=48, format="webp"))):
        kept = keep(data, spec).data
        assert keep(data, spec).data == kept
        with Image.open(io.BytesIO(kept)) as opened:
            assert not {"exif", "comment", "icc_profile"} & set(opened.info)


def test_a_small_file_is_kept_as_it_is_where_encoding_again_would_not_make_it_smaller():
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype=np.uint8))
    small = file_of(noise, "JPEG", quality=30)
    assert keep(small, SPEC).data == small
    large = file_of(noise)
    assert len(keep(large, SPEC).data) < len(large)


@pytest.mark.parametrize("image", [gradient(8, 8).quantize(4), Image.new("RGBA", (8, 8)), Image.new("I;16", (8, 8))])
def test_a_small_file_that_programs_may_read_in_several_ways_is_encoded_again(image):
    kept = keep(file_of(image), PixelSpec.of(Pixels(format="webp", quality="lossless"))).data
    with Image.open(io.BytesIO(kept)) as opened:
        assert (opened.format, opened.mode) == ("WEBP", "RGB")


def test_an_image_too_long_for_the_format_is_bad_by_name():
    with pytest.raises(PairDecodeError, match="16400 x 1 pixels cannot be kept as webp"):
        encode(Image.new("RGB", (16_400, 1)), PixelSpec.of(Pixels(format="webp")))


@pytest.fixture
def pairs():
    """Nine pairs, the fifth of which has no readable image and the eighth none at all."""
    found = [(f"p{number}", file_of(gradient(60 + number, 50)), f"caption {number}") for number in range(9)]
    found[4] = ("p4", b"not an image", "caption 4")
    found[7] = ("p7", None, "caption 7")
    return found


@pytest.fixture
def store(tmp_path, pairs, write_tar):
    """A store of them in ranges of four."""
    folder = write_tar(tmp_path / "corpus", pairs)
    index_corpus(tmp_path / "store", Corpus(files=[str(folder / "*.tar")]), range_rows=4, chunk_rows=2)
    return tmp_path / "store"


def pixel_files(store):
    return {path.name: path.read_bytes() for path in store.glob("pixels/*.parquet")}


def test_every_image_is_there_or_has_its_reason(store, pairs):
    outcome = make_pixels(store, SPEC)
    assert (outcome.units, outcome.found, outcome.done) == (3, 0, 3)
    assert outcome.bad_rows.total() == 2
    cache = FeatureStore(store).pixels
    assert cache.is_complete()
    for row, (_, data, _) in enumerate(pairs):
        if row not in (4, 7):
            assert cache.fetch(row) == keep(data, SPEC).data
    for row, reason in ((4, "not an image of a kind that is read"), (7, "has no image")):
        with pytest.raises(PairDecodeError, match=reason):
            cache.fetch(row)


def test_making_it_again_does_nothing_and_one_thread_gives_the_bytes_of_four(store):
    make_pixels(store, SPEC, threads=4)
    first = pixel_files(store)
    outcome = make_pixels(store, SPEC)
    assert (outcome.found, outcome.done) == (3, 0)
    shutil.rmtree(store / "pixels")
    make_pixels(store, SPEC, threads=1)
    assert pixel_files(store) == first


def test_only_the_range_whose_receipt_is_lost_is_made_again(store):
    make_pixels(store, SPEC)
    before = {path: path.stat().st_mtime_ns for path in store.glob("pixels/*.parquet")}
    (store / "pixels/receipts/r000001.json").unlink()
    (store / "pixels/.r000001.parquet.1.ab.tmp").write_bytes(b"half")
    assert make_pixels(store, SPEC).done == 1
    changed = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert changed == ["r000001.parquet"]
    assert not list(store.glob("pixels/.*"))


def test_another_quality_needs_replace(store):
    make_pixels(store, SPEC)
    other = PixelSpec.of(Pixels(short_side_px=48, quality=70))
    with pytest.raises(SpecMismatchError):
        make_pixels(store, other)
    assert make_pixels(store, other, replace=True).done == 3
    assert FeatureStore(store).pixels.spec == other


def test_a_corpus_that_moved_is_an_error_until_it_is_named(store, tmp_path):
    (tmp_path / "corpus").rename(tmp_path / "moved")
    with pytest.raises(CorpusError, match="not where the store says"):
        make_pixels(store, SPEC)
    assert make_pixels(store, SPEC, corpus_root=tmp_path / "moved").done == 3


@pytest.fixture
def command(store, repository):
    """Run ``python -m extract pixels`` on the store with some options, and return the finished process."""
    section = {
        "corpora": {"pairs": {"files": [str(store.parent / "corpus/*.tar")]}},
        "teachers": {"none": {"folder": "none", "embed_dim": 4}},
        "store": {"path": str(store), "corpus": "pairs", "range_rows": 4, "chunk_rows": 2},
    }
    config = store.parent / "pipelines.yaml"

    def run(*options, environment=None, local=True, **more):
        config.write_text(json.dumps({"tiny": section | more}))
        call = [sys.executable, "-m", "extract", "pixels", "--pipeline", "tiny", "--config", str(config)]
        call += [*options, *(["--local"] if local else [])]
        merged = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
        return subprocess.run(call, cwd=repository, env=merged, capture_output=True, text=True, check=False)

    return run


@pytest.mark.end_to_end
def test_a_killed_run_is_completed_by_the_same_command_with_the_bytes_of_an_undisturbed_one(store, command):
    pixels = {"short_side_px": 48}
    make_pixels(store, SPEC)
    undisturbed = pixel_files(store)
    shutil.rmtree(store / "pixels")
    killed = command(pixels=pixels, environment={"MMKD_KILL_AT": "commit.object:2"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # The second range's object lies there, but nothing says that it is whole.
    assert set(pixel_files(store)) == {"r000000.parquet", "r000001.parquet"}
    assert FeatureStore(store).pixels.committed_rows().tolist() == [True] * 4 + [False] * 5
    resumed = command(pixels=pixels)
    assert resumed.returncode == 0, resumed.stderr
    assert "2 ranges of images made" in resumed.stderr
    assert "1 images are not kept: the corpus has no image for this key" in resumed.stderr
    assert pixel_files(store) == undisturbed


@pytest.mark.end_to_end
@pytest.mark.ray
def test_workers_on_ray_make_the_bytes_of_one_process(store, command):
    make_pixels(store, SPEC)
    undisturbed = pixel_files(store)
    for folder in ("pixels", "runs"):
        shutil.rmtree(store / folder)
    done = command(local=False, pixels={"short_side_px": 48}, extract={"workers": 2, "decode_threads": 1})
    assert done.returncode == 0, done.stderr
    assert "3 ranges of images made" in done.stderr
    assert pixel_files(store) == undisturbed
    [path] = store.glob("runs/*/progress.json")
    said = json.loads(path.read_text())
    assert (said["state"], said["units"], said["done"], list(said["rows_per_s"])) == ("finished", 3, 3, ["pixels"])


@pytest.mark.end_to_end
@pytest.mark.ray
def test_a_row_that_kills_its_worker_is_found_and_left_out(store, command):
    make_pixels(store, SPEC)
    undisturbed = pixel_files(store)
    shutil.rmtree(store / "pixels")
    done = command(
        local=False,
        pixels={"short_side_px": 48},
        extract={"attempts": 1, "decode_threads": 1},
        environment={"MMKD_MISBEHAVE_AT": "exit:p1"},
    )
    assert done.returncode == 0, done.stderr
    assert pixel_files(store).keys() == undisturbed.keys()
    cache = FeatureStore(store).pixels
    assert cache.is_complete()
    with pytest.raises(PairDecodeError, match="workers died of this row's range, and one of this row alone"):
        cache.fetch(1)
    assert pixel_files(store)["r000001.parquet"] == undisturbed["r000001.parquet"]


def test_a_request_to_stop_ends_it_and_the_next_run_does_the_rest(store):
    def stop_at_once(job, work, tracker):
        tracker.stop()
        execute_here(job, work, tracker)

    outcome = make_pixels(store, SPEC, execute=stop_at_once)
    assert (outcome.stopped, outcome.done) == (True, 0)
    assert make_pixels(store, SPEC).done == 3


def test_a_replacement_that_was_stopped_leaves_readers_the_old_images(store):
    make_pixels(store, SPEC)
    first, other = pixel_files(store), PixelSpec.of(Pixels(short_side_px=48, quality=70))

    def half(job, work, tracker):
        execute_here(job, work[:2], tracker)

    assert make_pixels(store, other, replace=True, execute=half).done == 2
    assert FeatureStore(store).pixels.spec == SPEC
    assert pixel_files(store) == first
    assert make_pixels(store, other, replace=True).done == 1
    assert FeatureStore(store).pixels.spec == other


@pytest.mark.end_to_end
def test_a_pipeline_that_does_not_say_how_is_told_how(command):
    refused = command()
    assert refused.returncode == 1
    assert "does not say how the store keeps images (pixels:)" in refused.stderr
    assert "--set 'pixels={}'" in refused.stderr
    assert command("--set", "pixels={}").returncode == 0
    assert "the store has the images of all 3 ranges: nothing to do" in command("--set", "pixels={}").stderr


@pytest.fixture
def released(tmp_path):
    """A small cache laid out as the released one: eight pairs, two teachers."""
    rng = np.random.default_rng(0)
    source, entries = tmp_path / "released", []
    for row in range(8):
        place = source / "features" / f"id{row}"
        place.mkdir(parents=True)
        (place / "image.png").write_bytes(file_of(gradient(90 + row, 70)))
        drawn = {f"{name}_{side}": rng.standard_normal((1, 6)) for name in ("BMCA", "PLIP") for side in ("img", "txt")}
        features = {name: torch.from_numpy(value / np.linalg.norm(value)).float() for name, value in drawn.items()}
        torch.save(features, place / "clips_output.pt")
        entry = {"id": f"id{row}", "imgpath": f"features/id{row}/image.png", "txt": f"a caption of image {row}"}
        entries.append({**entry, "available_clips": ["BMCA", "PLIP"]})
    (source / "meta.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return source


def training(folder, *, images):
    model = {
        "vocabulary": 64,
        "config": {
            "embed_dim": 8,
            "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 32},
            "text_cfg": {"context_length": 12, "width": 16, "heads": 2, "layers": 1},
        },
    }
    student = {
        "recipe": "paper",
        "out": str(folder / f"student_{images}"),
        "images": images,
        "model": model,
        "optimization": {"steps": 2, "batch_size": 4, "lr": 1e-3},
    }
    projection = {"out": str(folder / "projection"), "latent_dim": 8, "hidden_dim": 8, "steps": 2, "batch_size": 4}
    return TrainPipeline.model_validate(
        {
            "corpora": {},
            "store": {"path": str(folder / "store"), "corpus": "released"},
            "train": {"project": projection, "students": {"student": student}},
        }
    )


def distill(pipeline):
    return runs.distill(pipeline, "student", pipeline.train.students["student"])


def test_an_imported_store_is_trained_from_with_nothing_beside_it(tmp_path, released):
    import_mmkd(released, tmp_path / "store", range_rows=4, chunk_rows=2)
    make_pixels(tmp_path / "store", PixelSpec.of(Pixels()))
    released.rename(tmp_path / "elsewhere")
    pipeline = training(tmp_path, images="pixels")
    project(pipeline, pipeline.train.project)
    assert distill(pipeline)
    assert (tmp_path / "student_pixels" / "open_clip_model.safetensors").is_file()
    assert not distill(pipeline)
    with pytest.raises(CorpusError, match="not where the store says"):
        distill(training(tmp_path, images="corpus"))


def test_training_from_pixels_that_were_not_made_is_refused(tmp_path, released):
    import_mmkd(released, tmp_path / "store", range_rows=4, chunk_rows=2)
    pipeline = training(tmp_path, images="pixels")
    project(pipeline, pipeline.train.project)
    with pytest.raises(IncompleteStoreError, match="no images of its own"):
        distill(pipeline)
    make_pixels(tmp_path / "store", SPEC)
    (tmp_path / "store/pixels/receipts/r000001.json").unlink()
    with pytest.raises(IncompleteStoreError, match="4 of 8 rows to train on have no image"):
        distill(pipeline)


def test_images_of_another_kind_are_another_run(tmp_path, released):
    import_mmkd(released, tmp_path / "store", range_rows=4, chunk_rows=2)
    make_pixels(tmp_path / "store", PixelSpec.of(Pixels(format="webp", quality="lossless")))
    pipeline = training(tmp_path, images="pixels")
    project(pipeline, pipeline.train.project)
    distill(pipeline)
    identity = json.loads((tmp_path / "student_pixels" / "train.json").read_text())
    assert identity["pixels"] == PixelSpec.of(Pixels(format="webp", quality="lossless")).hash
    assert "images" not in identity["run"]
