"""Token ids by Rust are those of open_clip's and transformers' own tokenizers, for any caption."""

from __future__ import annotations

import json

import numpy as np
import pytest
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from store.texts.tokens import open_clip_tokenizer, transformers_tokenizer
from tests.extract.authors_files import write_vocabulary

WORDS = [
    *("the", "of", "lung", "chest", "axial", "ct", "mri", "a", "left", "right", "nodule", "pneumothorax", "carcinoma"),
    *("HER2+,", "3.5", "(A)", "x-ray/CT", "don't"),
]
SYLLABLES = ["a", "the", "card", "io", "opathy", "pneumo", "thorax", "x", "ing", "ae", "gluc", "os", "y", "B", "7", "-"]
ODD = [
    *("&amp;", "&lt;5", "&lt;start_of_text&gt;", "&#233;", "I'LL", "'S", "_under_score_", "[SEP]", "[CLS]", "[PAD]"),
    *("caf\u00e9", "\u03b2-catenin", "\u7532\u72b6\u817a", "\u0130stanbul", "\u017fea", "it'\u017f", "\ufb01brosis"),
    *("\uff26\uff35", "\u00bd", "\u2460", "\u0661\u0662", "x\u0301y", "\u200b", "\U0001f600", "\x1b[31mred", "a\x00b"),
    *("\x7f", "<start_of_text>", "<END_OF_TEXT>", "--<start_of_text>", "<\u017ftart_of_text>", "\u00e2\u20ac\u2122"),
    *("\u00c3\u00a9", "\u1e9e", "\u212a", "\u00df", "\x85", "\u2028", "\u00a0", "\u3000", "\u0345", "\u01c5", "\u0958"),
    *("\u2019\u2018\u201c", "\ufffd", "\u00b5m", "\u2013", "\u00b0C"),
]
COUNT = 100_000


def drawn(count, seed=0):
    """Return captions of words with a long tail, one in twelve with something odd."""
    rng = np.random.default_rng(seed)
    words = np.array([*WORDS, *("".join(rng.choice(SYLLABLES, rng.integers(1, 5))) for _ in range(3_000))], np.object_)
    captions = []
    for number in range(count):
        places = np.minimum(rng.zipf(1.3, rng.integers(1, 24)) - 1, len(words) - 1)
        chosen = list(words[places])
        if number % 12 == 0:
            chosen.insert(int(rng.integers(0, len(chosen) + 1)), ODD[int(rng.integers(len(ODD)))])
        captions.append(" ".join(chosen))
    return captions


def random_unicode(count):
    """Return captions of letters from all planes."""
    rng = np.random.default_rng(3)
    planes = [(32, 127), (160, 0x3000), (0x3000, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x1FFFF)]
    chosen = (planes[number] for number in rng.integers(0, len(planes), count * 20))
    letters = [chr(int(rng.integers(*plane))) for plane in chosen]
    return ["".join(letters[start : start + 20]) for start in range(0, len(letters), 20)]


def special():
    """Return captions that a damaged export has."""
    return ["", " ", "\t\n", *ODD, "chest x-ray " * 200, "a" * 600, "pneumothorax" * 60, "-" * 400, "\u00e9" * 300]


@pytest.fixture(scope="module")
def captions():
    return [*drawn(COUNT), *random_unicode(1_000), *special()]


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    write_vocabulary(folder, 300)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    return str(folder)


EVERY = [pytest.param(20), pytest.param(1, marks=pytest.mark.slow)]
"""Every twentieth caption in the default suite, all of them in the slow one."""


@pytest.mark.parametrize("step", EVERY)
def test_clips_ids_and_what_was_cut_are_open_clips(captions, step):
    captions = captions[::step]
    original = SimpleTokenizer()
    found = open_clip_tokenizer(SimpleTokenizer())(captions)
    assert found.ids_BL.dtype == np.int64
    full = [original.encode(caption) for caption in captions]
    expected_BL = np.zeros((len(captions), 77), np.int64)
    for row, ids in enumerate(full):
        kept = [original.sot_token_id, *ids[:75], original.eot_token_id]
        expected_BL[row, : len(kept)] = kept
    np.testing.assert_array_equal(found.ids_BL, expected_BL)
    np.testing.assert_array_equal(found.lengths_B, [min(len(ids), 75) + 2 for ids in full])
    np.testing.assert_array_equal(found.truncated_B, [len(ids) > 75 for ids in full])
    # The ids above were put together here; these are the library's own.
    some = slice(None, None, 97)
    np.testing.assert_array_equal(found.ids_BL[some], original(captions[some]).numpy())


@pytest.mark.parametrize("options", [{"clean": "canonicalize"}, {"clean": "whitespace"}, {"context_length": 32}])
def test_open_clips_other_settings_are_kept(captions, options):
    some = captions[::53]
    expected = SimpleTokenizer(**options)(some).numpy()
    np.testing.assert_array_equal(open_clip_tokenizer(SimpleTokenizer(**options))(some).ids_BL, expected)


@pytest.mark.parametrize("step", EVERY)
def test_word_pieces_are_those_of_transformers(captions, bert_folder, step):
    captions = captions[::step]
    expected = AutoTokenizer.from_pretrained(bert_folder)(
        captions, padding="max_length", truncation=True, max_length=77, return_tensors="np"
    )
    found = transformers_tokenizer(AutoTokenizer.from_pretrained(bert_folder), 77)(captions)
    np.testing.assert_array_equal(found.ids_BL, expected["input_ids"])
    np.testing.assert_array_equal(found.lengths_B, expected["attention_mask"].sum(axis=1))
    whole = AutoTokenizer.from_pretrained(bert_folder)(captions[::31], verbose=False)["input_ids"]
    np.testing.assert_array_equal(found.truncated_B[::31], [len(ids) > 77 for ids in whole])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("options", [{}, {"strip_sep_token": True}, {"clean": "lower"}])
def test_word_pieces_of_open_clip_are_its_own(captions, bert_folder, options, side):
    def tokenizer():
        own = HFTokenizer(bert_folder, context_length=64, **options)
        own.tokenizer.padding_side = side
        return own

    some = captions[::31]
    np.testing.assert_array_equal(open_clip_tokenizer(tokenizer())(some).ids_BL, tokenizer()(some).numpy())


def test_open_clips_clips_mode_is_kept(captions, bert_folder):
    def tokenizer():
        own = HFTokenizer(bert_folder, context_length=40, tokenizer_mode="clips")
        own.tokenizer.padding_side = "left"  # which this mode does not ask
        own.tokenizer.bos_token, own.tokenizer.eos_token = "[CLS]", "[SEP]"
        return own

    some = captions[::101]
    found = open_clip_tokenizer(tokenizer())(some)
    np.testing.assert_array_equal(found.ids_BL, tokenizer()(some).numpy())
    assert set(found.lengths_B) == {40}


@pytest.mark.parametrize("letter", ["a", "xq", "\u00e9", "1"])
def test_a_word_of_any_length_is_read_as_a_shorter_one_of_the_same_beginning(letter, bert_folder):
    tokenizers = (
        open_clip_tokenizer(SimpleTokenizer()),
        transformers_tokenizer(AutoTokenizer.from_pretrained(bert_folder), 77),
    )
    for tokenizer in tokenizers:
        ids_BL = tokenizer([letter * 100_000, letter * 2_000]).ids_BL
        np.testing.assert_array_equal(ids_BL[0], ids_BL[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding_side": "left"}, "pads on the left and cuts on the right"),
        ({"truncation_side": "left"}, "pads on the right and cuts on the left"),
        ({"pad_token": None}, "states no pad_token"),
    ],
)
def test_a_tokenizer_whose_padding_a_model_cannot_read_is_refused(bert_folder, settings, message):
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    with pytest.raises(ValueError, match=message):
        transformers_tokenizer(tokenizer, 77)


def test_a_tokenizer_that_drops_letters_is_refused_because_its_special_tokens_cannot_be_told():
    inner = Tokenizer(BPE(vocab={"b": 0, "<pad>": 1, "<s>": 2}, merges=[]))
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    own = PreTrainedTokenizerFast(tokenizer_object=inner)
    own.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(ValueError, match="does not read the word 'a' between its special tokens"):
        transformers_tokenizer(own, 8)


def test_padding_on_the_left_is_that_of_transformers_where_the_model_reads_it(captions, bert_folder):
    own = AutoTokenizer.from_pretrained(bert_folder, padding_side="left")
    some = captions[::31]
    expected = own(some, padding="max_length", truncation=True, max_length=40, return_tensors="np")["input_ids"]
    tokenizer = AutoTokenizer.from_pretrained(bert_folder, padding_side="left")
    found = transformers_tokenizer(tokenizer, 40, ids_alone=True)(some)
    np.testing.assert_array_equal(found.ids_BL, expected)
    assert set(found.lengths_B) == {40}


def test_a_tokenizer_that_drops_words_from_the_middle_is_refused():
    with pytest.raises(ValueError, match="reduction_mask shortens captions"):
        open_clip_tokenizer(SimpleTokenizer(reduction_mask="syntax"))
