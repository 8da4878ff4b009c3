"""The three things the trainer does, from pipeline section to folder: pretrain, project, distill."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from store.config import dump_resolved
from store.corpus import read_corpus
from store.corpus_files import corpus_files
from store.errors import ConfigError, CorpusError, IncompleteStoreError
from store.files import sha256_file
from store.image_source import ImageSource
from store.indexing import settings_of
from store.pairs import strings
from store.pixel_cache import PixelCache
from store.reader import FeatureStore

from .autoencoder import TeacherFeatures, fit_projection
from .config import ModelSection, Optimization, PretrainRun, ProjectSection, StudentRun, TrainPipeline
from .images import CorpusImages, ImageLoader, RowImages, View, require_pixels
from .loop import fit
from .model import begin_model, save_weights
from .objective import Objective, PaperObjective, TaskObjective
from .order import BatchOrder
from .projection import Projection
from .run_folder import appearing, is_done
from .spans import TargetReader
from .stream import Stream

log = logging.getLogger(__name__)

IMAGE_COLUMNS = ["uri", "member", "caption"]


def pretrain(pipeline: TrainPipeline, name: str, run: PretrainRun, *, overwrite: bool = False) -> bool:
    """Stage 1: train a model on a corpus. Returns False if that was done already."""
    if run.corpus not in pipeline.corpora:
        raise ConfigError(f"train.pretrain.{name}.corpus: the pipeline has no corpus {run.corpus!r}")
    corpus = pipeline.corpora[run.corpus]
    identity = {
        "run": json.loads(dump_resolved(run)),
        "corpus": {file.name: file.sha256() for file in corpus_files(corpus.files)},
    }
    settings = settings_of(corpus)
    if settings != settings_of(type(corpus)(files=corpus.files)):
        identity["corpus_settings"] = settings
    if is_done(Path(run.out), identity, overwrite=overwrite):
        return False
    _require_device(f"train.pretrain.{name}", run.optimization)
    index = read_corpus(corpus)
    rows = np.flatnonzero(_usable(index.table))
    _train(
        name,
        out=Path(run.out),
        identity=identity,
        overwrite=overwrite,
        model=run.model,
        settings=run.optimization,
        table=index.table,
        images=CorpusImages(ImageSource(index.root), index.table),
        rows=rows,
        objective=TaskObjective(),
        targets=None,
        block_rows=1,
        window_blocks=max(1, len(rows)),
        max_pixels=pipeline.max_pixels,
    )
    return True


def _usable(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Which pairs have an image and a caption and belong to the training split."""
    captions, splits = strings(table, "caption"), strings(table, "split")
    has_image: npt.NDArray[np.bool_] = table["uri"].is_valid().to_numpy(zero_copy_only=False)
    in_training = np.array([split in (None, "train") for split in splits])
    usable: npt.NDArray[np.bool_] = np.array([bool(caption) for caption in captions]) & has_image & in_training
    return usable


def open_store(pipeline: TrainPipeline, *, corpus_root: Path | None = None) -> FeatureStore:
    """Open a pipeline's store and see that it can be trained from.

    Raises:
        IncompleteStoreError: no range of any teacher is committed.
    """
    store = FeatureStore(pipeline.store.path, corpus_root=corpus_root)
    incomplete = [teacher for teacher in store.teachers if not store.is_complete(teacher)]
    if not any(store.receipts(teacher) for teacher in store.teachers):
        raise IncompleteStoreError(
            f"{store.location}: holds no features yet", hint="python -m extract run --pipeline NAME makes them"
        )
    if incomplete:
        log.warning("%s is not complete: %s; only committed ranges are used", store.location, ", ".join(incomplete))
    return store


def project(pipeline: TrainPipeline, section: ProjectSection, *, overwrite: bool = False) -> bool:
    """Fit the paper's projections on the store's features. Returns False if that was done already."""
    store = open_store(pipeline)
    identity = {
        "section": json.loads(dump_resolved(section)),
        "select": json.loads(dump_resolved(pipeline))["select"],
        "store": _store_identity(store),
    }
    out = Path(section.out)
    if is_done(out, identity, overwrite=overwrite):
        return False
    features = _projection_features(store, pipeline, section)
    with appearing(out, identity, overwrite=overwrite) as folder:
        fitted = fit_projection(
            features,
            latent_dim=section.latent_dim,
            hidden_dim=section.hidden_dim,
            steps=section.steps,
            batch_size=section.batch_size,
            lr=section.lr,
            seed=section.seed,
        )
        fitted.projection.save(folder / "projection.safetensors")
        log.info(
            "projections of %d teachers to %d: held-out error %.3g before, %.3g after, %.3g of the mean feature",
            len(features),
            section.latent_dim,
            fitted.mse_before,
            fitted.mse_after,
            fitted.mse_of_mean,
        )
        if fitted.mse_after > fitted.mse_of_mean:
            log.warning(
                "held-out features are restored worse than by predicting the mean feature: raise train.project.steps "
                "(%d) or lower train.project.lr (%g)",
                section.steps,
                section.lr,
            )
    return True


def _store_identity(store: FeatureStore) -> dict[str, Any]:
    return {
        "corpus": store.info.corpus,
        "specs": {teacher: store.spec(teacher).hash for teacher in store.teachers},
        "ranges": {teacher: len(store.receipts(teacher)) for teacher in store.teachers},
    }


def _projection_features(
    store: FeatureStore, pipeline: TrainPipeline, section: ProjectSection
) -> dict[str, TeacherFeatures]:
    available_NT = store.available(pipeline.select)
    rng = np.random.Generator(np.random.Philox(section.seed))
    features = {}
    for column, teacher in enumerate(store.teachers):
        rows = np.flatnonzero(available_NT[:, column])
        if len(rows) > section.max_rows:
            rows = np.sort(rng.choice(rows, section.max_rows, replace=False))
        if len(rows):
            features[teacher] = TeacherFeatures(
                rows=rows,
                image=store.read(rows, teacher=teacher, side="image"),
                text=store.read(rows, teacher=teacher, side="text"),
                spec_hash=store.spec(teacher).hash,
            )
    if not features:
        raise IncompleteStoreError(
            f"{store.location}: the selection leaves no feature", hint="look at select: in the file"
        )
    return features


def distill(
    pipeline: TrainPipeline, name: str, run: StudentRun, *, overwrite: bool = False, corpus_root: Path | None = None
) -> bool:
    """Stage 2: train a student from the store. Returns False if that was done already.

    A ``task_only`` student sees the same rows in the same batches as a distilled one.
    """
    store = open_store(pipeline, corpus_root=corpus_root)
    distils = run.recipe == "paper"
    projection_file = _projection_file(pipeline, name) if distils else None
    settings = json.loads(dump_resolved(run))
    # Which images they are is said below by their spec.
    del settings["images"]
    identity = {
        "run": settings,
        "select": json.loads(dump_resolved(pipeline))["select"],
        "store": _store_identity(store),
        "projection": sha256_file(projection_file) if projection_file else None,
    }
    pixels = None
    if run.images == "pixels":
        pixels = PixelCache(store.location, info=store.info, chunks_kept=run.window_blocks)
        identity["pixels"] = pixels.spec.hash
    if is_done(Path(run.out), identity, overwrite=overwrite):
        return False
    _require_device(f"train.students.{name}", run.optimization)
    available_NT = store.available(pipeline.select)
    table = store.pairs.read(0, store.info.rows, [*IMAGE_COLUMNS, "split"])
    rows = np.flatnonzero(available_NT.any(axis=1) & _usable(table))
    if not len(rows):
        raise IncompleteStoreError(f"{store.location}: no training row has a feature that the selection allows")
    if pixels:
        require_pixels(pixels, rows)
    targets = None
    if projection_file:
        projection = Projection.load(projection_file)
        used = [teacher for column, teacher in enumerate(store.teachers) if available_NT[:, column].any()]
        projection.check_specs({teacher: store.spec(teacher).hash for teacher in used})
        _check_width(name, run.model, projection)
        targets = TargetReader(
            store, projection, teachers=store.teachers, available_NT=available_NT, seed=run.optimization.seed
        )
    _train(
        name,
        out=Path(run.out),
        identity=identity,
        overwrite=overwrite,
        model=run.model,
        settings=run.optimization,
        table=table,
        images=pixels or CorpusImages(store.images, table),
        rows=rows,
        objective=PaperObjective(run.paper) if distils else TaskObjective(),
        targets=targets,
        block_rows=store.info.chunk_rows,
        window_blocks=run.window_blocks,
        max_pixels=pipeline.max_pixels,
    )
    return True


def _require_device(key: str, settings: Optimization) -> None:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{key}.optimization.device: no CUDA device is visible; set optimization.device=cpu",
            hint=f"--set {key}.optimization.device=cpu trains on the CPU",
        )


def _projection_file(pipeline: TrainPipeline, name: str) -> Path:
    if pipeline.train.project is None:
        raise ConfigError(f"train.students.{name}: recipe paper needs train.project, which the pipeline does not have")
    path = Path(pipeline.train.project.out) / "projection.safetensors"
    if not path.is_file():
        raise ConfigError(f"{path}: the projections are not fitted yet", hint="python -m train project --pipeline NAME")
    return path


def _check_width(name: str, model: ModelSection, projection: Projection) -> None:
    if model.config and model.config.get("embed_dim") != projection.latent_dim:
        raise ConfigError(
            f"train.students.{name}.model.config.embed_dim: {model.config.get('embed_dim')}, but features are "
            f"projected to {projection.latent_dim} (train.project.latent_dim)"
        )


def _train(
    name: str,
    *,
    out: Path,
    identity: dict[str, Any],
    overwrite: bool,
    model: ModelSection,
    settings: Optimization,
    table: pa.Table,
    images: RowImages,
    rows: npt.NDArray[np.int64],
    objective: Objective,
    targets: TargetReader | None,
    block_rows: int,
    window_blocks: int,
    max_pixels: int,
) -> None:
    if len(rows) < settings.batch_size:
        raise CorpusError(
            f"{name}: {len(rows)} pairs can be trained on, fewer than optimization.batch_size = {settings.batch_size}"
        )
    torch.set_num_threads(settings.threads)
    captions: list[str] = strings(table, "caption").tolist()
    order = BatchOrder(
        rows, seed=settings.seed, batch_size=settings.batch_size, block_rows=block_rows, window_blocks=window_blocks
    )
    with appearing(out, identity, overwrite=overwrite) as folder:
        student = begin_model(folder, model, [captions[row] for row in rows], seed=settings.seed)
        view = View(size_px=student.size_px, crop_scale=settings.crop_scale, seed=settings.seed, max_pixels=max_pixels)
        loader = ImageLoader(images, view=view, threads=settings.threads)
        # One read serves a window's worth of steps, so that each chunk is read about once an epoch.
        span_steps = max(1, min(settings.steps, window_blocks * block_rows // settings.batch_size))
        stream = Stream(order, loader, captions, targets=targets, span_steps=span_steps)
        log.info("%s: %d pairs, %d steps of %d", name, len(rows), settings.steps, settings.batch_size)
        fit(student, stream, objective, settings, metrics=folder / "metrics.jsonl", label=name)
        save_weights(student, folder)
    log.info("%s: saved as %s", name, out)
