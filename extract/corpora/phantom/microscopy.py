"""Stained tissue under the microscope: haematoxylin and eosin, nuclei blue, stroma pink."""

from __future__ import annotations

import numpy as np

from .canvas import Drawing, Place, Pose, Sheet, Tone, curve, everywhere, scattered, shaded


def histopathology(finding: str, rng: np.random.Generator, size_px: int) -> Drawing:
    """Draw a field of glandular tissue; the findings differ in how nuclei are arranged and shaped."""
    pose = Pose.random(rng, turn=np.pi, shift=0.1, zoom=(0.85, 1.2), mirror=True)
    tint = rng.uniform(-0.05, 0.05, 3)
    stroma: Tone = (0.88 + tint[0], 0.66 + tint[1], 0.8 + tint[2])
    nucleus: Tone = (0.36 + tint[0], 0.2 + tint[1], 0.52 + tint[2])
    sheet = Sheet(size_px, pose, ground=stroma)
    for start in scattered(rng, 9, centre=(0, 0), spread=1.2):
        end = start + rng.normal(0, 0.5, 2)
        sheet.line(curve(start, (start + end) / 2 + rng.normal(0, 0.1, 2), end), 0.04, (0.8, 0.5, 0.7))
    if finding == "normal glandular tissue":
        _glands(sheet, rng, count=int(rng.integers(2, 5)), nucleus=nucleus)
        _nuclei(sheet, rng, count=int(rng.integers(15, 70)), radius=(0.028, 0.055), nucleus=nucleus)
    elif finding == "invasive carcinoma":
        _glands(sheet, rng, count=int(rng.integers(0, 3)), nucleus=nucleus)
        for at in scattered(rng, int(rng.integers(16, 34)), centre=(0, 0), spread=1.3):
            sheet.blob(at, rng.uniform(0.065, 0.125, 2), nucleus, rng=rng, rough=0.12)
            sheet.ellipse(at, (0.025, 0.025), (0.2, 0.1, 0.35))
        _nuclei(sheet, rng, count=int(rng.integers(5, 45)), radius=(0.028, 0.055), nucleus=nucleus)
    else:
        _glands(sheet, rng, count=int(rng.integers(0, 3)), nucleus=nucleus)
        for at in scattered(rng, int(rng.integers(3, 6)), centre=(0, 0), spread=0.9):
            _nuclei(sheet, rng, count=int(rng.integers(10, 26)), radius=(0.032, 0.046), nucleus=nucleus, at=at)
    image = sheet.array(blur_px=size_px / 160)
    return Drawing(image=shaded(image, rng, light=0.03, texture=0.04), field=everywhere(size_px))


def _nuclei(
    sheet: Sheet,
    rng: np.random.Generator,
    *,
    count: int,
    radius: tuple[float, float],
    nucleus: Tone,
    at: Place | None = None,
) -> None:
    places = scattered(rng, count, centre=(0, 0) if at is None else at, spread=1.3 if at is None else 0.38)
    sheet.dots(places, rng.uniform(*radius, count), nucleus)


def _glands(sheet: Sheet, rng: np.random.Generator, *, count: int, nucleus: Tone) -> None:
    """Paint rings of nuclei around pale lumens."""
    for at in scattered(rng, count, centre=(0, 0), spread=0.85):
        radius, stretch = rng.uniform(0.22, 0.34), rng.uniform(0.75, 1.25)
        sheet.ellipse(at, (radius + 0.08, (radius + 0.08) * stretch), (0.78, 0.5, 0.72))
        sheet.ellipse(at, (radius * 0.62, radius * 0.62 * stretch), (0.97, 0.93, 0.96))
        angles = np.arange(0, 2 * np.pi, 0.085 / radius) + rng.uniform(0, 1)
        ring = np.stack([np.cos(angles) * radius, np.sin(angles) * radius * stretch], axis=1)
        sheet.dots(at + ring + rng.normal(0, 0.012, ring.shape), rng.uniform(0.035, 0.05, len(ring)), nucleus)
