"""Colour images: retina (fundus), skin (dermatology), gut (endoscopy), and stained tissue (histopathology)."""

from __future__ import annotations

import numpy as np

from .canvas import Drawing, Place, Points, Pose, Sheet, Tone, curve, everywhere, grid, scattered, shaded

Colour = tuple[float, float, float]


def _scaled(colour: Colour, by: float) -> Colour:
    return colour[0] * by, colour[1] * by, colour[2] * by


def _tinted(rng: np.random.Generator, colour: Colour, *, by: float) -> Colour:
    r, g, b = (np.asarray(colour) + rng.uniform(-by, by) + rng.uniform(-by, by, 3) / 2).tolist()
    return r, g, b


def fundus(finding: str, rng: np.random.Generator, size_px: int) -> Drawing:
    """Draw a fundus photograph with optic disc, vessels and macula; the eye is left or right."""
    pose = Pose.random(rng, turn=0.35, shift=0.05, zoom=(0.95, 1.2), mirror=True)
    x, y = grid(size_px)
    field = x * x + y * y < rng.uniform(0.86, 0.96) ** 2
    sheet = Sheet(size_px, pose, ground=_tinted(rng, (0.72, 0.36, 0.16), by=0.06))
    nerve = np.array([rng.uniform(-0.48, -0.34), rng.uniform(-0.08, 0.08)])
    macula = (float(nerve[0] + rng.uniform(0.62, 0.72)), float(nerve[1] + 0.05))
    for ring, tone in ((0.26, (0.66, 0.31, 0.13)), (0.16, (0.58, 0.26, 0.11))):
        sheet.ellipse(macula, (ring, ring), tone)
    _arcades(sheet, rng, nerve, wave=rng.uniform(0.065, 0.095) if finding == "tortuous retinal vessels" else 0.0)
    disc = rng.uniform(0.17, 0.22)
    sheet.ellipse(nerve, (disc, disc * rng.uniform(1.0, 1.15)), (0.9, 0.66, 0.36))
    cup = disc * (rng.uniform(0.3, 0.7))
    sheet.ellipse((nerve[0] + rng.uniform(-0.02, 0.02), nerve[1]), (cup, cup), (1.0, 0.92, 0.7))
    if finding == "macular drusen":
        count = int(rng.integers(10, 22))
        sheet.dots(
            scattered(rng, count, centre=macula, spread=0.34), rng.uniform(0.03, 0.055, count), (0.95, 0.8, 0.42)
        )
    if finding == "retinal hemorrhages":
        for at in scattered(rng, int(rng.integers(6, 13)), centre=(0.1, 0), spread=0.75):
            sheet.blob(at, rng.uniform(0.045, 0.09, 2), (0.4, 0.08, 0.05), rng=rng, rough=0.12)
    image = sheet.array(blur_px=size_px / 140)
    image = shaded(image, rng, light=0.07, texture=0.02)
    return Drawing(image=np.where(field[..., None], image, np.float32(0.02)), field=field)


def _arcades(sheet: Sheet, rng: np.random.Generator, nerve: Points, *, wave: float) -> None:
    """Paint the vessels that leave the optic disc; tortuous ones swing by ``wave`` about their course."""
    for up in (-1, 1):
        for reach, width in ((0.62, 0.06), (0.48, 0.045)):
            bend = nerve + np.array([rng.uniform(0.1, 0.3), up * reach * 1.3])
            path = curve(nerve, bend, (0.95, up * reach * rng.uniform(0.5, 1.1)), num_points=33)
            turns = np.linspace(0, rng.uniform(22, 30), 33) + rng.uniform(0, 2 * np.pi)
            swing = wave * np.sin(turns) * np.linspace(0, 2, 33).clip(0, 1)
            path = path + swing[:, None] * np.array([0.5, up])
            sheet.line(path, width * rng.uniform(0.7, 1.1), _tinted(rng, (0.5, 0.14, 0.08), by=0.03))
            for start in (path[11], path[22]):
                end = start + np.array([rng.uniform(0.1, 0.4), up * rng.uniform(0.15, 0.4)])
                sheet.line(np.stack([start, end]), width * 0.5, (0.52, 0.17, 0.09))
        nasal = nerve - np.array([0.5, up * 0.7])
        sheet.line(curve(nerve, nerve - np.array([0.15, up * 0.3]), nasal), 0.04, (0.5, 0.15, 0.08))


def dermatology(finding: str, rng: np.random.Generator, size_px: int) -> Drawing:
    """Draw a dermatoscopic photograph of one lesion on skin, with hairs."""
    pose = Pose.random(rng, turn=np.pi, shift=0.2, zoom=(0.85, 1.12), mirror=True)
    skin = _tinted(rng, (0.84, 0.62, 0.5), by=0.08)
    sheet = Sheet(size_px, pose, ground=skin)
    brown = _tinted(rng, (0.56, 0.36, 0.25), by=0.06)
    dark = _scaled(brown, 0.6)
    size = rng.uniform(0.4, 0.56, 2)
    if finding == "benign nevus":
        for share in (1.0, 0.86, 0.66, 0.44):
            sheet.blob((0, 0), size * share, _scaled(brown, 0.5 + 0.5 * share), rng=rng, rough=0.02)
    elif finding == "melanoma":
        sheet.blob((0, 0), size, brown, rng=rng, rough=0.2)
        for at in scattered(rng, int(rng.integers(3, 7)), centre=(0, 0), spread=0.45):
            tone = _scaled(brown, rng.uniform(0.5, 0.9))
            sheet.blob(at, rng.uniform(0.1, 0.24, 2), tone, rng=rng, rough=0.2)
    else:
        _pearl(sheet, rng, size=size, skin=skin, dark=dark)
    for start in scattered(rng, int(rng.integers(1, 6)), centre=(0, 0), spread=1.2):
        end = -start + rng.normal(0, 0.5, 2)
        sheet.line(curve(start * 1.3, rng.normal(0, 0.5, 2), end * 1.3), 0.02, (0.24, 0.17, 0.12))
    image = shaded(sheet.array(blur_px=size_px / 90), rng, light=0.06, texture=0.04)
    return Drawing(image=image, field=everywhere(size_px))


def _pearl(sheet: Sheet, rng: np.random.Generator, *, size: Points, skin: Colour, dark: Colour) -> None:
    """Paint a pale nodule with a darker border that branching vessels cross, now and then with a crusted middle."""
    sheet.blob((0, 0), size, _scaled(skin, 0.7), rng=rng, rough=0.05)
    sheet.blob((0, 0), size * 0.86, _scaled(skin, 0.84), rng=rng, rough=0.05)
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(rng.integers(2, 5)) * 1.6 + rng.normal(0, 0.3):
        root = size * (np.cos(angle), np.sin(angle))
        tips = size * 0.6 * np.stack([np.cos(angle + TWIGS), np.sin(angle + TWIGS)], axis=1)
        fork = root * rng.uniform(0.3, 0.6) + rng.normal(0, 0.05, 2)
        sheet.line(curve(root, (root + fork) / 2 + rng.normal(0, 0.06, 2), fork), rng.uniform(0.045, 0.065), dark)
        for tip in tips + rng.normal(0, 0.08, tips.shape):
            sheet.line(curve(fork, (fork + tip) / 2 + rng.normal(0, 0.06, 2), tip), 0.035, dark)
    if rng.random() < 0.3:
        sheet.blob(rng.normal(0, 0.08, 2), size * 0.25, dark, rng=rng, rough=0.2)


TWIGS = np.array([-2.2, 1.0, 2.6])
"""Ends of a vessel's twigs, as angles from its root."""


def endoscopy(finding: str, rng: np.random.Generator, size_px: int) -> Drawing:
    """Draw a view along the colon: folds around a dark lumen, lit from the camera."""
    pose = Pose.random(rng, turn=np.pi, shift=0.06, zoom=(0.9, 1.1))
    x, y = grid(size_px)
    field = np.maximum(np.maximum(np.abs(x), np.abs(y)), (np.abs(x) + np.abs(y)) * 0.72) < rng.uniform(0.9, 0.98)
    mucosa = _tinted(rng, (0.8, 0.44, 0.36), by=0.06)
    sheet = Sheet(size_px, pose, ground=mucosa)
    lumen = rng.uniform(-0.45, 0.45, 2)
    for reach in (1.2, 0.9, 0.64, 0.42):
        at = lumen * (1.25 - reach)
        for share, light in ((1.06, 1.12), (1.0, 0.62), (0.9, 0.85)):
            tone = _scaled(mucosa, light * (0.6 + 0.36 * reach))
            sheet.blob(at, (reach * share, reach * share), tone, rng=rng, rough=0.04)
    sheet.blob(lumen * 1.02, (0.2, 0.2), (0.16, 0.06, 0.05), rng=rng, rough=0.1)
    away = -lumen / (np.hypot(*lumen) + 0.01)
    turn = rng.uniform(-1.3, 1.3)
    heading = np.array(
        [away[0] * np.cos(turn) - away[1] * np.sin(turn), away[0] * np.sin(turn) + away[1] * np.cos(turn)]
    )
    place = lumen + heading * rng.uniform(0.5, 0.62)
    if finding == "colon polyp":
        _polyp(sheet, rng, place=place, heading=heading, mucosa=mucosa)
    elif finding == "mucosal ulcer":
        radius = rng.uniform(0.2, 0.3)
        sheet.blob(place, (radius * 1.3, radius * 1.3), (0.62, 0.18, 0.15), rng=rng, rough=0.12)
        sheet.blob(place, (radius, radius), (0.95, 0.86, 0.7), rng=rng, rough=0.2)
        sheet.blob(place, (radius * 0.4, radius * 0.35), (0.7, 0.55, 0.42), rng=rng, rough=0.25)
    elif finding == "active bleeding":
        _bleeding(sheet, rng, place=place)
    image = sheet.array(blur_px=size_px / 70)
    glints = Sheet(size_px, pose)
    count = int(rng.integers(3, 8))
    glints.dots(scattered(rng, count, centre=(0, 0), spread=0.85), rng.uniform(0.01, 0.03, count), 0.6)
    image = image + glints.array()[..., None]
    image = shaded(image, rng, light=0.06, texture=0.02)
    return Drawing(image=np.where(field[..., None], image, np.float32(0.02)), field=field)


def _polyp(sheet: Sheet, rng: np.random.Generator, *, place: Points, heading: Points, mucosa: Colour) -> None:
    """Paint a dome: a shadow at its foot, brighter toward the camera, a glint on top."""
    radius = rng.uniform(0.22, 0.32)
    sheet.ellipse(place - heading * 0.07, (radius * 1.12, radius * 1.12), _scaled(mucosa, 0.4))
    for share, light in ((1.0, 0.85), (0.82, 1.0), (0.6, 1.12), (0.36, 1.22)):
        middle = place + heading * radius * (1 - share) * 0.6
        sheet.ellipse(middle, (radius * share, radius * share), _scaled(mucosa, light))
    sheet.ellipse(place + heading * radius * 0.4, (0.04, 0.04), (1.0, 0.97, 0.95))


def _bleeding(sheet: Sheet, rng: np.random.Generator, *, place: Points) -> None:
    """Paint a source and the streaks that run from it."""
    blood = (0.42, 0.03, 0.03)
    down = rng.uniform(0, 2 * np.pi)
    sheet.blob(place, (0.1, 0.1), blood, rng=rng, rough=0.25)
    for turn in rng.normal(0, 0.35, int(rng.integers(2, 4))):
        end = place + rng.uniform(0.4, 0.75) * np.array([np.cos(down + turn), np.sin(down + turn)])
        sheet.line(curve(place, (place + end) / 2 + rng.normal(0, 0.12, 2), end), rng.uniform(0.09, 0.14), blood)
        sheet.ellipse(end, (0.06, 0.06), blood)


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
