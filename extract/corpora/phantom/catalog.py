"""The nine modalities that can be drawn, their findings, and the words of captions for both."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from store.errors import CorpusError


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding that an image shows.

    Attributes:
        name: canonical noun phrase, the class name of zero-shot prompts; unique over all modalities.
        synonyms: other noun phrases for it.
        normal: whether this is the modality's normal or benign class.
    """

    name: str
    synonyms: tuple[str, ...]
    normal: bool = False


MODALITIES: dict[str, tuple[str, ...]] = {
    "xray": ("chest radiograph", "X-ray of the chest", "frontal chest X-ray", "plain chest film"),
    "ct": ("abdominal CT slice", "CT scan of the abdomen", "axial CT image", "computed tomography slice"),
    "mri": ("brain MRI slice", "MRI of the brain", "axial brain MR image", "magnetic resonance image of the head"),
    "ultrasound": (
        "abdominal ultrasound",
        "ultrasound image of the abdomen",
        "B-mode sonogram",
        "abdominal sonography scan",
    ),
    "fundus": ("fundus photograph", "color photograph of the retina", "retinal fundus image", "ophthalmoscopic view"),
    "oct": ("macular OCT scan", "optical coherence tomography scan", "retinal OCT image", "OCT cross section"),
    "histopathology": (
        "histopathology slide",
        "H and E stained section",
        "tissue micrograph",
        "microscopic view of a biopsy",
    ),
    "dermatology": (
        "dermatoscopic image",
        "clinical photograph of the skin",
        "dermoscopy image",
        "skin lesion photograph",
    ),
    "endoscopy": ("colonoscopy frame", "endoscopic view of the colon", "endoscopy image", "colonoscopic picture"),
}
"""Noun phrases for an image of each modality, without an article. Rows take turns in this order."""


FINDINGS: dict[str, tuple[Finding, ...]] = {
    "xray": (
        Finding("normal lungs", ("clear lungs", "normal chest with no focal lesion"), normal=True),
        Finding("pleural effusion", ("fluid in the pleural space", "blunted costophrenic angle")),
        Finding("pulmonary nodule", ("solitary lung nodule", "round opacity in the lung")),
        Finding("cardiomegaly", ("enlarged heart", "widened cardiac silhouette")),
    ),
    "ct": (
        Finding("normal abdomen", ("normal abdominal organs", "abdomen with no focal lesion"), normal=True),
        Finding("hepatic cyst", ("cyst in the liver", "hypodense liver lesion")),
        Finding("kidney stone", ("renal calculus", "dense calculus in the kidney")),
        Finding("aortic aneurysm", ("dilated abdominal aorta", "aneurysm with mural thrombus")),
    ),
    "mri": (
        Finding("normal brain", ("normal brain parenchyma", "brain with no focal lesion"), normal=True),
        Finding("ring-enhancing tumor", ("glioblastoma with ring enhancement", "mass with an enhancing rim")),
        Finding("hydrocephalus", ("enlarged lateral ventricles", "dilated ventricular system")),
        Finding(
            "multiple sclerosis plaques", ("multiple periventricular lesions", "demyelinating white matter lesions")
        ),
    ),
    "ultrasound": (
        Finding("normal liver", ("homogeneous liver parenchyma", "liver with no focal lesion"), normal=True),
        Finding("simple cyst", ("anechoic cyst", "cyst with posterior enhancement")),
        Finding("gallstone", ("echogenic stone", "calculus with acoustic shadow")),
    ),
    "fundus": (
        Finding("normal retina", ("healthy retina", "retina with no focal lesion"), normal=True),
        Finding("macular drusen", ("yellow drusen deposits", "drusen around the macula")),
        Finding("retinal hemorrhages", ("dark blot hemorrhages", "scattered retinal bleeding")),
        Finding("tortuous retinal vessels", ("retinal vascular tortuosity", "twisted retinal arteries")),
    ),
    "oct": (
        Finding("normal macula", ("normal foveal contour", "retinal layers with no focal lesion"), normal=True),
        Finding("macular edema", ("intraretinal cystic fluid", "cystoid swelling of the macula")),
        Finding("macular hole", ("full thickness foveal defect", "gap in the fovea")),
        Finding("pigment epithelial detachment", ("dome shaped epithelial elevation", "raised pigment epithelium")),
    ),
    "histopathology": (
        Finding("normal glandular tissue", ("regular glands", "benign glands with open lumens"), normal=True),
        Finding("invasive carcinoma", ("sheets of atypical nuclei", "large pleomorphic tumor cells")),
        Finding("lymphocytic infiltrate", ("chronic inflammation", "clusters of small lymphocytes")),
    ),
    "dermatology": (
        Finding("benign nevus", ("common mole", "symmetric benign mole"), normal=True),
        Finding("melanoma", ("malignant melanoma", "irregular asymmetric pigmented lesion")),
        Finding("basal cell carcinoma", ("pearly lesion with branching vessels", "nodule with arborizing vessels")),
    ),
    "endoscopy": (
        Finding("normal mucosa", ("healthy colon lining", "mucosa with no focal lesion"), normal=True),
        Finding("colon polyp", ("sessile polyp", "raised polypoid lesion")),
        Finding("mucosal ulcer", ("ulcerated mucosa", "crater with a pale base")),
        Finding("active bleeding", ("fresh blood streaks", "hemorrhage from the mucosa")),
    ),
}
"""The findings of each modality, its normal class first."""

PATTERNS = (
    "this {view} shows {finding}",
    "{view} that demonstrates {finding}",
    "this {view} is consistent with {finding}",
    "evidence of {finding} on this {view}",
    "{finding} seen on {view}",
    "findings of {finding} in a patient, {view}",
)
"""Sentences for any finding."""

NORMAL_PATTERNS = (
    "unremarkable {view}, {finding}",
    "{view} without abnormality, {finding}",
    "{finding} and nothing suspicious on this {view}",
)
"""More sentences for normal findings, which say so."""


def known_modality(modality: str) -> str:
    """Return the id of a modality.

    Raises:
        CorpusError: it is unknown; the hint names the nearest.
    """
    if modality not in MODALITIES:
        raise CorpusError(
            f"unknown modality {modality!r}; expected one of {', '.join(MODALITIES)}",
            hint=_nearest(modality, MODALITIES),
        )
    return modality


def known_finding(modality: str, name: str) -> Finding:
    """Return the finding of a modality by its canonical name.

    Raises:
        CorpusError: the modality or the finding is unknown; the hint names the nearest.
    """
    findings = {finding.name: finding for finding in FINDINGS[known_modality(modality)]}
    if name not in findings:
        raise CorpusError(
            f"unknown finding {name!r} of {modality}; expected one of {', '.join(findings)}",
            hint=_nearest(name, findings),
        )
    return findings[name]


def _nearest(name: str, known: Iterable[str]) -> str | None:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else None


def caption(modality: str, finding: str, rng: np.random.Generator) -> str:
    """Return a sentence of 5 to 16 words about an image; half of all sentences use the finding's canonical name."""
    found = known_finding(modality, finding)
    views = MODALITIES[modality]
    patterns = PATTERNS + NORMAL_PATTERNS if found.normal else PATTERNS
    name = found.name if rng.random() < 0.5 else found.synonyms[rng.integers(len(found.synonyms))]
    sentence = patterns[rng.integers(len(patterns))].format(view=views[rng.integers(len(views))], finding=name)
    return sentence[0].upper() + sentence[1:]
