"""The phantom's drawings and captions: learnable from structure, not from colour."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from extract.corpora.phantom.canvas import Drawing, everywhere, specify_histogram, tones_of
from extract.corpora.phantom.catalog import FINDINGS, MODALITIES, NORMAL_PATTERNS, PATTERNS, caption
from extract.corpora.phantom.drawing import draw
from store.errors import CorpusError

EVERY_FINDING = [(modality, finding) for modality in FINDINGS for finding in FINDINGS[modality]]
NUM_TRAIN = 150


@pytest.fixture(scope="module")
def drawings():
    """300 drawings and finding numbers per modality."""
    drawn = {}
    for place, (modality, findings) in enumerate(FINDINGS.items()):
        labels = np.arange(2 * NUM_TRAIN) % len(findings)
        images = [
            draw(modality, findings[label].name, np.random.default_rng([place, row]))
            for row, label in enumerate(labels)
        ]
        drawn[modality] = np.stack(images), labels
    return drawn


def margin_over_chance(features, labels):
    """Return the accuracy of a linear probe on the second half, less that of guessing."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
    probe.fit(features[:NUM_TRAIN], labels[:NUM_TRAIN])
    return probe.score(features[NUM_TRAIN:], labels[NUM_TRAIN:]) - 1 / len(set(labels))


def histograms(images):
    return np.stack([[np.bincount(image[..., c].ravel() // 16, minlength=16) for c in range(3)] for image in images])


def oriented_gradients(images):
    """Return histograms of gradient direction in 8 by 8 cells, blind to colour and mean brightness."""
    grey = images.mean(axis=3)
    down, right = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, right)
    octant = ((np.arctan2(down, right) / np.pi + 1) * 4).astype(int) % 8
    cells = [(strength * (octant == k)).reshape(len(images), 8, 8, 8, 8).sum(axis=(2, 4)) for k in range(8)]
    return np.sqrt(np.stack(cells, axis=-1)).reshape(len(images), -1)


def test_colour_tells_no_finding_but_structure_does(drawings):
    margins = {"mean": [], "histogram": [], "structure": []}
    for images, labels in drawings.values():
        margins["mean"].append(margin_over_chance(images.mean(axis=(1, 2)), labels))
        margins["histogram"].append(margin_over_chance(histograms(images).reshape(len(images), -1), labels))
        margins["structure"].append(margin_over_chance(oriented_gradients(images), labels))
    for colour in ("mean", "histogram"):
        assert max(margins[colour]) < 0.2
        assert np.mean(margins[colour]) < 0.1
    assert np.mean(margins["structure"]) > 0.2
    assert np.mean(margins["structure"]) > np.mean(margins["histogram"]) + 0.2


def test_histogram_specification_takes_the_tones_of_one_and_the_order_of_the_other():
    rng = np.random.default_rng(0)
    own = Drawing(image=rng.random((8, 8, 1), dtype=np.float32), field=everywhere(8))
    reference = Drawing(image=rng.random((8, 8, 1), dtype=np.float32) ** 3, field=everywhere(8))
    mapped = specify_histogram(own, tones_of(reference))
    assert np.array_equal(np.sort(mapped.ravel()), np.sort(reference.image.ravel()))
    assert np.array_equal(np.argsort(mapped.ravel()), np.argsort(own.image.ravel()))


def test_histogram_specification_leaves_the_outside_of_the_field_alone():
    field = np.zeros((8, 8), np.bool_)
    field[2:6, 2:6] = True
    own = Drawing(image=np.full((8, 8, 1), 0.25, np.float32), field=field)
    reference = Drawing(image=np.ones((8, 8, 1), np.float32), field=everywhere(8))
    mapped = specify_histogram(own, tones_of(reference))
    assert (mapped[field] == 1).all()
    assert (mapped[~field] == 0.25).all()


@pytest.mark.parametrize("size_px", [64, 96])
def test_every_finding_fills_an_rgb_image_of_any_size(size_px):
    for modality, finding in EVERY_FINDING:
        image = draw(modality, finding.name, np.random.default_rng(3), size_px=size_px)
        assert image.shape == (size_px, size_px, 3)
        assert image.dtype == np.uint8
        assert np.ptp(image) > 80, f"{modality}, {finding.name}: hardly any contrast"


def test_a_drawing_depends_on_its_generator_alone():
    for modality, finding in EVERY_FINDING:
        first, again, other = (draw(modality, finding.name, np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_there_are_nine_modalities_of_three_or_more_uniquely_named_findings_one_normal():
    assert list(FINDINGS) == list(MODALITIES)
    assert len(MODALITIES) == 9
    assert all(len(findings) >= 3 for findings in FINDINGS.values())
    assert all(findings[0].normal and not any(f.normal for f in findings[1:]) for findings in FINDINGS.values())
    phrases = [phrase for _, finding in EVERY_FINDING for phrase in (finding.name, *finding.synonyms)]
    assert len(phrases) == len(set(phrases))
    assert all(len(finding.synonyms) >= 2 for _, finding in EVERY_FINDING)


def test_every_possible_caption_has_five_to_sixteen_plain_words():
    for modality, finding in EVERY_FINDING:
        patterns = PATTERNS + NORMAL_PATTERNS * finding.normal
        phrases = (finding.name, *finding.synonyms)
        for pattern, view, phrase in itertools.product(patterns, MODALITIES[modality], phrases):
            sentence = pattern.format(view=view, finding=phrase)
            assert re.fullmatch(r"[A-Za-z, -]+", sentence)
            assert 5 <= len(sentence.split()) <= 16, sentence


def test_captions_vary_and_often_use_the_canonical_name():
    rng = np.random.default_rng(0)
    for modality, finding in EVERY_FINDING:
        captions = [caption(modality, finding.name, rng) for _ in range(60)]
        assert len(set(captions)) >= 12
        named = sum(finding.name.lower() in sentence.lower() for sentence in captions)
        assert 15 <= named <= 54, f"{finding.name} is named in {named} of 60 captions"


def test_an_unknown_finding_is_refused_with_the_nearest_name():
    with pytest.raises(CorpusError, match="unknown finding 'melanom' of dermatology") as caught:
        draw("dermatology", "melanom", np.random.default_rng(0))
    assert caught.value.hint == "did you mean 'melanoma'?"
