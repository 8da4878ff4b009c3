"""Corpora, teachers and pipelines of the benchmarks that put the real worker around a simulated accelerator.

The images are drawn JPEGs; each pair's has a comment of its own, so that no two are the same file.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from tests.benchmarks.rounds import SEED
from tests.extract.authors_files import SPECIAL, write_bert_folder
from tests.extract.teacher_cases import TINY_BERT, bert_hub_text
from tests.store.texts.test_tokens import drawn

TEACHERS, DIM = 9, 512
DRAWN_IMAGES = 24
WARM_UP_ROWS = 64
SHARD_ROWS = 512


@dataclass(kw_only=True, frozen=True)
class Mix:
    """A corpus, and how fast the device is.

    Attributes:
        rows: pairs; range_rows of them are a range, and batch_size of them go to a teacher at once.
        size_px: width and height of the JPEGs.
        captions_per_image: neighbouring pairs with the same image.
        joined: drawn captions of about twelve words that make one.
        device: device time of a pair as a multiple of host CPU time per pair and core.
        workers: processes that share the device, as with ``gpus_per_worker: 0.5``.
    """

    rows: int
    range_rows: int
    batch_size: int
    size_px: tuple[int, int]
    captions_per_image: int
    joined: int
    device: float
    workers: int = 1


MIXES = {
    "decode_bound": Mix(
        rows=2560, range_rows=256, batch_size=128, size_px=(980, 842), captions_per_image=1, joined=1, device=0.5
    ),
    "text_bound": Mix(
        rows=20480, range_rows=2048, batch_size=512, size_px=(224, 224), captions_per_image=4, joined=6, device=0.5
    ),
    "text_bound_two_workers": Mix(
        rows=40960,
        range_rows=2048,
        batch_size=512,
        size_px=(224, 224),
        captions_per_image=4,
        joined=6,
        device=0.5,
        workers=2,
    ),
    "device_bound": Mix(
        rows=3072, range_rows=256, batch_size=128, size_px=(640, 480), captions_per_image=1, joined=2, device=1.1
    ),
}

PREPROCESSINGS = ({}, {"resize_mode": "shortest_floor_crop"}, {"resize_mode": "pad_square_grey"})
"""The three geometries of the nine teachers of the ``mmkd`` pipeline."""

SHARES = (6, 2, 1)
"""Teachers of each geometry."""

BERTS = 3
"""The nine that have a WordPiece; the others have CLIP's BPE."""


def captions(count: int, joined: int) -> list[str]:
    """Return captions of so many drawn ones each; one in twelve has something odd, as of the drawn ones."""
    parts = drawn(count * joined, seed=SEED)
    plain = [part for number, part in enumerate(parts) if number % 12]
    found = [". ".join(plain[number % len(plain)] for number in range(row, row + joined)) for row in range(count)]
    return [f"{text}. {parts[row]}" if row % 12 == 0 else text for row, text in enumerate(found)]


def jpegs(size_px: tuple[int, int]) -> list[bytes]:
    """Return JPEGs of soft shapes under fine grain, about as many bytes as photographs of the size have."""
    rng, found = np.random.default_rng(SEED), []
    for _ in range(DRAWN_IMAGES):
        shapes = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize(size_px, Image.BICUBIC)
        grain = Image.fromarray(rng.integers(0, 255, (*size_px[::-1], 3), np.uint8)).filter(ImageFilter.GaussianBlur(1))
        buffer = io.BytesIO()
        Image.blend(shapes, grain, 0.65).save(buffer, "JPEG", quality=90)
        found.append(buffer.getvalue())
    return found


def with_comment(jpeg: bytes, number: int) -> bytes:
    """Return a JPEG with a comment segment after its first marker."""
    text = f"{number:08d}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def write_corpus(folder: Path, mix: Mix, *, rows: int) -> None:
    """Write tars of JPEGs and captions."""
    folder.mkdir(parents=True)
    images, texts = jpegs(mix.size_px), captions(rows, mix.joined)
    for shard in range(0, rows, SHARD_ROWS):
        with tarfile.open(folder / f"pairs-{shard // SHARD_ROWS:06d}.tar", "w") as tar:
            for row in range(shard, min(shard + SHARD_ROWS, rows)):
                image = row // mix.captions_per_image
                jpeg = with_comment(images[image % len(images)], image)
                for suffix, content in (("jpg", jpeg), ("txt", texts[row].encode())):
                    member = tarfile.TarInfo(f"{row:08d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def write_teacher(folder: Path, *, bert: bool) -> None:
    """Write a small open_clip model of random weights that takes 224 px and has CLIP's BPE or a WordPiece."""
    folder.mkdir(parents=True)
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
    if bert:
        words = Counter(re.findall(r"[a-z]+", " ".join(drawn(20_000)).lower()))
        letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
        tokens = dict.fromkeys([*SPECIAL, *letters, *(f"##{one}" for one in letters), *words])
        write_bert_folder(folder / "text", TINY_BERT | {"vocab_size": len(tokens)})
        (folder / "text/vocab.txt").write_text("\n".join(tokens) + "\n")
        text = bert_hub_text()
    config = {
        "embed_dim": DIM,
        "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "patch_size": 32},
        "text_cfg": text,
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    local = config | {"text_cfg": text | {"hf_model_name": str((folder / "text").absolute())}} if bert else config
    model_folder = folder / "building"
    model_folder.mkdir()
    (model_folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": local, "preprocess_cfg": {}}))
    torch.manual_seed(SEED)
    model = open_clip.create_model(f"local-dir:{model_folder}", load_weights=False, pretrained_text=False)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def write_all(folder: Path, names: list[str]) -> Path:
    """Write teachers, the corpora of some mixes, and the pipelines over them; return the pipelines' file."""
    for kind in ("bpe", "wordpiece"):
        write_teacher(folder / kind, bert=kind == "wordpiece")
    order = [preprocess for preprocess, count in zip(PREPROCESSINGS, SHARES, strict=True) for _ in range(count)]
    teachers = {
        f"teacher{number}": {
            "folder": str((folder / ("wordpiece" if number < BERTS else "bpe")).absolute()),
            "embed_dim": DIM,
            "preprocess": preprocess,
        }
        for number, preprocess in enumerate(order)
    }
    pipelines = {}
    for name in names:
        mix, place = MIXES[name], (folder / name).absolute()
        for corpus, rows in (("pairs", mix.rows), ("warm_up", WARM_UP_ROWS)):
            write_corpus(place / corpus, mix, rows=rows)
        tars = sorted(map(str, (place / "pairs").glob("*.tar")))
        files = {"warm_up": [f"{place}/warm_up/*.tar"]}
        size = len(tars) // mix.workers
        files |= {f"pairs{number}": tars[number * size :][:size] for number in range(mix.workers)}
        pipelines[name] = {
            "corpora": {corpus: {"files": found} for corpus, found in files.items()},
            "teachers": teachers,
            "store": {"path": "store", "corpus": "pairs0", "range_rows": mix.range_rows, "chunk_rows": 64},
            "extract": {"batch_size": mix.batch_size, "workers": 1, "threads_per_worker": 1},
        }
    file = folder / "pipelines.yaml"
    file.write_text(json.dumps(pipelines))  # JSON is YAML
    return file
