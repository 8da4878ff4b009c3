"""Columns, FLOPs and time that a step saves without the padding of captions, beside the padded step in one run.

    python -m tests.benchmarks.train.padding --data DIR [--rounds 3] [--rows 32] [--layers 4] [--width 256]

DIR has ``mmkd_demo/meta.jsonl`` (captions of figures of articles) and ``vqa_rad/*.tar`` (captions by a template).
Batches are drawn from them with repetition. Tokens are those of CLIP's own vocabulary. Shares of columns and FLOPs are
those of a batch of 2,048 on a card for the full size of the towers, which are not computed; times are CPU times of
small towers in one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer

from store.texts.tokens import clip_tokenizer
from tests.benchmarks.rounds import SEED, medians
from tests.benchmarks.tables import table
from train.config import ModelSection, Optimization
from train.data.batches import Batch
from train.data.captions import Tokens
from train.losses.objective import TaskObjective
from train.models.flops import encoder_flops
from train.models.length_parts import parts_by_length
from train.models.model_folder import Student, begin_model
from train.models.towers import COSTS, prepare_towers
from train.runtime.ranks import ALONE
from train.trainer.train_step import Updater

CARD_ROWS = 2048


def captions_of(data: Path) -> dict[str, list[str]]:
    """Return captions by corpus."""
    lines = (data / "mmkd_demo" / "meta.jsonl").read_text().splitlines()
    found = {"mmkd_demo": [json.loads(line)["txt"] for line in lines], "vqa_rad": []}
    for path in sorted((data / "vqa_rad").glob("*.tar")):
        with tarfile.open(path) as file:
            texts = [file.extractfile(member) for member in file if member.name.endswith(".txt")]
            found["vqa_rad"] += [text.read().decode() for text in texts if text]
    return found


def config_of(kind: str, folder: Path, *, layers: int, width: int, vision: dict[str, int]) -> dict[str, object]:
    """Return an open_clip model with CLIP's tower of 77 tokens, or a BERT of 256."""
    if kind == "CLIP, 77":
        text = {"context_length": 77, "width": width, "heads": width // 64, "layers": layers}
        return {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    bert = {"model_type": "bert", "vocab_size": 49408, "intermediate_size": 4 * width, **sizes, **dropout}
    (folder / "config.json").write_text(json.dumps(bert))
    text = {"hf_model_name": str(folder), "hf_model_pretrained": False, "hf_proj_type": "mlp", "context_length": 256}
    text |= {"hf_pooler_type": "cls_last_hidden_state_pooler"}
    return {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}


def student_of(config: dict[str, object], context: int, folder: Path) -> Student:
    """Return a student whose captions are cut to some tokens of CLIP's vocabulary."""
    student = begin_model(folder, ModelSection(config=config), [], seed=0)
    student.tokenizer = clip_tokenizer(SimpleTokenizer(context_length=context))
    return student


def updater_of(student: Student, *, padded: bool, rows: int) -> Updater:
    """Return the step, with the padding or without."""
    settings = Optimization(steps=9, batch_size=rows, lr=1e-4)
    towers = prepare_towers(student, settings)
    if padded:
        towers._cuts, towers._text = False, student.model.encode_text
    return Updater(towers, TaskObjective(), settings, ALONE)


def cpu_ms(updater: Updater, batch: Batch) -> float:
    """Return the CPU milliseconds of a step, which other programs on the machine change little."""
    began = time.process_time()
    updater.update(batch)
    return 1e3 * (time.process_time() - began)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the corpora.")
    for name, default in (("rounds", 3), ("rows", 32), ("layers", 4), ("width", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, load = np.random.default_rng(SEED), os.getloadavg()[0]
    print(f"{options.rows} rows a step, {options.layers} layers of {options.width}, load {load:.1f}", file=sys.stderr)
    rows_of_table = []
    small = {"layers": options.layers, "width": options.width}
    for kind, context in (("BERT, 256", 256), ("CLIP, 77", 77)):
        with TemporaryDirectory() as temporary:
            folder = Path(temporary)
            full = {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224}
            text = {"layers": 12, "width": 768} if context == 256 else {"layers": 12, "width": 512}
            whole = student_of(config_of(kind, folder, vision=full, **text), context, folder / "full")
            flops = encoder_flops(whole.model, size_px=224, context=context)
            del whole
            vision = {**small, "patch_size": 32, "image_size": 224, "head_width": 64}
            config = config_of(kind, folder, vision=vision, **small)
            for corpus, captions in captions_of(options.data).items():
                student = student_of(config, context, folder / corpus)
                drawn = [captions[place] for place in rng.integers(len(captions), size=CARD_ROWS)]
                lengths_B = student.tokenizer(drawn).lengths_B
                _, parts = parts_by_length(lengths_B, context=context, cost=COSTS["cuda"])
                computed = sum((part.rows.stop - part.rows.start) * part.columns for part in parts)
                share = computed / (CARD_ROWS * context)
                pixels = torch.from_numpy(rng.integers(256, size=(options.rows, 224, 224, 3), dtype=np.uint8))
                tokens, rows = Tokens.of(drawn[: options.rows], student.tokenizer), np.arange(options.rows)
                batch = Batch(step=0, rows_B=rows, pixels_BHWC=pixels, tokens=tokens, targets=None)
                measures = {}
                for name in ("padded", "cut"):
                    step = updater_of(student, padded=name == "padded", rows=options.rows)
                    cpu_ms(step, batch)
                    measures[name,] = lambda step=step, batch=batch: cpu_ms(step, batch)
                found = medians(measures, options.rounds)
                saved = (flops[0] + share * flops[1]) / sum(flops)
                cells = [float(lengths_B.mean()), share, f"-{1 - share:.0%}", f"-{1 - saved:.0%}"]
                rows_of_table.append([corpus, kind, *cells, *found.values(), found["padded",] / found["cut",]])
    head = ("captions", "tower", "mean tokens", "columns", "text FLOPs", "step FLOPs")
    table((*head, "padded, CPU ms", "cut, CPU ms", "ratio"), rows_of_table)


if __name__ == "__main__":
    main()
