"""The nine teachers with random weights: their published files, their entry, and their authors' forward pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, BertTokenizer

from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.text_tower import CLINICALBERT, PUBMEDBERT

from . import authors_files as files
from . import teacher_references as reference
from .teacher_inputs import GREY, OPENAI

TINY_BERT = {
    **PUBMEDBERT,
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@dataclass(kw_only=True, frozen=True)
class Case:
    """A teacher on disk.

    Attributes:
        entry: loads it.
        image: from normalised pixels (B, 3, H, W) to features, as the authors do.
        text: from captions to features, as the authors do.
        normal: mean and std.
    """

    entry: TeacherEntry
    image: Callable[[Tensor], Tensor]
    text: Callable[[list[str]], Tensor]
    normal: tuple[tuple[float, ...], tuple[float, ...]] = OPENAI


def clip_sizes(full, *, patch=32, wide=False):
    """Return an open_clip configuration of OpenAI's kind."""
    if full:
        vision = {"image_size": 224, "layers": 24 if wide else 12, "width": 1024 if wide else 768, "patch_size": patch}
        text = {"context_length": 77, "vocab_size": 49408, "layers": 12}
        text |= {"width": 768, "heads": 12} if wide else {"width": 512, "heads": 8}
        return {"embed_dim": 768 if wide else 512, "vision_cfg": vision, "text_cfg": text}
    vision = {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}


def open_clip_case(folder, state, sizes, *, act, **entry):
    tokenizer = SimpleTokenizer(context_length=77)
    return Case(
        entry=TeacherEntry(folder=str(folder), embed_dim=sizes["embed_dim"], **entry),
        image=partial(reference.vit_image, state, sizes, act=act),
        text=lambda captions: reference.clip_text(state, sizes, tokenizer(captions), act=act),
    )


def bmca(folder, *, full=False, seed=1):
    config = clip_sizes(full, patch=14, wide=True)
    state = files.clip(config, seed)
    files.write_training_checkpoint(folder / "BMC_CLIP_CF.pt", state)
    model = {"architecture": "ViT-L-14"} if full else {"config": config}
    options = {"family": "open_clip_file", "checkpoint": "BMC_CLIP_CF.pt", **model}
    return open_clip_case(folder, state, config, act=functional.gelu, **options)


def open_clip_hub(folder, *, full=False, seed=4, patch=32, wide=False, act=functional.gelu):
    """QuiltNet's and GenMedClip's form: a configuration without quick_gelu, and a state dict."""
    config = clip_sizes(full, patch=patch, wide=wide)
    state = files.clip(config, seed)
    preprocess = {"mean": OPENAI[0], "std": OPENAI[1]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    return open_clip_case(folder, state, config, act=act)


def bert_hub_text(name="microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"):
    return {
        "hf_model_name": name,
        "hf_tokenizer_name": name,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    }


def bert_mlp_text(folder, text, sizes, projection):
    tokenizer = BertTokenizer.from_pretrained(str(folder))

    def run(captions):
        cleaned = [open_clip.tokenizer.whitespace_clean(open_clip.tokenizer.basic_clean(one)) for one in captions]
        encoded = tokenizer(cleaned, padding="max_length", truncation=True, max_length=256, return_tensors="pt")
        return reference.bert_mlp(text, sizes, projection, encoded["input_ids"])

    return run


def biomedclip(folder, *, full=False, seed=2, old_names=False):
    sizes, embed, trunk_name = (
        (PUBMEDBERT, 512, "vit_base_patch16_224") if full else (TINY_BERT, 24, "vit_tiny_patch16_224")
    )
    draw = files.Draw(seed)
    trunk = draw.fill(reference.timm.create_model(trunk_name, num_classes=0))
    width = trunk["norm.weight"].numel()
    text, head = files.bert(draw, sizes, pooler=False), draw.matrix(embed, width)
    inner = (sizes["hidden_size"] + embed) // 2
    projection = draw.matrix(inner, sizes["hidden_size"]), draw.matrix(embed, inner)
    vision_cfg = {
        "timm_model_name": trunk_name,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    }
    text_cfg = bert_hub_text()
    if old_names:
        text_cfg = {{"hf_proj_type": "proj", "hf_pooler_type": "pooler_type"}.get(k, k): v for k, v in text_cfg.items()}
    config = {"embed_dim": embed, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    preprocess = {"mean": OPENAI[0], "std": OPENAI[1]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    state = {f"visual.trunk.{name}": value for name, value in trunk.items()} | {"visual.head.proj.weight": head}
    state |= {f"text.transformer.{name}": value for name, value in text.items()}
    state |= {"text.proj.0.weight": projection[0], "text.proj.2.weight": projection[1]}
    stale = {"text.transformer.embeddings.position_ids": files.position_ids()}
    torch.save(state | stale | {"logit_scale": torch.tensor(files.LOG_SCALE)}, folder / "open_clip_pytorch_model.bin")
    files.write_bert_folder(folder, sizes)
    (folder / "config.json").unlink()
    if not full:
        files.write_bert_folder(folder / "text", sizes)
    return Case(
        entry=TeacherEntry(folder=str(folder), embed_dim=embed),
        image=partial(reference.timm_image, trunk_name, trunk, head),
        text=bert_mlp_text(folder, text, sizes, projection),
    )


def unimedclip(folder, *, full=False, seed=3):
    sizes, draw = (PUBMEDBERT if full else TINY_BERT), files.Draw(seed)
    base = clip_sizes(full, patch=16)
    embed = base["embed_dim"]
    vision, text = files.vit(draw, base), files.bert(draw, sizes, pooler=False)
    inner = (sizes["hidden_size"] + embed) // 2
    projection = draw.matrix(inner, sizes["hidden_size"]), draw.matrix(embed, inner)
    state = vision | {f"text_encoder.transformer.{name}": value for name, value in text.items()}
    state |= {"text_encoder.proj.0.weight": projection[0], "text_encoder.proj.2.weight": projection[1]}
    state |= {"text_encoder.transformer.embeddings.position_ids": files.position_ids()}
    state |= {"logit_scale": torch.tensor(files.LOG_SCALE)}
    files.write_training_checkpoint(folder / "unimed-clip-vit-b16.pt", state, numpy_scalars=True)
    files.write_bert_folder(folder / "text", sizes)
    config = {**base, "quick_gelu": True, "text_cfg": bert_hub_text()}
    options = {"family": "open_clip_file", "checkpoint": "unimed-clip-vit-b16.pt", "config": config}
    return Case(
        entry=TeacherEntry(folder=str(folder), embed_dim=embed, **options),
        image=partial(reference.vit_image, vision, base, act=reference.quick_gelu),
        text=bert_mlp_text(folder / "text", text, sizes, projection),
    )


def transformers_clip(folder, *, full=False, seed=6):
    """PLIP's and PubMedCLIP's form."""
    config = clip_sizes(full)
    state = files.clip(config, seed)
    layers = {"text_model": config["text_cfg"]["layers"], "vision_model": config["vision_cfg"]["layers"]}
    torch.save(files.to_transformers(state, layers), folder / "pytorch_model.bin")
    files.write_clip_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(files.clip_config(config)))
    tokenizer = AutoTokenizer.from_pretrained(str(folder))

    def text(captions):
        encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        return reference.clip_text(state, config, encoded["input_ids"], act=reference.quick_gelu)

    return Case(
        entry=TeacherEntry(folder=str(folder), transformers=str(folder), embed_dim=config["embed_dim"]),
        image=partial(reference.vit_image, state, config, act=reference.quick_gelu),
        text=text,
    )


def pubmedclip_authors(folder, *, full=False, seed=7):
    """PubMedCLIP's own file: OpenAI's names, half precision, numbers among the tensors."""
    config = clip_sizes(full)
    state = {name: value.half().float() for name, value in files.clip(config, seed).items()}
    settings = {
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    halves = {name: value.half() for name, value in state.items()}
    content = {"best_epoch": 3, "state_dict": halves | settings, "optimizer_state_dict": {}, "best_loss": 1.5}
    torch.save(content, folder / "PubMedCLIP_ViT32.pth")
    model = {"architecture": "ViT-B-32-quickgelu"} if full else {"config": {**config, "quick_gelu": True}}
    options = {"family": "open_clip_file", "checkpoint": "PubMedCLIP_ViT32.pth", **model}
    return open_clip_case(folder, state, config, act=reference.quick_gelu, **options)


def pmcclip(
    folder, *, full=False, seed=8, heads=8, text_feature="pooler", batch_norm=None, text_mask=None, whole=False
):
    sizes, draw = (PUBMEDBERT if full else TINY_BERT), files.Draw(seed)
    embed, layers, width, size = (768, [3, 4, 6, 3], 64, 224) if full else (16, [2, 1, 1, 1], 8, 64)
    module = ModifiedResNet(layers=layers, output_dim=embed, heads=heads, image_size=size, width=width)
    vision, text = draw.fill(module), files.bert(draw, sizes, pooler=True)
    # As sharp as a trained pooling, else the number of heads would hardly show.
    for name in ("q_proj.weight", "k_proj.weight", "v_proj.weight", "positional_embedding"):
        vision[f"attnpool.{name}"] *= 4
    projection = draw.matrix(sizes["hidden_size"], embed, fan_in=sizes["hidden_size"])
    stale = {"embeddings.position_ids": files.position_ids()}
    if whole:
        state = {f"visual.{name}": value for name, value in vision.items()} | {"text_projection": projection}
        state |= {f"text_encoder.{name}": value for name, value in (text | stale).items()}
        state |= {
            "logit_scale": torch.tensor(files.LOG_SCALE),
            "fusion_module.x": torch.ones(1),
            "ln_final.bias": torch.ones(2),
        }
        files.write_training_checkpoint(folder / "checkpoint.pt", state)
    else:
        torch.save(vision, folder / "image_encoder(resnet50).pth")
        torch.save(text | stale, folder / "text_encoder.pth")
        torch.save(torch.nn.Parameter(projection), folder / "text_projection_layer.pth")
    files.write_bert_folder(folder / "text", sizes)
    tokenizer = BertTokenizer.from_pretrained(str(folder / "text"))

    def run_text(captions):
        encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        mask = encoded["attention_mask"] if text_mask else None
        output = reference.run_bert(text, sizes, encoded["input_ids"], mask, pooler=True)
        return (output.pooler_output if text_feature == "pooler" else output.last_hidden_state[:, 0]) @ projection

    def run_image(pixels_BCHW):
        # One image in a batch, as the feature would depend on the others in it.
        training = batch_norm == "per_image"
        rows = [
            reference.modified_resnet(vision, row[None], layers=layers, heads=heads, training=training)
            for row in pixels_BCHW
        ]
        return torch.cat(rows)

    options = {"checkpoint": "checkpoint.pt"} if whole else {}
    options |= {} if full else {"config": {"layers": layers, "width": width, "image_size": size}}
    options |= {"batch_norm": batch_norm, "text_mask": text_mask}
    return Case(
        entry=TeacherEntry(
            folder=str(folder), embed_dim=embed, family="pmc_clip", heads=heads, text_feature=text_feature, **options
        ),
        image=run_image,
        text=run_text,
    )


def medclip(folder, *, full=False, seed=9, tower="swin"):
    sizes = CLINICALBERT if full else TINY_BERT
    shape = {} if full else {"image_size": 64}
    if tower == "swin" and not full:
        shape |= {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    embed, draw = (512 if full else 16), files.Draw(seed)
    vision = files.swin(draw, shape) if tower == "swin" else files.resnet50(draw, embed)
    text = files.bert(draw, sizes, pooler=True)
    width = vision["layernorm.weight"].numel() if tower == "swin" else 1
    heads = draw.matrix(embed, width), draw.matrix(embed, sizes["hidden_size"])
    state = {f"vision_model.model.{name}": value for name, value in vision.items()}
    state |= {f"text_model.model.{name}": value for name, value in text.items()}
    state |= {"text_model.model.embeddings.position_ids": files.position_ids(), "logit_scale": torch.tensor(2.6593)}
    state |= {"text_model.projection_head.weight": heads[1]}
    # The ResNet's last matrix is in its fc.
    state |= {"vision_model.projection_head.weight": heads[0]} if tower == "swin" else {}
    torch.save(state, folder / "pytorch_model.bin")
    files.write_bert_folder(folder / "text", sizes, tokenizer_config=False)
    tokenizer = BertTokenizer.from_pretrained(str(folder / "text"))

    def run_text(captions):
        one_by_one = [tokenizer(one.lower(), truncation=True, max_length=77)["input_ids"] for one in captions]
        rows = [reference.medclip_text(text, sizes, heads[1], torch.tensor([ids])) for ids in one_by_one]
        return torch.cat(rows)

    swin_image = partial(reference.swin_image, vision, shape, heads[0])
    options = {"config": shape or None, "vision": tower}
    return Case(
        entry=TeacherEntry(folder=str(folder), embed_dim=embed, family="medclip", **options),
        image=swin_image if tower == "swin" else partial(reference.resnet50, vision),
        text=run_text,
        normal=GREY,
    )


CASES = {
    "bmca": bmca,
    "biomedclip": biomedclip,
    "unimedclip": unimedclip,
    "quiltnet": open_clip_hub,
    "genmedclip": partial(open_clip_hub, seed=5, patch=16),
    "plip": transformers_clip,
    "pubmedclip": partial(transformers_clip, seed=7),
    "pmcclip": pmcclip,
    "medclip": medclip,
}
"""One function per teacher: writes it into an empty folder and returns its case."""


def written(name, folder: Path, **options) -> Case:
    """Write a teacher into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return CASES[name](folder, **options)
