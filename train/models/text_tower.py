"""The text towers of open_clip on captions without their padding.

open_clip runs CLIP's own tower at its whole context only, and transformers asks the device what a BERT's mask holds, so
that the host waits. Where a cut changes no embedding, both are computed here, with the modules of the tower.

Axes: B captions, L columns of tokens, E student width.
"""

from __future__ import annotations

from typing import Any

from open_clip import CLIP
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder, MeanPooler
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn

from store.texts.tokens import CaptionTokenizer


def is_exact_without_padding(model: Any, tokenizer: CaptionTokenizer) -> bool:
    """Return whether a caption's embedding stays the same when columns of padding on its right are cut.

    It does in a tower of transformers that masks the padding and pools at the first token or over the caption, and in
    a causal tower that pools at a token of the caption. It does not where a token is appended behind the padding, as in
    CoCa, where the last column is pooled, or where padding is attended to.

    Args:
        model: of open_clip.
        tokenizer: of the model.
    """
    tower = _tower(model)
    if isinstance(tower, HFTextEncoder):
        pools = isinstance(tower.pooler, (ClsPooler, ClsLastHiddenStatePooler, MeanPooler))
        return pools and not tower.output_tokens and bool(tower.config.pad_token_id == tokenizer.pad)
    causal = isinstance(tower, CLIP | TextTransformer) and getattr(tower, "attn_mask", None) is not None
    if not causal or getattr(tower, "cls_emb", None) is not None or getattr(tower, "output_tokens", False):
        return False
    special, (pool, eos) = (*tokenizer.prefix, *tokenizer.suffix), _pooling(tower)
    if pool == "eos":
        return eos in special
    return pool == "first" or (pool == "argmax" and max(special, default=-1) > tokenizer.pad)


def encode_text(model: Any, ids_BL: Tensor) -> Tensor:
    """Return the embeddings of captions, (B, E), not normalised, as the model's own ``encode_text`` does.

    Args:
        model: for which `is_exact_without_padding` is true.
        ids_BL: int64; columns that are padding in all captions may be missing.
    """
    tower = _tower(model)
    return _masked(tower, ids_BL) if isinstance(tower, HFTextEncoder) else _causal(tower, ids_BL)


def _tower(model: Any) -> Any:
    return getattr(model, "text", model)


def _pooling(tower: Any) -> tuple[str, int | None]:
    # CLIP has the parts of its tower as its own, some under other names.
    if isinstance(tower, CLIP):
        return tower.text_pool_type, getattr(tower, "text_eos_id", None)
    return tower.pool_type, tower.eos_id


def _causal(tower: Any, ids_BL: Tensor) -> Tensor:
    columns, dtype = ids_BL.shape[1], tower.transformer.get_cast_dtype()
    hidden = tower.token_embedding(ids_BL).to(dtype) + tower.positional_embedding[:columns].to(dtype)
    hidden = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask[:columns, :columns]))
    pool, eos = _pooling(tower)
    pooled: Tensor = text_global_pool(hidden, ids_BL, pool, eos_token_id=eos)
    projection = tower.text_projection
    if projection is None:
        return pooled
    embeddings_BE: Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return embeddings_BE


def _masked(tower: HFTextEncoder, ids_BL: Tensor) -> Tensor:
    used_BL = ids_BL != tower.config.pad_token_id
    mask = used_BL.long()
    if getattr(tower.config, "_attn_implementation", None) == "sdpa":
        # Of a mask of two axes transformers asks whether it masks anything at all: the host would wait for the device.
        mask = used_BL[:, None, None, :].expand(-1, 1, ids_BL.shape[1], -1)
    found = tower.transformer(input_ids=ids_BL, attention_mask=mask)
    embeddings_BE: Tensor = tower.proj(tower.pooler(found, used_BL.long()))
    return embeddings_BE
