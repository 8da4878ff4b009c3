"""From the cache that MMKD-CLIP's authors released to a student that knows its eight pairs."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from extract.corpora.import_mmkd import import_mmkd
from store.read.reader import FeatureStore
from train.config import TrainPipeline
from train.recipes.fit_projections import project
from train.trainer import stages as runs

pytestmark = pytest.mark.slow

RELEASED = Path(__file__).parents[3].parent / "shared" / "data" / "mmkd_demo"


@pytest.mark.skipif(not (RELEASED / "meta.jsonl").is_file(), reason=f"the released cache is not at {RELEASED}")
def test_a_student_distilled_from_the_released_cache_retrieves_its_eight_pairs(tmp_path, tiny_model):
    import_mmkd(RELEASED, tmp_path / "store", range_rows=8, chunk_rows=8)
    student = {
        "recipe": "paper",
        "out": str(tmp_path / "student"),
        "model": tiny_model,
        "optimization": {
            "steps": 100,
            "batch_size": 8,
            "lr": 3e-3,
            "warmup_steps": 10,
            "weight_decay": 0.0,
            "grad_clip": 1.0,
            "crop_scale": 1.0,
        },
    }
    projection = {"out": str(tmp_path / "projection"), "latent_dim": 32, "hidden_dim": 32, "steps": 50, "batch_size": 8}
    pipeline = TrainPipeline.model_validate(
        {
            "corpora": {},
            "store": {"path": str(tmp_path / "store"), "corpus": "released"},
            "train": {"project": projection, "students": {"distilled": student}},
        }
    )
    project(pipeline, pipeline.train.project)
    runs.distill(pipeline, "distilled", pipeline.train.students["distilled"])

    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'student'}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'student'}")
    pairs = FeatureStore(tmp_path / "store").pairs.read(0, 8, ["uri", "caption"]).to_pylist()
    images = [transform(Image.open(RELEASED / pair["uri"]).convert("RGB")) for pair in pairs]
    with torch.no_grad():
        image_BE = model.eval().encode_image(torch.stack(images), normalize=True)
        text_BE = model.encode_text(tokenize([pair["caption"] for pair in pairs]), normalize=True)
    cosine_BB = image_BE @ text_BE.T
    assert cosine_BB.argmax(dim=1).tolist() == list(range(8))
    assert cosine_BB.argmax(dim=0).tolist() == list(range(8))
