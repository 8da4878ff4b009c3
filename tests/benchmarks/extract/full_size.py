"""The shape of the real thing once, on a CPU: nine full-size stand-ins, the real student's architecture, real images.

    python -m tests.benchmarks.extract.full_size --corpus 'CORPUS/*.tar' --rows 24 --out DIR [--steps 2]

Weights are random, so nothing here says how good anything is; it shows that the sizes fit together, and what they cost.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import tarfile
from pathlib import Path

import yaml
from transformers import BertConfig

from store.corpus.corpus_files import corpus_files
from store.corpus.section import Corpus
from store.layouts.source import Source
from tests.benchmarks.measure import measure
from train.config import ModelSection
from train.models.model_folder import begin_model, save_weights

CLIP_TEXT_B = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
CLIP_TEXT_L = {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12}
VIT_B16 = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}
VIT_B32 = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
VIT_L14 = {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14}
RESNET_50 = {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64}


def bert_text(folder: Path, context_length: int) -> dict[str, object]:
    """Return a text tower of BERT-base size from a configuration alone."""
    return {
        "hf_model_name": str(folder),
        "hf_model_pretrained": False,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": context_length,
    }


def architectures(bert: Path) -> dict[str, dict[str, object]]:
    """Return a model_cfg of each teacher's real size and width (PMC-CLIP and MedCLIP by their nearest kin)."""
    text_256, text_77 = bert_text(bert, 256), bert_text(bert, 77)
    return {
        "bmca": {"embed_dim": 768, "vision_cfg": VIT_L14, "text_cfg": CLIP_TEXT_L},
        "biomedclip": {"embed_dim": 512, "vision_cfg": VIT_B16, "text_cfg": text_256},
        "unimedclip": {"embed_dim": 512, "quick_gelu": True, "vision_cfg": VIT_B16, "text_cfg": text_256},
        "quiltnet": {"embed_dim": 512, "vision_cfg": VIT_B32, "text_cfg": CLIP_TEXT_B},
        "genmedclip": {"embed_dim": 512, "vision_cfg": VIT_B16, "text_cfg": CLIP_TEXT_B},
        "plip": {"embed_dim": 512, "quick_gelu": True, "vision_cfg": VIT_B32, "text_cfg": CLIP_TEXT_B},
        "pubmedclip": {"embed_dim": 512, "quick_gelu": True, "vision_cfg": VIT_B32, "text_cfg": CLIP_TEXT_B},
        "pmcclip": {"embed_dim": 768, "vision_cfg": RESNET_50, "text_cfg": text_77},
        "medclip": {"embed_dim": 512, "vision_cfg": VIT_B32, "text_cfg": text_77},
    }


def subset(patterns: str, rows: int, out: Path) -> list[str]:
    """Copy the first pairs of a corpus into one tar, each with a label for the evaluation, and return its captions."""
    corpus = Corpus(files=[patterns])
    found = (pair for file in corpus_files(corpus.files) for pair in Source(file, corpus).pairs(all_columns=True))
    pairs = list(itertools.islice(found, rows))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w") as tar:
        for pair in pairs:
            organ = str(pair.metadata.get("organ"))
            described = json.dumps({"modality": "radiology", "organ": organ}).encode()
            for suffix, data in (
                ("jpg", pair.image),
                ("txt", pair.record.get("txt", "").encode()),
                ("json", described),
            ):
                member = tarfile.TarInfo(f"{pair.key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return [str(pair.metadata.get("organ")) for pair in pairs]


def write_pipeline(out: Path, models: dict[str, dict[str, object]], organs: list[str], *, steps: int) -> Path:
    """Write the pipeline that the four programs then run."""
    training = {"steps": steps, "batch_size": 8, "lr": 1e-6, "warmup_steps": 1, "threads": 2, "log_every": 1}
    student = {
        "embed_dim": 512,
        "quick_gelu": True,
        "vision_cfg": VIT_B16,
        "text_cfg": models["biomedclip"]["text_cfg"],
    }
    pipeline = {
        "corpora": {"pairs": {"files": ["corpus/*.tar"]}},
        "teachers": {n: {"folder": f"teachers/{n}", "embed_dim": c["embed_dim"]} for n, c in models.items()},
        "store": {"path": "store", "corpus": "pairs", "range_rows": 32, "chunk_rows": 32},
        "extract": {"batch_size": 8, "threads_per_worker": 2},
        "train": {
            "project": {"out": "projection", "latent_dim": 512, "hidden_dim": 512, "steps": 20, "batch_size": 8},
            "students": {
                "student": {
                    "recipe": "paper",
                    "out": "student",
                    "model": {"config": student, "vocabulary": 30522},
                    "optimization": training,
                }
            },
        },
        "evaluate": {
            "out": "results",
            "batch_size": 8,
            "zero_shot": {
                "organ": {
                    "corpus": "pairs",
                    "label": "organ",
                    "group": "modality",
                    "classes": {"radiology": sorted(set(organs))},
                    "templates": ["a radiology image of the {label}"],
                }
            },
        },
    }
    path = out / "pipelines.yaml"
    path.write_text(yaml.safe_dump({"full_size": pipeline}).replace("1.0e-06", "0.000001"))
    return path


def main() -> None:
    """Make stand-ins, run every program, print seconds and peak memory of each as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out: Path = options.out.absolute()
    organs = subset(options.corpus, options.rows, out / "corpus" / "pairs.tar")
    bert = out / "bert"
    BertConfig(vocab_size=30522).save_pretrained(str(bert))
    models = architectures(bert)
    figures: dict[str, dict[str, float]] = {}
    for number, (name, config) in enumerate(models.items()):
        vocabulary = 30522 if "hf_model_name" in config["text_cfg"] else None
        section = ModelSection(config=config, vocabulary=vocabulary)
        folder = out / "teachers" / name
        save_weights(begin_model(folder, section, ["a chest image"], seed=number), folder)
    path = write_pipeline(out, models, organs, steps=options.steps)
    chosen = ["--pipeline", "full_size", "--config", str(path)]
    for program in ("extract index", "extract run --local", "train project", "train distill", "evaluate run"):
        cost = measure([sys.executable, "-m", *program.split(), *chosen])
        if cost.code:
            sys.exit(f"{program} ended with exit code {cost.code}")
        figures[program] = {"seconds": cost.seconds, "peak_GiB": cost.peak_gib}
    print(json.dumps({"rows": options.rows, "steps": options.steps, "programs": figures}, indent=1))


if __name__ == "__main__":
    main()
