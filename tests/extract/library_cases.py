"""Tiny models with random weights as each library itself saves them, and the library's own pipeline around them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import open_clip
import safetensors.torch
import sentencepiece
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, SiglipConfig, SiglipModel, SiglipTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from extract.teacher_files.entry import TeacherEntry
from store.images.decode import open_image
from tests.extract.teacher_inputs import CAPTIONS

TEXTS = [
    *CAPTIONS,
    "Axial MRI of the brain, T2-weighted",
    "UPPER CASE LUNG",
    "a",
    "3.5 cm mass (arrow); 12 %",
    "the right lower lobe",
    "Naïve café β-amyloid",
    "line one\nline two",
    "effusion effusion effusion",
    "histology of the liver tissue stained",
    "chest",
    "nodule, nodule; nodule.",
]
"""15 captions."""


@dataclass(kw_only=True)
class Case:
    """A model as its library wrote it.

    Attributes:
        image: the library's own features of files' bytes, (B, D).
        text: of captions; None for a model of images alone.
    """

    entry: TeacherEntry
    image: Callable[[list[bytes]], torch.Tensor]
    text: Callable[[list[str]], torch.Tensor] | None = None


def files() -> dict[str, bytes]:
    """Return 18 images of every mode and of odd sizes, encoded."""
    rng = np.random.default_rng(5)

    def drawn(width: int, height: int) -> Image.Image:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 7, 4), np.uint8), "RGBA")
        return coarse.resize((width, height), Image.Resampling.BILINEAR)

    images: dict[str, tuple[Image.Image, str]] = {}
    for width, height in ((61, 47), (40, 77)):
        image = drawn(width, height)
        for mode in ("RGB", "L", "RGBA", "LA", "1"):
            images[f"{mode} {width}x{height}"] = image.convert(mode), "PNG"
        images[f"P {width}x{height}"] = image.convert("RGB").quantize(32), "PNG"
        deep = np.asarray(image.convert("L"), np.uint16) * 257
        images[f"16 bit {width}x{height}"] = Image.fromarray(deep), "PNG"
    images |= {
        f"RGB {width}x{height}": (drawn(width, height).convert("RGB"), "PNG")
        for width, height in ((32, 32), (200, 33), (1, 1))
    }
    encoded = {}
    for name, (image, file_format) in images.items():
        buffer = io.BytesIO()
        image.save(buffer, file_format)
        encoded[name] = buffer.getvalue()
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    drawn(50, 39).convert("RGB").save(turned, "JPEG", quality=95, exif=exif)
    return encoded | {"EXIF turned": turned.getvalue()}


def seen(data: bytes) -> Image.Image:
    """Return an image as the libraries' readers give it: by Pillow alone, but for 16 bits, which have a policy here."""
    plain = Image.open(io.BytesIO(data))
    plain.load()
    return open_image(data).image if plain.mode.startswith("I") else plain


def _unit(features: torch.Tensor) -> torch.Tensor:
    return functional.normalize(features.float(), dim=-1)


@torch.no_grad()
def spread(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw all weights anew, so that no bias, scale or position is zero or one and each of them shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if name.startswith("logit_"):
            value.fill_(4.76 if name == "logit_scale" else -12.9)
        elif value.dim() > 1:
            value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
        else:
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return model.eval()


def _processor(folder, kind: str, settings: dict[str, Any]):
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **settings}))
    return AutoImageProcessor.from_pretrained(str(folder), backend="pil")


def _pixels(processor: Any, data: list[bytes]) -> torch.Tensor:
    rows = [processor(seen(one).convert("RGB"), return_tensors="np")["pixel_values"] for one in data]
    return torch.as_tensor(np.concatenate(rows)).float()


HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def _entry(folder, **more: Any) -> TeacherEntry:
    return TeacherEntry(folder=str(folder), **more)


def vision(
    folder, kind: str, processor: str, settings: dict[str, Any], feature: str | None = None, **config: Any
) -> Case:
    """Write an encoder of images of transformers."""
    model = spread(AutoModel.from_config(CONFIG_MAPPING[kind].from_dict({"model_type": kind, **config})))
    model.save_pretrained(folder)
    prepared = _processor(folder, processor, settings)
    library = AutoModel.from_pretrained(str(folder)).eval()

    def image(data: list[bytes]) -> torch.Tensor:
        output = library(pixel_values=_pixels(prepared, data))
        if feature is None:
            return _unit(output.pooler_output)
        tokens = output.last_hidden_state
        first = 1 + config.get("num_register_tokens", 0) if kind != "swin" else 0
        return _unit(tokens[:, 0] if feature == "cls" else tokens[:, first:].mean(1))

    return Case(entry=_entry(folder, transformers=str(folder), feature=feature), image=image)


VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
DINO = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 28, "width": 28},
    "do_center_crop": True,
    "resample": 3,
    **IMAGENET,
}
SQUARE = {"size": {"height": 32, "width": 32}, "resample": 2}


def dinov2(folder, **more: Any) -> Case:
    """DINOv2, as RAD-DINO is."""
    return vision(folder, "dinov2", "BitImageProcessor", DINO, image_size=42, patch_size=7, **VIT, **more)


def dinov2_registers(folder) -> Case:
    """DINOv2 with registers; the mean of its patch tokens."""
    kind, more = "dinov2_with_registers", {"num_register_tokens": 3}
    return vision(folder, kind, "BitImageProcessor", DINO, "mean", image_size=28, patch_size=7, **VIT, **more)


def dinov3(folder) -> Case:
    """DINOv3, whose processor resizes floats and has no form on Pillow: the same steps on Pillow's images."""
    case = vision(folder, "dinov3_vit", "ViTImageProcessor", SQUARE | IMAGENET, image_size=32, patch_size=8, **VIT)
    _stated(folder, image_processor_type="DINOv3ViTImageProcessorFast")
    return case


def _stated(folder, **settings: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def vit(folder, feature: str | None = None) -> Case:
    """ViT, with its pooler or without."""
    return vision(folder, "vit", "ViTImageProcessor", SQUARE | HALF, feature, image_size=32, patch_size=8, **VIT)


def swin(folder, feature: str | None = None) -> Case:
    """Swin, which has no class token."""
    sizes = {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4, "patch_size": 4}
    return vision(folder, "swin", "ViTImageProcessor", SQUARE | IMAGENET, feature, image_size=32, **sizes)


WORDS = sorted({word for text in TEXTS for word in text.lower().replace(",", " ").split()})


def siglip(
    folder, *, gemma: bool, side: str = "right", tower: dict[str, Any] | None = None, px: int = 32, patch: int = 8
) -> Case:
    """SigLIP with a sentencepiece vocabulary, or SigLIP2 of a fixed size with one of Gemma's kind."""
    tokenizer, tower = _write_gemma(folder, side=side) if gemma else _write_pieces(folder), tower or VIT
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    text |= {"projection_size": tower["hidden_size"], "pad_token_id": tokenizer.pad_token_id}
    text |= {"bos_token_id": None, "eos_token_id": 1}
    config = SiglipConfig(vision_config={**tower, "image_size": px, "patch_size": patch}, text_config=text)
    spread(SiglipModel(config)).save_pretrained(folder)
    settings = {"size": {"height": px, "width": px}, "resample": 2 if gemma else 3, **HALF}
    prepared = _processor(folder, "SiglipImageProcessor", settings)
    library = SiglipModel.from_pretrained(str(folder)).eval()
    own = AutoTokenizer.from_pretrained(str(folder))

    def text_features(captions: list[str]) -> torch.Tensor:
        lowered = [caption.lower() for caption in captions] if gemma else captions
        ids = own(lowered, padding="max_length", truncation=True, max_length=16, return_tensors="pt")["input_ids"]
        output = library.get_text_features(input_ids=ids)
        return _unit(output if isinstance(output, torch.Tensor) else output.pooler_output)

    def image(data: list[bytes]) -> torch.Tensor:
        output = library.get_image_features(pixel_values=_pixels(prepared, data))
        return _unit(output if isinstance(output, torch.Tensor) else output.pooler_output)

    return Case(entry=_entry(folder, transformers=str(folder)), image=image, text=text_features)


def _write_pieces(folder):
    prefix = folder / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in TEXTS] * 20),
        model_prefix=str(prefix),
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        minloglevel=2,
    )
    tokenizer = SiglipTokenizer(f"{prefix}.model", model_max_length=16)
    tokenizer.save_pretrained(folder)
    return tokenizer


UNKNOWN = "<unk>"


def _write_gemma(folder, pad: str = "<pad>", side: str = "right"):
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", "<bos>", UNKNOWN, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True, "pad_token": pad}
    settings |= {"padding_side": side}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<eos>", "unk_token": UNKNOWN}))
    return AutoTokenizer.from_pretrained(str(folder))


def timm_model(
    folder, name: str, args: dict[str, Any], pretrained: dict[str, Any], stated: dict[str, Any] | None = None
) -> Case:
    """Write a model of timm as its repositories have it; ``stated`` are arguments that only the entry says."""
    model = spread(timm.create_model(name, num_classes=7, **args, **(stated or {})))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": name,
        "num_classes": 7,
        "num_features": model.num_features,
        "model_args": args,
        "pretrained_cfg": {"classifier": model.pretrained_cfg["classifier"], "num_classes": 7, **pretrained},
    }
    (folder / "config.json").write_text(json.dumps(config))

    library = timm.create_model(f"local-dir:{folder}", pretrained=True, **(stated or {})).eval()
    transform = create_transform(**resolve_model_data_config(library), is_training=False)

    def image(data: list[bytes]) -> torch.Tensor:
        pixels = torch.stack([transform(to_rgb_plain(one)) for one in data])
        return _unit(library.forward_head(library.forward_features(pixels), pre_logits=True))

    return Case(entry=_entry(folder, timm=str(folder), config=stated), image=image)


def to_rgb_plain(data: bytes) -> Image.Image:
    """Return an image as timm's readers give it."""
    return seen(data).convert("RGB")


def timm_vit(folder) -> Case:
    """A ViT as UNI is, whose layer scale and size only its page states."""
    args = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "img_size": 32}
    pretrained = {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bilinear", **_normal(IMAGENET)}
    return timm_model(folder, "vit_tiny_patch16_224", args, pretrained, {"init_values": 1e-5, "dynamic_img_size": True})


def timm_resnet(folder) -> Case:
    """A ResNet with a crop smaller than its resize, of an uneven margin."""
    args = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}
    return timm_model(folder, "resnet18", args, {"input_size": [3, 32, 32], "crop_pct": 0.9})


def timm_squash(folder) -> Case:
    """A model whose image is squashed before the crop, and whose features are an average."""
    args = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4, "img_size": 32, "global_pool": "avg"}
    pretrained = {"input_size": [3, 32, 32], "crop_pct": 0.9, "crop_mode": "squash", "fixed_input_size": True}
    return timm_model(folder, "vit_tiny_patch16_224", args, pretrained | _normal(HALF))


def _normal(settings: dict[str, Any]) -> dict[str, Any]:
    return {"mean": settings["image_mean"], "std": settings["image_std"]}


def open_clip_siglip(folder, pad: str = "<pad>") -> Case:
    """A SigLIP of open_clip: squashed images, a sigmoid's bias, a sentencepiece-like tokenizer padded to its length."""
    tokenizer = _write_gemma(folder, pad)
    text = {"context_length": 16, "vocab_size": len(tokenizer), "hf_tokenizer_name": str(folder), "width": 48}
    text |= {"tokenizer_kwargs": {"clean": "canonicalize"}, "heads": 4, "layers": 2, "no_causal_mask": True}
    text |= {"proj_bias": True, "pool_type": "last"}
    vision_cfg = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 12}
    model_cfg = {
        "embed_dim": 48,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": vision_cfg,
        "text_cfg": text,
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    address = f"local-dir:{folder}"
    drawn = spread(open_clip.create_model(address, load_weights=False))
    safetensors.torch.save_file(drawn.state_dict(), folder / "open_clip_model.safetensors")
    library, _, transform = open_clip.create_model_and_transforms(address)
    library.eval()
    own = open_clip.get_tokenizer(address)

    def image(data: list[bytes]) -> torch.Tensor:
        return _unit(library.encode_image(torch.stack([transform(seen(one)) for one in data])))

    return Case(
        entry=_entry(folder, open_clip=str(folder)),
        image=image,
        text=lambda texts: _unit(library.encode_text(own(texts))),
    )


CASES: dict[str, Callable[[Any], Case]] = {
    "open_clip SigLIP": open_clip_siglip,
    "transformers SigLIP": lambda folder: siglip(folder, gemma=False),
    "transformers SigLIP2": lambda folder: siglip(folder, gemma=True),
    "transformers SigLIP2, padded on the left": lambda folder: siglip(folder, gemma=True, side="left"),
    "transformers DINOv2": dinov2,
    "transformers DINOv2 with registers, mean": dinov2_registers,
    "transformers DINOv3": dinov3,
    "transformers ViT": vit,
    "transformers ViT, cls": lambda folder: vit(folder, "cls"),
    "transformers Swin": swin,
    "transformers Swin, mean": lambda folder: swin(folder, "mean"),
    "timm ViT": timm_vit,
    "timm ResNet": timm_resnet,
    "timm squash": timm_squash,
}
