"""Configurations of published models in full size, for a profile of teachers whose files are not on this machine."""

from __future__ import annotations

from typing import Any

PUBMEDBERT_NAME = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
VIT_B16_PUBMEDBERT = {
    "embed_dim": 512,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": {
        "hf_model_name": PUBMEDBERT_NAME,
        "hf_tokenizer_name": PUBMEDBERT_NAME,
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 256,
    },
}
"""BiomedCLIP's ``open_clip_config.json``."""

KNOWN_MODELS: dict[str, str | dict[str, Any]] = {
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": VIT_B16_PUBMEDBERT,
    "wisdomik/QuiltNet-B-32": "ViT-B-32",
    "wisdomik/QuiltNet-B-16": "ViT-B-16",
    "wisdomik/QuiltNet-B-16-PMB": VIT_B16_PUBMEDBERT,
    # Its configuration was not read: patches of 16 or 32 pixels. This is the slower of the two.
    "wisdomik/GenMedClip": "ViT-B-16",
    "ryanyip7777/pmc_vit_l_14": "ViT-L-14",
}
"""The model of each repository's ``open_clip_config.json``: an architecture of open_clip, or a ``model_cfg``."""


def _tower(width: int, layers: int, heads: int, hidden: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**sizes, "intermediate_size": hidden, **more}


def _siglip(sizes: tuple[int, int, int, int], *, image: int, patch: int, vocabulary: int) -> dict[str, Any]:
    text = _tower(*sizes, vocab_size=vocabulary, max_position_embeddings=64, projection_size=sizes[0])
    text |= {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    return {
        "model_type": "siglip",
        "text_config": text,
        "vision_config": _tower(*sizes, image_size=image, patch_size=patch),
    }


def _dinov2(width: int, layers: int, heads: int, *, image: int, patch: int) -> dict[str, Any]:
    tower = _tower(width, layers, heads, 4 * width, image_size=image, patch_size=patch)
    return {"model_type": "dinov2", **tower}


OPENAI_VIT_B32 = {"model_type": "clip", "projection_dim": 512}
"""transformers builds OpenAI's ViT-B/32 by default."""

OPENAI_VIT_L14 = {
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": _tower(768, 12, 12, 3072, projection_dim=768),
    "vision_config": _tower(1024, 24, 16, 4096, image_size=224, patch_size=14, projection_dim=768),
}

BASE, LARGE, SO400M = (768, 12, 12, 3072), (1024, 24, 16, 4096), (1152, 27, 16, 4304)

KNOWN_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vinid/plip": OPENAI_VIT_B32,
    "flaviagiammarino/pubmed-clip-vit-base-patch32": OPENAI_VIT_B32,
    "chanwkim/monet": OPENAI_VIT_L14,
    "google/medsiglip-448": _siglip(SO400M, image=448, patch=14, vocabulary=32000),
    "google/siglip2-base-patch16-224": _siglip(BASE, image=224, patch=16, vocabulary=256000),
    "microsoft/rad-dino": _dinov2(*BASE[:3], image=518, patch=14),
    "facebook/dinov2-large": _dinov2(*LARGE[:3], image=518, patch=14),
    "owkin/phikon-v2": _dinov2(*LARGE[:3], image=224, patch=16),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": {
        "model_type": "dinov3_vit",
        **_tower(*BASE, image_size=224, patch_size=16, num_register_tokens=4),
    },
}
"""The ``config.json`` of each repository, by its model card; what changes neither speed nor memory is left out."""

CROPS: dict[str, tuple[int, int]] = {
    "microsoft/rad-dino": (518, 518),
    "facebook/dinov2-large": (256, 224),
    "owkin/phikon-v2": (224, 224),
}
"""Short side and crop of the encoders of images whose processor crops."""

KNOWN_TIMM: dict[str, dict[str, Any]] = {
    "MahmoodLab/UNI": {
        "architecture": "vit_large_patch16_224",
        "num_features": 1024,
        "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 1.0, "interpolation": "bilinear"},
    },
}
"""The ``config.json`` of each repository of timm's kind."""


def processor_of(repo: str) -> dict[str, Any]:
    """Return a ``preprocessor_config.json`` with the sizes of a repository's model."""
    if repo in CROPS:
        short, crop = CROPS[repo]
        return {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": short}, "crop_size": crop}
    config = KNOWN_TRANSFORMERS[repo]
    side = config.get("vision_config", config).get("image_size", 224)
    kind = {"siglip": "SiglipImageProcessor", "clip": "CLIPImageProcessor"}.get(
        config["model_type"], "ViTImageProcessor"
    )
    return {"image_processor_type": kind, "size": side, "crop_size": side}
