"""The authors' forward passes, written anew over plain tensors: what the loaders' features are compared with."""

from __future__ import annotations

import timm
import torch
from torch.nn import functional
from transformers import BertConfig, BertModel, SwinConfig, SwinModel


def quick_gelu(values):
    return values * torch.sigmoid(1.702 * values)


def transformer(state, prefix, hidden_BLW, *, layers, heads, act, causal=False):
    """Run OpenAI's transformer."""
    B, L, W = hidden_BLW.shape
    for layer in range(layers):
        at = f"{prefix}resblocks.{layer}."
        normal = functional.layer_norm(hidden_BLW, (W,), state[f"{at}ln_1.weight"], state[f"{at}ln_1.bias"])
        qkv = functional.linear(normal, state[f"{at}attn.in_proj_weight"], state[f"{at}attn.in_proj_bias"])
        q, k, v = (part.view(B, L, heads, W // heads).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) / (W // heads) ** 0.5
        if causal:
            scores = scores + torch.full((L, L), float("-inf")).triu(1)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, L, W)
        hidden_BLW = hidden_BLW + functional.linear(
            mixed, state[f"{at}attn.out_proj.weight"], state[f"{at}attn.out_proj.bias"]
        )
        normal = functional.layer_norm(hidden_BLW, (W,), state[f"{at}ln_2.weight"], state[f"{at}ln_2.bias"])
        inner = act(functional.linear(normal, state[f"{at}mlp.c_fc.weight"], state[f"{at}mlp.c_fc.bias"]))
        hidden_BLW = hidden_BLW + functional.linear(
            inner, state[f"{at}mlp.c_proj.weight"], state[f"{at}mlp.c_proj.bias"]
        )
    return hidden_BLW


def vit_image(state, config, pixels_BCHW, *, act):
    """Run OpenAI's image transformer."""
    vision, width = config["vision_cfg"], config["vision_cfg"]["width"]
    patches = functional.conv2d(pixels_BCHW, state["visual.conv1.weight"], stride=vision["patch_size"])
    tokens = patches.flatten(2).transpose(1, 2)
    first = state["visual.class_embedding"].expand(len(tokens), 1, width)
    hidden = torch.cat([first, tokens], dim=1) + state["visual.positional_embedding"]
    hidden = functional.layer_norm(hidden, (width,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    hidden = transformer(state, "visual.transformer.", hidden, layers=vision["layers"], heads=width // 64, act=act)
    pooled = functional.layer_norm(hidden[:, 0], (width,), state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    return pooled @ state["visual.proj"]


def clip_text(state, config, ids_BL, *, act):
    """Run OpenAI's text transformer; the feature is that of the token with the highest id, the first end token."""
    text = config["text_cfg"]
    hidden = state["token_embedding.weight"][ids_BL] + state["positional_embedding"][: ids_BL.shape[1]]
    hidden = transformer(
        state, "transformer.", hidden, layers=text["layers"], heads=text["heads"], act=act, causal=True
    )
    hidden = functional.layer_norm(hidden, (text["width"],), state["ln_final.weight"], state["ln_final.bias"])
    return hidden[torch.arange(len(ids_BL)), ids_BL.argmax(dim=-1)] @ state["text_projection"]


def run_bert(state, sizes, ids_BL, mask_BL=None, *, pooler=False):
    """Run a BERT and return its output with all hidden states."""
    model = BertModel(BertConfig(**sizes), add_pooling_layer=pooler)
    model.load_state_dict(state, strict=True)
    return model.eval()(input_ids=ids_BL, attention_mask=mask_BL, output_hidden_states=True)


def bert_mlp(text, sizes, projection, ids_BL):
    """Return the CLS token through two matrices, as BiomedCLIP and UniMed-CLIP do."""
    hidden = run_bert(text, sizes, ids_BL, (ids_BL != 0).long()).last_hidden_state[:, 0]
    return functional.gelu(hidden @ projection[0].T) @ projection[1].T


def timm_image(name, trunk, projection, pixels_BCHW):
    """Return a timm transformer's CLS token through one matrix."""
    model = timm.create_model(name, num_classes=0)
    model.load_state_dict(trunk, strict=True)
    return model.eval().forward_features(pixels_BCHW)[:, 0] @ projection.T


def modified_resnet(state, pixels_BCHW, *, layers, heads, training=False):
    """Run CLIP's ModifiedResNet: three convolutions, pooled strides, attention pooling (OpenAI: clip/model.py).

    Args:
        training: batch normalisation by the batch.
    """

    def norm(values, at):
        names = ("running_mean", "running_var", "weight", "bias")
        stored = (state[f"{at}.{name}"].clone() for name in names)  # training mode would change them
        return functional.batch_norm(values, *stored, training=training)

    def conv(values, at, **options):
        return functional.conv2d(values, state[f"{at}.weight"], **options)

    hidden = pixels_BCHW
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        hidden = norm(conv(hidden, f"conv{number}", stride=stride, padding=1), f"bn{number}").relu()
    hidden = functional.avg_pool2d(hidden, 2)
    for stage, count in enumerate(layers, start=1):
        for block in range(count):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = norm(conv(hidden, f"{at}.conv1"), f"{at}.bn1").relu()
            inner = norm(conv(inner, f"{at}.conv2", padding=1), f"{at}.bn2").relu()
            inner = functional.avg_pool2d(inner, stride) if stride > 1 else inner
            inner = norm(conv(inner, f"{at}.conv3"), f"{at}.bn3")
            if block == 0:
                hidden = functional.avg_pool2d(hidden, stride) if stride > 1 else hidden
                hidden = norm(conv(hidden, f"{at}.downsample.0"), f"{at}.downsample.1")
            hidden = (hidden + inner).relu()
    return _attention_pool(state, hidden, heads)


def _attention_pool(state, hidden_BCHW, heads):
    tokens_LBC = hidden_BCHW.flatten(2).permute(2, 0, 1)
    tokens_LBC = torch.cat([tokens_LBC.mean(dim=0, keepdim=True), tokens_LBC])
    tokens_LBC = tokens_LBC + state["attnpool.positional_embedding"][:, None]
    L, B, C = tokens_LBC.shape

    def project(values, name):
        return functional.linear(values, state[f"attnpool.{name}_proj.weight"], state[f"attnpool.{name}_proj.bias"])

    q, k, v = (project(tokens_LBC, name).view(L, B, heads, C // heads).permute(1, 2, 0, 3) for name in "qkv")
    mixed = (q[:, :, :1] @ k.transpose(-1, -2) / (C // heads) ** 0.5).softmax(-1) @ v
    return project(mixed.permute(0, 2, 1, 3).reshape(B, C), "c")


def swin_image(state, sizes, projection, pixels_BCHW):
    """Run a Swin whose tensors have the names of transformers 4, which transformers itself converts."""
    tensors = {name: value for name, value in state.items() if "index" not in name}
    model = SwinModel.from_pretrained(None, config=SwinConfig(**sizes), state_dict=tensors)
    return model.eval()(pixels_BCHW).pooler_output @ projection.T


def resnet50(state, pixels_BCHW):
    """Run He et al.'s ResNet-50 with strides in the 3 x 3 convolutions, and its last matrix."""

    def norm(values, at):
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(values, *(state[f"{at}.{name}"] for name in names))

    def conv(values, at, **options):
        return functional.conv2d(values, state[f"{at}.weight"], **options)

    hidden = norm(conv(pixels_BCHW, "conv1", stride=2, padding=3), "bn1").relu()
    hidden = functional.max_pool2d(hidden, 3, stride=2, padding=1)
    for stage, count in enumerate((3, 4, 6, 3), start=1):
        for block in range(count):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = norm(conv(hidden, f"{at}.conv1"), f"{at}.bn1").relu()
            inner = norm(conv(inner, f"{at}.conv2", stride=stride, padding=1), f"{at}.bn2").relu()
            inner = norm(conv(inner, f"{at}.conv3"), f"{at}.bn3")
            if block == 0:
                hidden = norm(conv(hidden, f"{at}.downsample.0", stride=stride), f"{at}.downsample.1")
            hidden = (hidden + inner).relu()
    return hidden.mean(dim=(2, 3)) @ state["fc.weight"].T


def medclip_text(state, sizes, projection, ids_BL):
    """Return the mean over the first, second and last layer and over all tokens."""
    hidden = run_bert(state, sizes, ids_BL, pooler=True).hidden_states
    return torch.stack([hidden[1], hidden[2], hidden[-1]]).permute(1, 0, 2, 3).mean(2).mean(1) @ projection.T
