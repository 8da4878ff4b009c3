"""Writes teachers with random weights in the form in which their authors publish them, in any size.

Names of tensors, prefixes, buffers that are no longer used and what else lies in a file are the authors'. Functions
return the tensors by the authors' plain names, for a forward pass that is computed without the loaders.
"""

from __future__ import annotations

import json
import math

import numpy as np
import torch
import torchvision
from open_clip.tokenizer import SimpleTokenizer
from transformers import BertConfig, BertModel, CLIPTokenizer, SwinConfig, SwinModel

LOG_SCALE = 4.4454
WORDS = ("ct", "lung", "of", "the", "left", "nodule", "axial", "chest", "showing", "effusion", "liver", "scan")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Draw:
    """Random tensors of the scale that trained ones have."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def matrix(self, *shape, fan_in=None):
        scale = 1 / math.sqrt(fan_in or shape[-1])
        return torch.randn(*shape, generator=self.generator) * scale

    def bias(self, size):
        return torch.randn(size, generator=self.generator) * 0.1

    def gain(self, size):
        return 1 + torch.randn(size, generator=self.generator) * 0.1

    def fill(self, module):
        """Give a module's tensors new values, biases and running statistics among them."""
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                if "running_var" in name:
                    new = self.gain(tensor.shape).abs()
                elif tensor.dim() > 1:
                    new = self.matrix(*tensor.shape, fan_in=tensor[0].numel())
                else:
                    new = self.gain(tensor.shape) if name.endswith("weight") else self.bias(tensor.shape)
                tensor.copy_(new)
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def blocks(draw, prefix, *, width, layers):
    """Return the tensors of OpenAI's transformer."""
    state = {}
    for layer in range(layers):
        at = f"{prefix}resblocks.{layer}."
        state |= {
            f"{at}ln_1.weight": draw.gain(width),
            f"{at}ln_1.bias": draw.bias(width),
            f"{at}attn.in_proj_weight": draw.matrix(3 * width, width),
            f"{at}attn.in_proj_bias": draw.bias(3 * width),
            f"{at}attn.out_proj.weight": draw.matrix(width, width),
            f"{at}attn.out_proj.bias": draw.bias(width),
            f"{at}ln_2.weight": draw.gain(width),
            f"{at}ln_2.bias": draw.bias(width),
            f"{at}mlp.c_fc.weight": draw.matrix(4 * width, width),
            f"{at}mlp.c_fc.bias": draw.bias(4 * width),
            f"{at}mlp.c_proj.weight": draw.matrix(width, 4 * width),
            f"{at}mlp.c_proj.bias": draw.bias(width),
        }
    return state


def vit(draw, config):
    """Return the tensors of OpenAI's image transformer."""
    vision, width = config["vision_cfg"], config["vision_cfg"]["width"]
    patch, side = vision["patch_size"], vision["image_size"] // vision["patch_size"]
    return {
        "visual.class_embedding": draw.bias(width),
        "visual.positional_embedding": draw.bias((side * side + 1, width)),
        "visual.proj": draw.matrix(width, config["embed_dim"], fan_in=width),
        "visual.conv1.weight": draw.matrix(width, 3, patch, patch, fan_in=3 * patch * patch),
        **{f"visual.{ln}.{what}": getattr(draw, how)(width) for ln in ("ln_pre", "ln_post") for what, how in LN},
        **blocks(draw, "visual.transformer.", width=width, layers=vision["layers"]),
    }


LN = (("weight", "gain"), ("bias", "bias"))


def clip_text(draw, config):
    """Return the tensors of OpenAI's text transformer."""
    text, width = config["text_cfg"], config["text_cfg"]["width"]
    return {
        "positional_embedding": draw.bias((text["context_length"], width)),
        "text_projection": draw.matrix(width, config["embed_dim"], fan_in=width),
        "token_embedding.weight": draw.bias((text["vocab_size"], width)) * 5,
        "ln_final.weight": draw.gain(width),
        "ln_final.bias": draw.bias(width),
        **blocks(draw, "transformer.", width=width, layers=text["layers"]),
    }


def clip(config, seed):
    """Return the tensors of an OpenAI CLIP, by OpenAI's names."""
    draw = Draw(seed)
    return vit(draw, config) | clip_text(draw, config) | {"logit_scale": torch.tensor(LOG_SCALE)}


def bert(draw, sizes, *, pooler):
    """Return the tensors of a BERT."""
    return draw.fill(BertModel(BertConfig(**sizes), add_pooling_layer=pooler))


def position_ids():
    return torch.arange(512)[None]


def write_vocabulary(folder, size):
    """Write the files of a WordPiece tokenizer as PubMedBERT's repository has them."""
    folder.mkdir(parents=True, exist_ok=True)
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    tokens = [*SPECIAL, *characters, *(f"##{one}" for one in characters), *WORDS]
    assert len(tokens) <= size
    tokens += [f"[unused{number}]" for number in range(size - len(tokens))]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


def write_bert_folder(folder, sizes, *, tokenizer_config=True):
    """Write configuration and tokenizer of a BERT as its own repository has them."""
    write_vocabulary(folder, sizes["vocab_size"])
    (folder / "config.json").write_text(
        json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"], **sizes})
    )
    if tokenizer_config:
        settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_clip_tokenizer(folder):
    """Write the files of a transformers CLIP tokenizer from the vocabulary that open_clip brings along."""
    simple = SimpleTokenizer()
    merges = [pair for pair, _ in sorted(simple.bpe_ranks.items(), key=lambda item: item[1])]
    names = ("<start_of_text>", "<end_of_text>")
    renamed = dict(zip(names, ("<|startoftext|>", "<|endoftext|>"), strict=True))
    vocabulary = {renamed.get(token, token): number for token, number in simple.encoder.items()}
    CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(str(folder))


def write_training_checkpoint(path, state, *, prefix="module.", numpy_scalars=False):
    """Write a checkpoint as open_clip's training leaves it."""
    loss = np.float64(0.25) if numpy_scalars else 0.25
    content = {
        "epoch": 7,
        "name": "run",
        "state_dict": {f"{prefix}{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.98)}]},
        "loss": loss,
    }
    torch.save(content, path)


def to_transformers(state, layers):
    """Return an OpenAI CLIP's tensors by the names of transformers' CLIPModel, with its buffers of old."""
    renamed = {
        "logit_scale": state["logit_scale"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "vision_model.embeddings.position_ids": torch.arange(len(state["visual.positional_embedding"]))[None],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
    }
    norms = (("ln_final", "text_model.final_layer_norm"), ("visual.ln_pre", "vision_model.pre_layrnorm"))
    for old, new in (*norms, ("visual.ln_post", "vision_model.post_layernorm")):
        renamed |= {f"{new}.{what}": state[f"{old}.{what}"] for what in ("weight", "bias")}
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names["attn.out_proj"] = "self_attn.out_proj"
    for old, new in (("transformer", "text_model"), ("visual.transformer", "vision_model")):
        for layer in range(layers[new]):
            source, target = f"{old}.resblocks.{layer}.", f"{new}.encoder.layers.{layer}."
            for what in ("weight", "bias"):
                renamed |= {f"{target}{b}.{what}": state[f"{source}{a}.{what}"] for a, b in names.items()}
                parts = state[f"{source}attn.in_proj_{what}"].chunk(3)
                renamed |= {
                    f"{target}self_attn.{part}_proj.{what}": value.clone()
                    for part, value in zip("qkv", parts, strict=True)
                }
    return renamed


def clip_config(config):
    """Return the ``config.json`` of a transformers CLIPModel, as version 4.24 wrote it."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config["embed_dim"],
        "logit_scale_init_value": 2.6592,
        "transformers_version": "4.24.0",
        "text_config_dict": None,
        "vision_config_dict": None,
        "text_config": {
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_attention_heads": text["heads"],
            "num_hidden_layers": text["layers"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "hidden_act": "quick_gelu",
            "bos_token_id": 0,
            "eos_token_id": 2,
            "projection_dim": config["embed_dim"],
        },
        "vision_config": {
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_attention_heads": vision["width"] // 64,
            "num_hidden_layers": vision["layers"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "hidden_act": "quick_gelu",
            "projection_dim": config["embed_dim"],
        },
    }


OLD_SWIN = (
    (".attention.q_proj.", ".attention.self.query."),
    (".attention.k_proj.", ".attention.self.key."),
    (".attention.v_proj.", ".attention.self.value."),
    (".attention.o_proj.", ".attention.output.dense."),
    (".attention.relative_position_bias.relative_position_", ".attention.self.relative_position_"),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)


def resnet50(draw, embed):
    """Return the tensors of torchvision's ResNet-50 whose last layer is a matrix to a feature, as MedCLIP's is."""
    module = torchvision.models.resnet50(weights=None)
    module.fc = torch.nn.Linear(module.fc.in_features, embed, bias=False)
    state = draw.fill(module)
    # Residuals as small as trained ones: else the sixteenth block would hold numbers of millions.
    return {name: value * 0.3 if name.endswith("bn3.weight") else value for name, value in state.items()}


def swin(draw, sizes):
    """Return a Swin's tensors by the names of transformers 4, its computed indices among them."""
    module = SwinModel(SwinConfig(**sizes))
    state = draw.fill(module) | {name: buffer for name, buffer in module.named_buffers() if "index" in name}
    renamed = {}
    for name, value in state.items():
        new = name
        for present, old in OLD_SWIN:
            new = new.replace(present, old)
        renamed[new] = value
    return renamed
