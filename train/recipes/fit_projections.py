"""``python -m train project``: from the features of a store to the folder of fitted projections."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from store.config.pipeline_file import dump_resolved
from store.console import progress
from store.errors import IncompleteStoreError
from store.inspect.feature_statistics import draw_rows
from store.read.chunks import ChunkReader
from store.read.reader import FeatureStore
from train.config import ProjectSection, TrainPipeline
from train.data.store_rows import TRAINING_SPLIT, in_split, open_store, store_identity
from train.runtime.run_folder import appearing, is_done

from .autoencoder import FitSettings, TeacherFeatures, fit_projection

log = logging.getLogger(__name__)


def project(pipeline: TrainPipeline, section: ProjectSection, *, overwrite: bool = False) -> bool:
    """Fit the paper's projections on the store's features. Returns False if that was done already."""
    store = open_store(pipeline)
    # Fits of before `threads` was a setting stay valid.
    settings_of = {name: value for name, value in json.loads(dump_resolved(section)).items() if name != "threads"}
    identity = {
        "section": settings_of,
        "select": json.loads(dump_resolved(pipeline))["select"],
        "store": store_identity(store),
    }
    out = Path(section.out)
    if is_done(out, identity, overwrite=overwrite):
        return False
    features = _projection_features(store, pipeline, section)
    torch.set_num_threads(section.threads)
    with appearing(out, identity, overwrite=overwrite) as folder:
        settings = FitSettings(
            latent_dim=section.latent_dim,
            hidden_dim=section.hidden_dim,
            steps=section.steps,
            batch_size=section.batch_size,
            lr=section.lr,
            seed=section.seed,
        )
        with progress(section.steps, label="project", noun="steps") as advance:
            fitted = fit_projection(features, settings, on_step=lambda *_: advance(1))
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


def _projection_features(
    store: FeatureStore, pipeline: TrainPipeline, section: ProjectSection
) -> dict[str, TeacherFeatures]:
    # Pairs of validation and test take no part in the fit.
    may_train_N = in_split(store.pairs.read(0, store.info.rows, ["split"]), None, TRAINING_SPLIT)
    available_NT = store.available(pipeline.select) & may_train_N[:, None]
    reader, features = ChunkReader(store), {}
    for column, teacher in enumerate(store.teachers):
        # Whole chunks: drawing single rows from a large store would read nearly all of it.
        rows = draw_rows(
            available_NT[:, column], chunk_rows=store.info.chunk_rows, rows=section.max_rows, seed=section.seed
        )
        if len(rows):
            spec = store.spec(teacher)
            sides = {side: reader.read(rows, teacher=teacher, side=side) for side in spec.sides}
            features[teacher] = TeacherFeatures(
                rows=rows, image=sides["image"], text=sides.get("text"), spec_hash=spec.hash
            )
    if not features:
        raise IncompleteStoreError(
            f"{store.location}: the selection leaves no feature", hint="look at select: in the file"
        )
    return features
