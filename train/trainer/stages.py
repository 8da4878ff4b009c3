"""The two stages, from pipeline section to folder: pretrain and distill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.config.pipeline_file import dump_resolved
from store.corpus.corpus_files import corpus_files
from store.corpus.image_source import ImageSource
from store.errors import ConfigError, IncompleteStoreError
from store.files import sha256_file
from store.index.in_memory import read_corpus
from store.index.indexing import settings_of
from store.read.pixel_cache import PixelCache
from store.read.reader import FeatureStore
from train.config import ModelSection, Optimization, PretrainRun, StudentRun, TrainPipeline
from train.data.image_loader import CorpusImages, require_pixels
from train.data.run_teachers import Teaching, seen_alike
from train.data.store_rows import is_growing, open_store, store_identity, to_train_on
from train.data.target_reader import TargetReader
from train.recipes.choose import objective_maker, shuffles, target_reader, task_only
from train.recipes.projection import Projection
from train.runtime.ranks import ALONE, Ranks, require_device, require_even_shares
from train.runtime.run_folder import begun_as, is_done

from .train_model import COLUMNS, Job, settings_identity, train_model


def pretrain(
    pipeline: TrainPipeline,
    name: str,
    run: PretrainRun,
    *,
    overwrite: bool = False,
    resume: bool = True,
    corpus_root: Path | None = None,
    ranks: Ranks = ALONE,
) -> bool:
    """Stage 1: train a model on the pairs of a corpus or of the store. Returns False if that was done already."""
    if run.corpus is None:
        return _pretrain_on_store(
            pipeline, name, run, overwrite=overwrite, resume=resume, corpus_root=corpus_root, ranks=ranks
        )
    if run.corpus not in pipeline.corpora:
        raise ConfigError(f"train.pretrain.{name}.corpus: the pipeline has no corpus {run.corpus!r}")
    corpus = pipeline.corpora[run.corpus]
    identity = {
        "run": settings_identity(run),
        "corpus": {file.name: file.sha256() for file in corpus_files(corpus.files)},
    }
    settings = settings_of(corpus)
    if settings != settings_of(type(corpus)(files=corpus.files)):
        identity["corpus_settings"] = settings
    if _nothing_to_do(f"train.pretrain.{name}", run, identity, overwrite=overwrite, ranks=ranks):
        return False
    index = read_corpus(corpus)
    rows = np.flatnonzero(to_train_on(index.table))
    job = Job(
        name=name,
        out=Path(run.out),
        identity=identity,
        model=run.model,
        settings=run.optimization,
        validation=run.validation,
        table=index.table,
        images=CorpusImages(ImageSource(index.root), index.table),
        rows=rows,
        block_rows=1,
        window_blocks=max(1, len(rows)),
        max_pixels=pipeline.max_pixels,
        objective=task_only,
    )
    train_model(job, overwrite=overwrite, resume=resume, ranks=ranks)
    return True


def _pretrain_on_store(
    pipeline: TrainPipeline,
    name: str,
    run: PretrainRun,
    *,
    overwrite: bool,
    resume: bool,
    corpus_root: Path | None,
    ranks: Ranks,
) -> bool:
    """Stage 1 on a store's pair table; it need not hold any feature."""
    store = FeatureStore(pipeline.store.path, corpus_root=corpus_root)
    pixels = _pixels(store, run) if run.images == "pixels" else None
    settings = settings_identity(run)
    del settings["images"]
    identity: dict[str, Any] = {"run": settings, "store": {"corpus": store.info.corpus}}
    if pixels:
        identity["pixels"] = pixels.spec.hash
    if _nothing_to_do(f"train.pretrain.{name}", run, identity, overwrite=overwrite, ranks=ranks):
        return False
    table = store.pairs.read(0, store.info.rows, COLUMNS)
    rows = np.flatnonzero(to_train_on(table))
    if pixels:
        require_pixels(pixels, rows)
    job = Job(
        name=name,
        out=Path(run.out),
        identity=identity,
        model=run.model,
        settings=run.optimization,
        validation=run.validation,
        table=table,
        images=pixels or CorpusImages(store.images, table),
        rows=rows,
        block_rows=store.info.chunk_rows,
        window_blocks=run.window_blocks,
        max_pixels=pipeline.max_pixels,
        objective=task_only,
        can_validate=pixels.committed_rows() if pixels else None,
    )
    train_model(job, overwrite=overwrite, resume=resume, ranks=ranks)
    return True


def distill(
    pipeline: TrainPipeline,
    name: str,
    run: StudentRun,
    *,
    overwrite: bool = False,
    resume: bool = True,
    corpus_root: Path | None = None,
    ranks: Ranks = ALONE,
) -> bool:
    """Stage 2: train a student from the store. Returns False if that was done already.

    A ``task_only`` student sees the same rows in the same batches as a distilled one.
    """
    store = seen_alike(open_store(pipeline, corpus_root=corpus_root), ranks)
    projection_file = _projection_file(pipeline, name) if run.recipe == "paper" else None
    pixels = _pixels(store, run) if run.images == "pixels" else None
    identity = _student_identity(pipeline, run, store, projection_file, pixels)
    if _nothing_to_do(f"train.students.{name}", run, identity, overwrite=overwrite, ranks=ranks):
        return False
    begun = ranks.from_first(lambda: begun_as(Path(run.out), identity) if resume else None)
    teaching = Teaching.of_run(store, pipeline.select, begun or identity)
    table = store.pairs.read(0, store.info.rows, COLUMNS)
    may_train_N = to_train_on(table)
    projection = _projection(projection_file, name, run.model)
    if projection:
        if begun is None:
            _require_projected(projection, store, teaching, may_train_N)
        teaching = teaching.among(projection.weights)

    def rows_of(at: FeatureStore) -> npt.NDArray[np.int64]:
        return np.flatnonzero(teaching.available(at).any(axis=1) & may_train_N)

    def targets_of(at: FeatureStore | None) -> TargetReader | None:
        return None if at is None else target_reader(run, at, teaching.available(at), teachers=teaching.names)

    available_NT = teaching.available(store) & may_train_N[:, None]
    rows = np.flatnonzero(available_NT.any(axis=1))
    if not len(rows):
        raise IncompleteStoreError(f"{store.location}: no training row has a feature that the selection allows")
    if pixels:
        require_pixels(pixels, rows)
    job = Job(
        name=name,
        out=Path(run.out),
        identity=identity,
        model=run.model,
        settings=run.optimization,
        validation=run.validation,
        table=table,
        images=pixels or CorpusImages(store.images, table),
        rows=rows,
        block_rows=store.info.chunk_rows,
        window_blocks=run.window_blocks,
        max_pixels=pipeline.max_pixels,
        objective=objective_maker(run, projection, store, available_NT, teachers=teaching.names),
        shuffle=shuffles(run),
        targets=targets_of,
        store=store,
        rows_of=rows_of,
        grows=is_growing(store),
        can_validate=pixels.committed_rows() if pixels else None,
    )
    train_model(job, overwrite=overwrite, resume=resume, ranks=ranks)
    return True


def _student_identity(
    pipeline: TrainPipeline,
    run: StudentRun,
    store: FeatureStore,
    projection_file: Path | None,
    pixels: PixelCache | None,
) -> dict[str, Any]:
    settings = settings_identity(run)
    # Which images they are is said below by their spec.
    del settings["images"]
    identity = {
        "run": settings,
        "select": json.loads(dump_resolved(pipeline))["select"],
        "store": store_identity(store),
        "projection": sha256_file(projection_file) if projection_file else None,
    }
    return identity | ({"pixels": pixels.spec.hash} if pixels else {})


def _pixels(store: FeatureStore, run: PretrainRun | StudentRun) -> PixelCache:
    workers = run.optimization.image_workers
    # Each worker reads chunks of its own; twice its share, because shares are not quite even.
    kept = -(-2 * run.window_blocks // workers) if workers > 1 else run.window_blocks
    return PixelCache(store.location, info=store.info, chunks_kept=kept)


def _nothing_to_do(
    key: str, run: PretrainRun | StudentRun, identity: dict[str, Any], *, overwrite: bool, ranks: Ranks
) -> bool:
    """Whether the run's result is there; if not, see that this machine can make it."""
    if ranks.from_first(lambda: is_done(Path(run.out), identity, overwrite=overwrite)):
        return True
    settings: Optimization = run.optimization
    require_device(key, settings, ranks)
    require_even_shares(key, settings, ranks)
    return False


def _projection_file(pipeline: TrainPipeline, name: str) -> Path:
    if pipeline.train.project is None:
        raise ConfigError(f"train.students.{name}: recipe paper needs train.project, which the pipeline does not have")
    path = Path(pipeline.train.project.out) / "projection.safetensors"
    if not path.is_file():
        raise ConfigError(f"{path}: the projections are not fitted yet", hint="python -m train project --pipeline NAME")
    return path


def _projection(file: Path | None, name: str, model: ModelSection) -> Projection | None:
    if file is None:
        return None
    projection = Projection.load(file)
    _check_width(name, model, projection)
    return projection


def _require_projected(
    projection: Projection, store: FeatureStore, teaching: Teaching, may_train_N: npt.NDArray[np.bool_]
) -> None:
    """See that there is a projection of each teacher that has something to teach."""
    available_NT = teaching.available(store)[may_train_N]
    used = [name for column, name in enumerate(teaching.names) if available_NT[:, column].any()]
    projection.check_specs({teacher: store.spec(teacher).hash for teacher in used})


def _check_width(name: str, model: ModelSection, projection: Projection) -> None:
    if model.config and model.config.get("embed_dim") != projection.latent_dim:
        raise ConfigError(
            f"train.students.{name}.model.config.embed_dim: {model.config.get('embed_dim')}, but features are "
            f"projected to {projection.latent_dim} (train.project.latent_dim)"
        )
