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
        folder: where ``tokenizer.json`` goes; open_clip's HFTokenizer reads it there.
        size: largest number of tokens.
    """
    tokenizer = _tokenizer(models.WordPiece(unk_token="[UNK]"))
    # The trainer numbers the letters inside words in the order of a hash table, which differs between runs, and
    # breaks ties by these numbers. Declaring them as special tokens of a temporary tokenizer fixes their numbers.
    inner = sorted(
        {f"##{letter}" for caption in captions for word in _words(tokenizer, caption) for letter in word[1:]}
    )
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=[*SPECIAL_TOKENS, *inner], show_progress=False)
    tokenizer.train_from_iterator(captions, trainer=trainer)
    learned = _tokenizer(models.WordPiece(vocab=tokenizer.get_vocab(), unk_token="[UNK]"))
    learned.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, SPECIAL_TOKENS.index(name)) for name in ("[CLS]", "[SEP]")]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=learned,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    wrapped.save_pretrained(str(folder))
    return int(learned.get_vocab_size())


def _tokenizer(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _words(tokenizer: Tokenizer, caption: str) -> list[str]:
    normal = tokenizer.normalizer.normalize_str(caption)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]
