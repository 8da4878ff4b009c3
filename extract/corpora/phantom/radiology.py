"""Cross sections and projections in grey: chest radiograph, abdominal CT, brain MRI."""

from __future__ import annotations

import numpy as np

from .canvas import Drawing, Pose, Sheet, curve, everywhere, scattered, shaded


def _side(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def xray(finding: str, rng: np.random.Generator, size_px: int) -> Drawing:
    """Draw a frontal chest radiograph."""
    pose = Pose.random(rng, turn=0.12, shift=0.09, zoom=(0.84, 1.12))
    sheet = Sheet(size_px, pose, ground=0.12)
    sheet.ellipse((0, 0.45), (rng.uniform(0.9, 1.0), 1.45), 0.5)
    half, apex, base = rng.uniform(0.27, 0.33), rng.uniform(-0.72, -0.62), rng.uniform(0.42, 0.58)
    middle = (apex + base) / 2
    for side in (-1, 1):
        sheet.blob((side * 0.44, middle), (half, (base - apex) / 2 + 0.06), 0.14, rng=rng, rough=0.05)
        sheet.ellipse((side * 0.46, base + 0.2), (half + 0.1, rng.uniform(0.2, 0.28)), 0.56)
    if finding == "pleural effusion":
        _effusion(sheet, rng, base=base)
    large = finding == "cardiomegaly"
    width = rng.uniform(0.46, 0.54) if large else rng.uniform(0.24, 0.29)
    sheet.line(curve((0, -1.2), (rng.uniform(-0.05, 0.05), 0), (0, 1.3)), 0.22, 0.6)
    heart = (0.06 + 0.3 * width, base - 0.16)
    sheet.ellipse(heart, (width, rng.uniform(0.2, 0.26)), 0.62, angle=rng.uniform(0.25, 0.6))
    sheet.ellipse((0.05, base - 0.42), (0.17, 0.34), 0.6)
    image = sheet.array(blur_px=size_px / 110)
    extra = Sheet(size_px, pose)
    _ribs(extra, rng)
    if finding == "pulmonary nodule":
        _nodule(extra, rng, apex=apex, base=base)
    image = image + 0.55 * extra.array(blur_px=size_px / 160)
    return Drawing(image=shaded(image, rng, light=0.06, texture=0.03), field=everywhere(size_px))


def _effusion(sheet: Sheet, rng: np.random.Generator, *, base: float) -> None:
    side, level = _side(rng), base - rng.uniform(0.18, 0.42)
    surface = curve((side * 0.86, level - rng.uniform(0.15, 0.3)), (side * 0.62, level), (side * 0.06, level + 0.04))
    sheet.polygon(np.concatenate([surface, [(side * 0.06, 1.0), (side * 0.86, 1.0)]]), 0.6)


def _nodule(sheet: Sheet, rng: np.random.Generator, *, apex: float, base: float) -> None:
    x, y = _side(rng) * rng.uniform(0.42, 0.56), rng.uniform(apex + 0.25, base - 0.22)
    radius = rng.uniform(0.08, 0.12)
    sheet.blob((x, y), (radius, radius), 0.9, rng=rng, rough=0.06)


def _ribs(sheet: Sheet, rng: np.random.Generator) -> None:
    pitch, slope, tone = rng.uniform(0.2, 0.25), rng.uniform(0.08, 0.3), rng.uniform(0.12, 0.24)
    for side in (-1, 1):
        for level in np.arange(-0.75, 0.5, pitch):
            sheet.line(
                curve((side * 0.08, level), (side * 0.6, level - 0.16), (side * 0.86, level + slope)), 0.06, tone
            )
        sheet.line(curve((side * 0.1, -0.68), (side * 0.4, -0.78), (side * 0.85, -0.9)), 0.09, tone + 0.15)
        for end in scattered(rng, 4, centre=(side * 0.4, 0.05), spread=0.24):
            sheet.line(curve((side * 0.16, 0), (side * 0.3, 0.0), end), 0.035, 0.22)


def ct(finding: str, rng: np.random.Generator, size_px: int) -> Drawing:
    """Draw an axial abdominal CT slice in a soft-tissue window; the patient's right is on the left."""
    pose = Pose.random(rng, turn=0.2, shift=0.07, zoom=(0.94, 1.14))
    sheet = Sheet(size_px, pose)
    wide, high = rng.uniform(0.84, 0.94), rng.uniform(0.62, 0.76)
    sheet.ellipse((0, 0), (wide, high), 0.3)
    field = sheet.array() > 0.1
    rim = rng.uniform(0.06, 0.14)
    sheet.ellipse((0, 0), (wide - rim, high - rim), 0.52)
    sheet.ellipse((0, 0), (wide - rim - 0.05, high - rim - 0.05), 0.36)
    liver = (rng.uniform(-0.42, -0.36), rng.uniform(-0.14, -0.06))
    sheet.blob(liver, (0.34, 0.32), 0.62, rng=rng, rough=0.07)
    sheet.blob((0.5, rng.uniform(-0.1, 0.05)), (0.15, 0.22), 0.64, rng=rng, rough=0.06)
    _bowel(sheet, rng)
    for side in (-1, 1):
        sheet.ellipse((side * 0.17, 0.42), (0.1, 0.12), 0.5)
        _kidney(sheet, rng, x=side * rng.uniform(0.36, 0.42), y=rng.uniform(0.26, 0.34), angle=side * 0.5)
    if finding == "kidney stone":
        at = (_side(rng) * rng.uniform(0.34, 0.42), rng.uniform(0.26, 0.34))
        sheet.ellipse(at, rng.uniform(0.06, 0.085, 2), 1.0)
    sheet.ellipse((0, 0.44), (0.13, 0.11), 0.92)
    sheet.ellipse((0, 0.57), (0.05, 0.04), 0.4)
    sheet.line(curve((-0.14, 0.62), (0, 0.52), (0.14, 0.62)), 0.05, 0.85)
    _aorta(sheet, rng, aneurysm=finding == "aortic aneurysm")
    if finding == "hepatic cyst":
        for at in scattered(rng, int(rng.integers(1, 4)), centre=liver, spread=0.2):
            sheet.ellipse(at, rng.uniform(0.075, 0.12, 2), 0.26)
    image = sheet.array(blur_px=size_px / 150)
    return Drawing(image=shaded(image, rng, light=0.06, texture=0.03), field=field)


def _bowel(sheet: Sheet, rng: np.random.Generator) -> None:
    for x, y in scattered(rng, 4, centre=(0.22, -0.28), spread=0.2):
        sheet.blob((x, y), (0.1, 0.08), 0.5, rng=rng, rough=0.1)
    for at in scattered(rng, int(rng.integers(1, 4)), centre=(0.26, -0.28), spread=0.24):
        sheet.ellipse(at, rng.uniform(0.04, 0.09, 2), 0.05 if rng.random() < 0.5 else 0.95)


def _kidney(sheet: Sheet, rng: np.random.Generator, *, x: float, y: float, angle: float) -> None:
    sheet.ellipse((x, y), (0.13, rng.uniform(0.16, 0.19)), 0.7, angle=angle)
    sheet.ellipse((x - np.sign(x) * 0.05, y), (0.07, 0.06), 0.4, angle=angle)


def _aorta(sheet: Sheet, rng: np.random.Generator, *, aneurysm: bool) -> None:
    sheet.ellipse((-0.13, 0.24), (0.07, 0.05), 0.6)
    if aneurysm:
        radius = rng.uniform(0.19, 0.25)
        x, y = rng.uniform(0, 0.08), 0.34 - radius
        sheet.ellipse((x, y), (radius, radius), 0.56)
        sheet.ellipse(
            (x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)), (radius * 0.62, radius * 0.58), 0.82
        )
    else:
        sheet.ellipse((rng.uniform(0.02, 0.08), 0.26), (0.075, 0.075), 0.82)


def mri(finding: str, rng: np.random.Generator, size_px: int) -> Drawing:
    """Draw an axial brain MRI slice."""
    pose = Pose.random(rng, turn=0.5, shift=0.1, zoom=(0.8, 1.06), mirror=True)
    sheet = Sheet(size_px, pose)
    wide = rng.uniform(0.66, 0.76)
    sheet.ellipse((0, 0), (wide, 0.92), 0.85)
    field = sheet.array() > 0.1
    sheet.ellipse((0, 0), (wide - 0.07, 0.85), 0.1)
    sheet.ellipse((0, 0), (wide - 0.13, 0.79), 0.42)
    sheet.blob((0, 0), (wide - 0.22, 0.68), 0.56, rng=rng, rough=0.03)
    _sulci(sheet, rng, wide=wide - 0.12)
    large = finding == "hydrocephalus"
    span = rng.uniform(0.095, 0.14) if large else rng.uniform(0.03, 0.06)
    tall, lean = (rng.uniform(0.26, 0.36) if large else rng.uniform(0.18, 0.28)), rng.uniform(0.1, 0.3)
    for side in (-1, 1):
        x = side * (span + 0.04)
        sheet.ellipse((x, -0.12), (span, tall * 0.7), 0.12, angle=-side * lean)
        sheet.ellipse((x * 1.15, 0.14), (span, tall * 0.7), 0.12, angle=side * lean)
    for at in scattered(rng, int(rng.integers(1, 4)), centre=(0, 0), spread=wide - 0.2):
        sheet.ellipse(at, rng.uniform(0.04, 0.08, 2), rng.uniform(0.7, 0.95))
    if finding == "ring-enhancing tumor":
        _ring(sheet, rng, wide=wide)
    if finding == "multiple sclerosis plaques":
        count = int(rng.integers(5, 10))
        around = rng.uniform(0, 2 * np.pi, count)
        reach = rng.uniform(0.2, 0.42, count)
        places = np.stack([(0.08 + reach) * np.cos(around), (0.2 + reach) * np.sin(around)], axis=1)
        for at in places:
            sheet.ellipse(at, rng.uniform(0.04, 0.08, 2), 0.92, angle=rng.uniform(0, np.pi))
    image = sheet.array(blur_px=size_px / 140)
    return Drawing(image=shaded(image, rng, light=0.06, texture=0.03), field=field)


def _sulci(sheet: Sheet, rng: np.random.Generator, *, wide: float) -> None:
    for angle in np.arange(0, 2 * np.pi, 0.42) + rng.uniform(0, 0.42):
        outer = np.array([wide * np.cos(angle), 0.8 * np.sin(angle)])
        inner = outer * rng.uniform(0.72, 0.88)
        sheet.line(curve(outer, (outer + inner) / 2 + rng.normal(0, 0.04, 2), inner), 0.03, 0.2)
    sheet.line(np.array([(0, -0.8), (0, -0.36)]), 0.025, 0.2)
    sheet.line(np.array([(0, 0.4), (0, 0.8)]), 0.025, 0.2)


def _ring(sheet: Sheet, rng: np.random.Generator, *, wide: float) -> None:
    angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.11, 0.17)
    x, y = (wide - 0.36) * np.cos(angle), 0.44 * np.sin(angle)
    sheet.blob((x, y), (radius + 0.1, radius + 0.1), 0.34, rng=rng, rough=0.08)
    sheet.blob((x, y), (radius, radius), 0.95, rng=rng, rough=0.04)
    sheet.blob((x, y), (radius - 0.065, radius - 0.065), 0.15, rng=rng, rough=0.04)
