"""Models of transformers and timm in full size with random weights, compared with their library's own pipeline.

    python -m tests.benchmarks.extract.full_size_library_models --out DIR [--model uni]

It prints one line per model: width, smallest cosine over 18 images and 15 captions, seconds.
It exits with 1 if a cosine is below 0.999999.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from extract.teacher_files.geometry import fit
from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
from store.images.decode import open_image
from tests.extract import library_cases as cases

COSINE = 0.999999
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
MEAN, STD = [0.5307] * 3, [0.2583] * 3


def rad_dino(folder: Path) -> cases.Case:
    """DINOv2 B/14 at 518 px."""
    settings = cases.DINO | {"size": {"shortest_edge": 518}, "crop_size": 518, "image_mean": MEAN, "image_std": STD}
    sizes = {key: value for key, value in BASE.items() if key != "intermediate_size"}
    return cases.vision(folder, "dinov2", "BitImageProcessor", settings, image_size=518, patch_size=14, **sizes)


def uni(folder: Path) -> cases.Case:
    """ViT-L/16 of timm, with UNI's arguments."""
    pretrained = {"input_size": [3, 224, 224], "crop_pct": 1.0, "interpolation": "bilinear"}
    args = {"init_values": 1e-5, "dynamic_img_size": True}
    return cases.timm_model(folder, "vit_large_patch16_224", {}, pretrained, args)


def siglip2(folder: Path) -> cases.Case:
    """SigLIP2 B/16 at 224 px, with a small vocabulary."""
    return cases.siglip(folder, gemma=True, tower=BASE, px=224, patch=16)


ALL: dict[str, Callable[[Path], cases.Case]] = {"siglip2": siglip2, "uni": uni, "rad_dino": rad_dino}


@torch.inference_mode()
def examine(name: str, folder: Path) -> dict[str, object]:
    """Write, load and compare one model."""
    folder.mkdir(parents=True)
    case, files, began = ALL[name](folder), list(cases.files().values()), time.perf_counter()
    teacher = load_teacher(teacher_spec(name, case.entry), case.entry)
    pixels = [fit(open_image(one).image, teacher.geometry) for one in files]
    image = np.concatenate([teacher.encode_image(one[None].copy()) for one in pixels])
    theirs = np.concatenate([case.image([one]).numpy() for one in files])
    found: dict[str, object] = {"model": name, "width": teacher.embed_dim}
    found["cosine_image"] = float((image * theirs).sum(1).min())
    if case.text is not None:
        found["cosine_text"] = float((teacher.encode_text(cases.TEXTS) * case.text(cases.TEXTS).numpy()).sum(1).min())
    return found | {"seconds": round(time.perf_counter() - began)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="An empty folder; emptied again model by model.")
    parser.add_argument("--model", choices=list(ALL), action="append")
    arguments = parser.parse_args()
    good = True
    for name in arguments.model or ALL:
        found = examine(name, arguments.out / name)
        shutil.rmtree(arguments.out / name)
        good &= all(value > COSINE for key, value in found.items() if key.startswith("cosine"))
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
