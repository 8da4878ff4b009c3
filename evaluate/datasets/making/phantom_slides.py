"""Phantom slides: bags of drawn histopathology tiles with a known share of tumour, where no slides are at hand.

A slide with a tumour differs from one without in a few of its tiles only, which is what multiple-instance learning is
about. They are drawn and no patient data; they say nothing about how good a model is on tissue.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluate.datasets.split_rules import SPLITS, SplitName
from extract.corpora.phantom.drawing import draw
from store.errors import EvaluationError
from store.files import sha256_file, write_atomic

NORMAL, INFILTRATE, TUMOR = "normal glandular tissue", "lymphocytic infiltrate", "invasive carcinoma"
"""Findings of the phantom's histopathology. Infiltrates are in slides of both classes, so that only tumour tells."""

INFILTRATE_SHARE = 0.25
"""Share of the tiles without tumour."""

MANIFEST = "phantom_slides.json"
"""Written last: parameters, and the digest of every tar."""

GENERATOR_VERSION = 1
"""Raised whenever the same parameters give different bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SlidePlan:
    """Everything that determines the bytes of phantom slides.

    Attributes:
        slides: number by split; half of them have a tumour. A patient has two slides, which need not be alike.
        least, most: share of tumour in a slide that has one; each such slide has at least one tile of it.
        seed: decides every pixel.
        size_px: side of a tile.
    """

    slides: dict[SplitName, int]
    tiles: int = 16
    least: float = 0.1
    most: float = 0.5
    seed: int = 0
    size_px: int = 64

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if min(self.slides.values(), default=0) < 0 or self.slides.get("test", 0) < 2:
            raise EvaluationError("phantom slides need at least two slides for testing, one of each class")
        if not (self.tiles > 0 and 0 < self.least <= self.most <= 1 and self.seed >= 0 and self.size_px >= 32):
            raise EvaluationError(
                "phantom slides need at least one tile, shares 0 < least <= most <= 1, a seed from 0 and 32 px or more"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Slide:
    """One slide before its tiles are drawn; it has a finding per tile, in order."""

    name: str
    patient: str
    split: SplitName
    findings: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of its tiles that are tumour."""
        return self.findings.count(TUMOR) / len(self.findings)

    @property
    def label(self) -> str:
        """``tumor`` or ``normal``."""
        return "tumor" if TUMOR in self.findings else "normal"


def plan_slides(plan: SlidePlan) -> Iterator[Slide]:
    """Yield the slides of a plan; each depends on the seed, its split and its number alone."""
    for split in SPLITS:
        for number in range(plan.slides.get(split, 0)):
            rng = _generator(plan, split, number)
            count = 0
            # Taking turns in pairs: of a patient's two slides both, one or none may have a tumour.
            if (number + number // 4) % 2:
                count = max(1, round(rng.uniform(plan.least, plan.most) * plan.tiles))
            others = np.where(rng.random(plan.tiles - count) < INFILTRATE_SHARE, INFILTRATE, NORMAL)
            findings = rng.permutation(np.concatenate([np.full(count, TUMOR), others]))
            yield Slide(
                name=f"{split}-{number:04d}",
                patient=f"{split}-patient-{number // 2:04d}",
                split=split,
                findings=tuple(str(finding) for finding in findings),
            )


def write_phantom_slides(out: Path, plan: SlidePlan) -> list[Slide]:
    """Write phantom slides as a tar per split, which the registry's ``phantom_slides`` reads; return the slides.

    A folder that holds the same ones is left alone.

    Raises:
        EvaluationError: the folder holds others.
    """
    slides = list(plan_slides(plan))
    parameters = json.loads(json.dumps({"generator_version": GENERATOR_VERSION, **asdict(plan)}))
    if _complete(out, parameters):
        return slides
    tars = {}
    for split in dict.fromkeys(slide.split for slide in slides):
        path = out / f"{split}.tar"
        write_atomic(path, _tar([slide for slide in slides if slide.split == split], plan))
        tars[path.name] = sha256_file(path)
    write_atomic(out / MANIFEST, (json.dumps({"parameters": parameters, "tars": tars}, indent=1) + "\n").encode())
    return slides


def _complete(out: Path, parameters: dict[str, Any]) -> bool:
    if not (out / MANIFEST).is_file():
        return False
    try:
        found = json.loads((out / MANIFEST).read_text())
        same, tars = found["parameters"] == parameters, dict(found["tars"])
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{out / MANIFEST}: not a record of phantom slides: {error}") from error
    if not same:
        raise EvaluationError(f"{out} holds phantom slides with other parameters", hint="give another --out")
    return all((out / name).is_file() and sha256_file(out / name) == digest for name, digest in tars.items())


def _generator(plan: SlidePlan, split: SplitName, number: int) -> np.random.Generator:
    return np.random.default_rng([plan.seed, SPLITS.index(split), number])


def _tar(slides: list[Slide], plan: SlidePlan) -> bytes:
    """Return one tar; its members carry no time and no owner, so that the same plan gives the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for slide in slides:
            number = int(slide.name.rpartition("-")[2])
            children = _generator(plan, slide.split, number).spawn(len(slide.findings))
            for tile, (finding, rng) in enumerate(zip(slide.findings, children, strict=True)):
                for suffix, data in _members(slide, finding, rng, plan.size_px).items():
                    member = tarfile.TarInfo(f"{slide.name}-{tile:04d}.{suffix}")
                    member.size, member.mode = len(data), 0o644
                    tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _members(slide: Slide, finding: str, rng: np.random.Generator, size_px: int) -> dict[str, bytes]:
    image = io.BytesIO()
    Image.fromarray(draw("histopathology", finding, rng, size_px=size_px)).save(image, "PNG")
    record = {
        "slide": slide.name,
        "patient": slide.patient,
        "split": slide.split,
        "label": slide.label,
        "finding": finding,
        "tumor_share": slide.share,
    }
    return {"png": image.getvalue(), "json": json.dumps(record).encode("ascii")}
