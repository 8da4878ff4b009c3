"""The two stages, from a pipeline's section to the folder of a model: pretrain and distill."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from store.config.pipeline_file import dump_resolved
from store.config.problems import it_has
from store.corpus.corpus_files import CorpusFile, common_root, corpus_files, relative_uri
from store.errors import ConfigError, IncompleteStoreError
from store.files import sha256_file
from store.index.indexing import settings_of
from store.read.pixel_cache import PixelCache
from store.read.reader import FeatureStore
from train.config import ModelSection, Optimization, PretrainRun, StudentRun, TrainPipeline
from train.data.image_loader import require_pixels
from train.data.pair_source import TaughtPairs, corpus_pairs, store_pairs, taught_pairs
from train.data.store_rows import RunTeachers, as_begun, open_store, store_identity, to_train_on
from train.recipes.choose import RECIPES, TeacherData, task_only
from train.recipes.projection import Projection
from train.runtime.ranks import require_device, require_even_shares
from train.runtime.run_folder import begun_as, interrupted_in, is_done

from .train_model import HERE, Circumstances, TrainingRun, settings_identity, train_model


def pretrain(pipeline: TrainPipeline, name: str, run: PretrainRun, how: Circumstances = HERE) -> bool:
    """Stage 1: train a model on the pairs of a corpus or of the store. Returns False if that was done already."""
    key = f"train.pretrain.{name}"
    if run.corpus is None:
        return _pretrain_on_store(pipeline, name, run, how)
    if run.corpus not in pipeline.corpora:
        raise ConfigError(
            f"{key}.corpus: the pipeline has no corpus {run.corpus!r}{it_has(run.corpus, pipeline.corpora)}"
        )
    corpus = pipeline.corpora[run.corpus]
    identity: dict[str, Any] = {
        "run": settings_identity(run) | {"images": "corpus"},
        "corpus": _digests(corpus_files(corpus.files)),
        **_window_identity(pipeline),
    }
    settings = settings_of(corpus)
    if settings != settings_of(type(corpus)(files=corpus.files)):
        identity["corpus_settings"] = settings
    if _nothing_to_do(key, run, identity, how):
        return False
    train_model(_run_of(pipeline, name, run, identity), corpus_pairs(corpus), task_only, how)
    return True


def _digests(files: Sequence[CorpusFile]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name, or by its path below the common folder if names repeat."""
    names, root = Counter(file.name for file in files), common_root(files)
    return {file.name if names[file.name] == 1 else relative_uri(file.uri, root): file.sha256() for file in files}


def _pretrain_on_store(pipeline: TrainPipeline, name: str, run: PretrainRun, how: Circumstances) -> bool:
    """Stage 1 on a store's pair table; it need not hold any feature."""
    store = FeatureStore(
        pipeline.store.path, corpus_root=how.corpus_root, allow=pipeline.readable(), verify=pipeline.store.verify
    )
    store = as_begun(store, _interrupted(run, how))
    pixels = _pixels(pipeline, store, run)
    identity: dict[str, Any] = {
        "run": _without_images(run),
        "store": {"corpus": store.info.corpus, "rows": store.info.rows},
    }
    identity |= _window_identity(pipeline) | _pixel_identity(pixels)
    if _nothing_to_do(f"train.pretrain.{name}", run, identity, how):
        return False
    pairs = store_pairs(store, pixels, window_blocks=run.window_blocks)
    if pixels:
        require_pixels(pixels, pairs.rows())
    train_model(_run_of(pipeline, name, run, identity), pairs, task_only, how)
    return True


def distill(pipeline: TrainPipeline, name: str, run: StudentRun, how: Circumstances = HERE) -> bool:
    """Stage 2: train a student from the store. Returns False if that was done already.

    A ``task_only`` student sees the same rows in the same batches as a distilled one.
    """
    recipe = RECIPES[run.recipe]
    store = open_store(pipeline, corpus_root=how.corpus_root, ranks=how.ranks, begun=_interrupted(run, how))
    projection_file = _projection_file(pipeline, name) if recipe.projects else None
    pixels = _pixels(pipeline, store, run)
    identity = {
        "run": _without_images(run),
        "select": json.loads(dump_resolved(pipeline))["select"],
        "store": store_identity(store),
        "projection": sha256_file(projection_file) if projection_file else None,
        **_window_identity(pipeline),
        **_pixel_identity(pixels),
    }
    if _nothing_to_do(f"train.students.{name}", run, identity, how):
        return False
    begun = how.ranks.from_first(lambda: begun_as(Path(run.out), identity) if how.resume else None)
    teachers = RunTeachers.of_run(store, pipeline.select, begun or identity)
    projection = _projection(projection_file, name, run.model)
    pairs = taught_pairs(
        store,
        pixels,
        window_blocks=run.window_blocks,
        teachers=teachers.among(projection.weights) if projection else teachers,
        sampling=recipe.sampling(run),
        seed=run.optimization.seed,
        shuffle=recipe.shuffles(run),
    )
    if projection and begun is None:
        _require_projected(projection, store, teachers, pairs)
    available_NT = pairs.available()
    rows = np.flatnonzero(available_NT.any(axis=1))
    if not len(rows):
        raise IncompleteStoreError(f"{store.location}: no training row has a feature that the selection allows")
    if pixels:
        require_pixels(pixels, rows)
    data = TeacherData(store=store, teachers=pairs.teachers.names, available_NT=available_NT, projection=projection)
    objective = functools.partial(recipe.objective, run, data)
    train_model(_run_of(pipeline, name, run, identity), pairs, objective, how)
    return True


def _interrupted(run: PretrainRun | StudentRun, how: Circumstances) -> dict[str, Any] | None:
    """Return the identity of the interrupted run that may go on."""
    return how.ranks.from_first(lambda: interrupted_in(Path(run.out)) if how.resume else None)


def _window_identity(pipeline: TrainPipeline) -> dict[str, Any]:
    """Return ``image.window`` as a part of a run's identity; nothing without one, as in runs of before it."""
    return {} if pipeline.image.bounds is None else {"window": pipeline.image.model_dump(mode="json")["window"]}


def _run_of(
    pipeline: TrainPipeline, name: str, section: PretrainRun | StudentRun, identity: dict[str, Any]
) -> TrainingRun:
    return TrainingRun(
        name=name,
        out=Path(section.out),
        identity=identity,
        model=section.model,
        optimization=section.optimization,
        validation=section.validation,
        max_pixels=pipeline.max_pixels,
        window=pipeline.image.bounds,
    )


def _without_images(run: PretrainRun | StudentRun) -> dict[str, Any]:
    """Return the settings that affect the result; the spec of the images stands for ``images``."""
    settings = settings_identity(run)
    del settings["images"]
    return settings


def _pixel_identity(pixels: PixelCache | None) -> dict[str, str]:
    return {"pixels": pixels.spec.hash} if pixels else {}


def _pixels(pipeline: TrainPipeline, store: FeatureStore, run: PretrainRun | StudentRun) -> PixelCache | None:
    if (run.images or ("pixels" if pipeline.store.corpus is None else "corpus")) == "corpus":
        return None
    # A batch at the border of two windows has rows of both.
    return PixelCache(store.location, info=store.info, chunks_kept=2 * run.window_blocks)


def _nothing_to_do(key: str, run: PretrainRun | StudentRun, identity: dict[str, Any], how: Circumstances) -> bool:
    """Return whether the run's result is there; if not, check that this machine can make it."""
    if how.ranks.from_first(lambda: is_done(Path(run.out), identity, overwrite=how.overwrite)):
        return True
    settings: Optimization = run.optimization
    require_device(key, settings, how.ranks)
    require_even_shares(key, settings, how.ranks)
    return False


def _projection_file(pipeline: TrainPipeline, name: str) -> Path:
    if pipeline.train.project is None:
        raise ConfigError(
            f"train.students.{name}: recipe paper needs train.project, which the pipeline does not have",
            hint="python -m train project says which lines it needs",
        )
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


def _require_projected(projection: Projection, store: FeatureStore, teachers: RunTeachers, pairs: TaughtPairs) -> None:
    """Raise SpecMismatchError unless every teacher with a training row has a projection of its present features."""
    available_NT = teachers.available(store)[to_train_on(pairs.table)]
    used = [name for column, name in enumerate(teachers.names) if available_NT[:, column].any()]
    projection.check_specs({teacher: store.spec(teacher).hash for teacher in used})


def _check_width(name: str, model: ModelSection, projection: Projection) -> None:
    if model.config and model.config.get("embed_dim") != projection.latent_dim:
        raise ConfigError(
            f"train.students.{name}.model.config.embed_dim: {model.config.get('embed_dim')}, but features are "
            f"projected to {projection.latent_dim} (train.project.latent_dim)"
        )
