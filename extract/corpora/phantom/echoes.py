"""Images made of echoes, with their speckle: ultrasound (a fan of beams) and OCT (layers of the retina)."""

from __future__ import annotations

import numpy as np

from .canvas import Drawing, Plane, Pose, Sheet, clouds, curve, everywhere, grid, scattered, speckle


def ultrasound(finding: str, rng: np.random.Generator, size_px: int) -> Drawing:
    """Draw an abdominal B-mode fan; what lies behind an object along the beam is brighter or darker."""
    x, y = grid(size_px)
    apex_x, apex_y = rng.uniform(-0.12, 0.12), rng.uniform(-1.5, -1.25)
    half_angle = rng.uniform(0.5, 0.66)
    across, down = x - apex_x, y - apex_y
    depth = np.sqrt(across * across + down * down)
    beam = np.arctan2(across, down)
    near, far = rng.uniform(0.4, 0.55), rng.uniform(2.1, 2.35)
    field = (np.abs(beam) < half_angle) & (depth > near) & (depth < far)
    place = float(rng.uniform(0.35, 0.62) * (far - near) + near), float(rng.uniform(-0.55, 0.55) * half_angle)
    radius = rng.uniform(0.14, 0.25)
    centre = apex_x + place[0] * np.sin(place[1]), apex_y + place[0] * np.cos(place[1])
    sheet = Sheet(size_px, Pose(matrix=np.eye(2), offset=np.zeros(2)), ground=0.42)
    _vessels(sheet, rng, avoid=centre if finding != "normal liver" else None)
    behind = np.clip((depth - place[0]) * 8, 0, 1)
    if finding == "simple cyst":
        sheet.blob(centre, (radius + 0.03, radius * rng.uniform(0.8, 1.1) + 0.03), 0.66, rng=rng, rough=0.05)
        sheet.blob(centre, (radius, radius * rng.uniform(0.8, 1.0)), 0.04, rng=rng, rough=0.05)
        width, change = radius / place[0], rng.uniform(0.4, 0.8)
        behind = np.clip((depth - place[0] - radius) * 8, 0, 1)
    elif finding == "gallstone":
        size = rng.uniform(0.1, 0.17)
        bow = np.array([place[1] + np.linspace(-1, 1, 7) * size / place[0]])[0]
        arc_depth = place[0] + 0.5 * size * np.linspace(-1, 1, 7) ** 2
        arc = np.stack([apex_x + arc_depth * np.sin(bow), apex_y + arc_depth * np.cos(bow)], axis=1)
        sheet.line(arc, rng.uniform(0.09, 0.13), 1.0)
        width, change = size / place[0], rng.uniform(-0.85, -0.6)
        behind = np.clip((depth - place[0] - 0.06) * 10, 0, 1)
    else:
        width, change = 0.1, 0.0
    image = sheet.array(blur_px=size_px / 120)
    column = np.clip((width - np.abs(beam - place[1])) * 25, 0, 1)
    image = image * (1 + change * behind * column) * (1 + 0.2 * clouds(rng, size_px, 5))
    # ribs and poor contact shade whole beams in any image
    for shade in rng.uniform(-1, 1, int(rng.integers(0, 3))) * half_angle:
        image = image * (1 - rng.uniform(0.3, 0.7) * np.clip(1 - np.abs(beam - shade) * 12, 0, 1))
    image = image * (1.15 - 0.18 * depth) * speckle(rng, size_px, passes=int(rng.integers(1, 3)))
    image = np.where(field, image, 0)
    return Drawing(image=image.astype(np.float32)[..., None], field=field)


def _vessels(sheet: Sheet, rng: np.random.Generator, *, avoid: tuple[float, float] | None) -> None:
    """Paint dark tubes with bright walls, small echoes and the diaphragm; tubes keep away from the finding."""
    for start in scattered(rng, int(rng.integers(2, 5)), centre=(0, 0), spread=0.7):
        if avoid is not None and np.hypot(*(start - avoid)) < 0.4:
            continue
        angle, length = rng.uniform(-0.7, 0.7), rng.uniform(0.25, 0.5)
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        path = curve(start, (start + end) / 2 + rng.normal(0, 0.06, 2), end)
        width = rng.uniform(0.05, 0.1)
        sheet.line(path, width + 0.07, 0.6)
        sheet.line(path, width, 0.08)
    for at in scattered(rng, int(rng.integers(1, 5)), centre=(0, 0), spread=0.8):
        sheet.ellipse(at, rng.uniform(0.04, 0.09, 2), 0.08 if rng.random() < 0.5 else 0.95)
    level = rng.uniform(0.62, 0.75)
    sheet.line(curve((-0.9, level - 0.2), (rng.uniform(-0.3, 0.3), level + 0.25), (0.9, level - 0.2)), 0.06, 0.8)


LAYERS = (0.0, 0.02, 0.14, 0.2, 0.34, 0.4, 0.5, 0.56, 0.8, 0.84, 0.9, 0.94, 1.02, 1.06, 1.6, 2.6)
"""Depths of the retinal layers as shares of its thickness, vitreous to choroid."""
ECHOES = (0.03, 0.8, 0.75, 0.5, 0.5, 0.28, 0.28, 0.48, 0.22, 0.22, 0.85, 0.4, 0.95, 0.5, 0.3, 0.04)
"""Brightness of each of LAYERS: nerve fibres and pigment epithelium are brightest, nuclear layers dark."""


def oct_scan(finding: str, rng: np.random.Generator, size_px: int) -> Drawing:
    """Draw a cross section of the macula by optical coherence tomography."""
    x, y = grid(size_px)
    column = x[0]
    fovea = rng.uniform(-0.5, 0.5)
    base = rng.uniform(0.0, 0.45) + rng.uniform(-0.3, 0.3) * column + rng.uniform(-0.12, 0.16) * column**2
    base = base + 0.015 * clouds(rng, size_px, 6)[0]
    thickness = np.full_like(column, rng.uniform(0.42, 0.64))
    away = (column - fovea) ** 2
    if finding == "macular edema":
        thickness = thickness * (1 + rng.uniform(-0.15, 0.3) * np.exp(-away / 0.08))
    elif finding == "macular hole":
        thickness = thickness * (1 + rng.uniform(-0.1, 0.2) * np.exp(-away / 0.15))
    else:
        thickness = thickness * (1 - rng.uniform(0.05, 0.55) * np.exp(-away / rng.uniform(0.02, 0.05)))
    top = base - thickness
    lifted = base
    if finding == "pigment epithelial detachment":
        at, width = fovea + rng.uniform(-0.35, 0.35), rng.uniform(0.16, 0.34)
        lifted = base - rng.uniform(0.18, 0.27) * np.clip(1 - ((column - at) / width) ** 2, 0, None) ** 0.7
        top = top + rng.uniform(0.1, 0.6) * (lifted - base)
    relative = (y - top) / (lifted - top)
    image = np.interp(relative, LAYERS, ECHOES).astype(np.float32)
    hollow = (y > lifted + 0.07) & (y < base)
    image = np.where(hollow, np.float32(0.06), image)
    image = np.where((lifted < base - 0.03) & (np.abs(y - base - 0.02) < 0.03), np.float32(0.5), image)
    image = image * (1 - _holes(finding, rng, size_px=size_px, fovea=fovea, base=base, thickness=thickness))
    for at in rng.uniform(-1, 1, int(rng.integers(1, 6))):
        image = image * np.where(
            (np.abs(column - at) < 0.04) & (y > top + 0.12), np.float32(rng.uniform(0.35, 0.75)), np.float32(1)
        )
    image = image * (1 + 0.15 * clouds(rng, size_px, 7)) * speckle(rng, size_px, passes=1)
    image = image + 0.02
    return Drawing(image=image.astype(np.float32)[..., None], field=everywhere(size_px))


def _holes(
    finding: str, rng: np.random.Generator, *, size_px: int, fovea: float, base: Plane, thickness: Plane
) -> Plane:
    """Return how far tissue is missing, (H, W): fluid cysts inside the retina, or a gap right through it."""
    sheet = Sheet(size_px, Pose(matrix=np.eye(2), offset=np.zeros(2)))
    middle = int((fovea + 1) / 2 * size_px)
    floor, height = float(base[middle]), float(thickness[middle])
    if finding == "macular edema":
        for step in rng.uniform(-0.32, 0.32, int(rng.integers(2, 6))):
            at = (fovea + step, floor - height * rng.uniform(0.4, 0.62))
            sheet.ellipse(at, (rng.uniform(0.055, 0.08), rng.uniform(0.075, 0.13)), 0.9)
    elif finding == "macular hole":
        low, high = rng.uniform(0.08, 0.17), rng.uniform(0.04, 0.26)
        top = floor - height - 0.15
        left = curve((fovea - high - 0.06, top), (fovea - low * 0.3, floor - height * 0.6), (fovea - low, floor - 0.06))
        right = curve(
            (fovea + low, floor - 0.06), (fovea + low * 0.3, floor - height * 0.6), (fovea + high + 0.06, top)
        )
        sheet.polygon(np.concatenate([left, right]), 0.95)
    return sheet.array(blur_px=size_px / 130)
