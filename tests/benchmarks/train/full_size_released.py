"""A file of the released student's layout and size with random weights: converted, loaded by plain open_clip, compared.

    python -m tests.benchmarks.train.full_size_released --out DIR

Prints the smallest cosine of either side with the authors' forward pass, written over plain tensors; exits with 1 if
one is below 0.99999.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import open_clip
import torch
from open_clip.tokenizer import basic_clean, whitespace_clean
from torch.nn import functional
from transformers import BertTokenizer

from extract.teacher_files.text_tower import PUBMEDBERT
from tests.extract import authors_files as files
from tests.extract import teacher_references as reference
from tests.extract.teacher_inputs import CAPTIONS
from train.export.released import RELEASED_MODEL, convert_released

COSINE = 0.99999


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="A folder that is not there.")
    out = parser.parse_args().out
    out.mkdir(parents=True)
    draw = files.Draw(3)
    vision, text = files.vit(draw, RELEASED_MODEL), files.bert(draw, PUBMEDBERT, pooler=False)
    projection = draw.matrix(640, 768), draw.matrix(512, 640)
    state = vision | {f"text_encoder.transformer.{name}": value for name, value in text.items()}
    state |= {"text_encoder.proj.0.weight": projection[0], "text_encoder.proj.2.weight": projection[1]}
    state |= {"text_encoder.transformer.embeddings.position_ids": torch.arange(512)[None]}
    state |= {"logit_scale": torch.tensor(files.LOG_SCALE)}
    files.write_training_checkpoint(out / "MMKD_B16.pth", state, numpy_scalars=True)
    files.write_bert_folder(out / "text", PUBMEDBERT)
    began = time.perf_counter()
    convert_released(out / "MMKD_B16.pth", out / "student", text=out / "text")
    seconds = time.perf_counter() - began
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{out / 'student'}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{out / 'student'}")
    pixels_BCHW = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    tokenizer = BertTokenizer.from_pretrained(str(out / "text"))
    cleaned = [whitespace_clean(basic_clean(caption)) for caption in CAPTIONS]
    encoded = tokenizer(cleaned, padding="max_length", truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        image = reference.vit_image(vision, RELEASED_MODEL, pixels_BCHW, act=reference.quick_gelu)
        caption = reference.bert_mlp(text, PUBMEDBERT, projection, encoded["input_ids"])
        ours = model.eval().encode_image(pixels_BCHW), model.encode_text(tokenize(CAPTIONS))
    cosines = [functional.cosine_similarity(*pair).min().item() for pair in zip(ours, (image, caption), strict=True)]
    found = {
        "tensors": len(state),
        "file_mb": round((out / "MMKD_B16.pth").stat().st_size / 1e6, 1),
        "convert_s": round(seconds, 1),
        "cosine_image": cosines[0],
        "cosine_text": cosines[1],
    }
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(0 if min(cosines) > COSINE else 1)


if __name__ == "__main__":
    main()
