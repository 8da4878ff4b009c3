"""A WordPiece vocabulary learned from captions: small models need no table of 49,408 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Ids 0 to 4, as in BERT's vocabularies."""


def save_vocabulary(captions: Sequence[str], folder: Path, *, size: int) -> int:
    """Learn a vocabulary, save it as a transformers tokenizer, and return how many tokens it has.

    The same captions give the same vocabulary.

    Args:
        captions: to learn from.
        folder: where ``tokenizer.json`` goes; open_clip's HFTokenizer reads it there.
        size: tokens at most.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    # Sorted, because the trainer breaks ties between equally frequent pieces by what it met first.
    tokenizer.train_from_iterator(sorted(captions), trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, SPECIAL_TOKENS.index(name)) for name in ("[CLS]", "[SEP]")]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    wrapped.save_pretrained(str(folder))
    return int(tokenizer.get_vocab_size())
