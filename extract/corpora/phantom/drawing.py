"""Draws an image of a finding whose tones do not reveal the finding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .canvas import Drawing, Plane, Tones, specify_histogram, tones_of
from .catalog import FINDINGS, known_finding
from .echoes import oct_scan, ultrasound
from .photographs import dermatology, endoscopy, fundus, histopathology
from .radiology import ct, mri, xray

Painter = Callable[[str, np.random.Generator, int], Drawing]

PAINTERS: dict[str, Painter] = {
    "xray": xray,
    "ct": ct,
    "mri": mri,
    "ultrasound": ultrasound,
    "fundus": fundus,
    "oct": oct_scan,
    "histopathology": histopathology,
    "dermatology": dermatology,
    "endoscopy": endoscopy,
}
"""The function that draws each modality."""

NOISE = (0.01, 0.045)
"""Least and largest standard deviation of the sensor's noise; white is 1."""


def reference_tones(modality: str, rng: np.random.Generator, *, size_px: int = 64) -> Tones:
    """Return the tones of a drawing of a random finding."""
    findings = FINDINGS[modality]
    return tones_of(PAINTERS[modality](findings[rng.integers(len(findings))].name, rng, size_px))


def draw(
    modality: str, finding: str, rng: np.random.Generator, *, tones: Tones | None = None, size_px: int = 64
) -> npt.NDArray[np.uint8]:
    """Draw one image of a finding.

    Args:
        finding: its canonical name.
        tones: of an independent drawing of the same modality (`reference_tones`). They are matched rank by rank in each
            channel (``canvas.specify_histogram``), so that colour statistics do not reveal the finding. None draws one.
        size_px: side of the image; 64 is the smallest at which every finding can be seen.

    Returns:
        (size_px, size_px, 3) uint8 RGB; grey modalities repeat one channel.
    """
    known_finding(modality, finding)
    own = PAINTERS[modality](finding, rng, size_px)
    if tones is None:
        tones = reference_tones(modality, rng, size_px=size_px)
    image = _exposed(specify_histogram(own, tones), rng)
    pixels = (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (size_px, size_px, 3)))


def _exposed(image: Plane, rng: np.random.Generator) -> Plane:
    """Return ``image`` with random gain, offset, gamma and noise."""
    gain, lift, gamma = rng.uniform(0.75, 1.1), rng.uniform(0, 0.08), rng.uniform(0.75, 1.3)
    exposed = np.clip(image * np.float32(gain) + np.float32(lift), 0, 1) ** np.float32(gamma)
    noise = np.float32(rng.uniform(*NOISE)) * rng.standard_normal((*image.shape[:2], 1), dtype=np.float32)
    noisy: Plane = exposed + noise
    return noisy
