"""Writes the phantom corpus: WebDataset tars of ``.jpg``, ``.txt`` and ``.json``, the same bytes for the same seed."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from store.errors import CorpusError
from store.files import sweep_temporary, write_atomic

from .canvas import Tones
from .catalog import FINDINGS, MODALITIES, caption, known_modality
from .drawing import draw, reference_tones

GENERATOR_VERSION = 2
"""Raised whenever the same parameters give other bytes."""

MANIFEST = "phantom.json"
"""Written last: parameters, counts and the digest of every tar."""

REFERENCES = 128
"""Drawings of each modality from which a corpus takes its tones; one for each image would double the time."""

KEPT_PX = 128
"""Largest images whose tones are kept in memory: 29 MB for all modalities at 64 px, and four times that at 128."""

JPEG_QUALITY = 90
"""High enough that speckle survives; about 2 kB for 64 px."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomSettings:
    """Everything that determines the bytes of a phantom corpus.

    Attributes:
        seed: 0 or more.
        modality: draw only this one; all nine if None.
        others: with ``modality``, share of rows that the other eight get evenly; at least 0, less than 1.
        split: named in each pair's ``.json``; splits of one seed share no image.
        shard_rows: pairs per tar.
        key_prefix: keys are ``<key_prefix>-000000`` and so on.

    Raises:
        CorpusError: a value is out of range.
    """

    rows: int
    seed: int
    modality: str | None = None
    others: float = 0.0
    size_px: int = 64
    split: str = "train"
    shard_rows: int = 1000
    key_prefix: str = "phantom"

    def __post_init__(self) -> None:
        if self.rows <= 0:
            raise CorpusError(
                f"a phantom corpus of {self.rows} rows; expected at least 1", hint="give --rows 1000 or so"
            )
        if self.seed < 0:
            raise CorpusError(f"seed {self.seed} of the phantom corpus; expected 0 or more")
        if self.modality is not None:
            known_modality(self.modality)
        if not 0 <= self.others < 1:
            raise CorpusError(f"share of other modalities {self.others}; expected 0 or more and less than 1")
        if self.others and self.modality is None:
            raise CorpusError(f"share of other modalities {self.others} without a modality", hint="give --modality too")
        if self.size_px < 32:
            raise CorpusError(f"phantom images of {self.size_px} px; expected at least 32")
        if self.shard_rows <= 0:
            raise CorpusError(f"{self.shard_rows} rows per tar; expected at least 1")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.key_prefix):
            raise CorpusError(f"key prefix {self.key_prefix!r}; expected 1 to 64 letters, digits, '-' or '_'")

    def subject(self, row: int) -> tuple[str, str]:
        """Return the modality and the finding's canonical name of a row; every choice takes its turn."""
        if self.modality is None:
            modality, turn = self._taking_turns(row, tuple(MODALITIES))
        else:
            # The small term allows for rounding of products such as 10 * 0.7.
            before, after = int(row * self.others + 1e-9), int((row + 1) * self.others + 1e-9)
            rest = tuple(name for name in MODALITIES if name != self.modality)
            modality, turn = (self.modality, row - before) if before == after else self._taking_turns(before, rest)
        names = tuple(finding.name for finding in FINDINGS[modality])
        return modality, self._taking_turns(turn, names, salt=modality)[0]

    def generator(self, row: int) -> np.random.Generator:
        """Return the random generator of one row's image and caption."""
        return np.random.default_rng([self.seed, _number(f"{self.modality}:{float(self.others)}:{self.split}"), row])

    def tones(self, modality: str, number: int) -> Tones:
        """Return the tones of one of the ``REFERENCES`` drawings of a modality."""
        setting = _number(f"{self.modality}:{float(self.others)}:{self.split}:tones of {modality}")
        return reference_tones(modality, np.random.default_rng([self.seed, setting, number]), size_px=self.size_px)

    def _taking_turns(self, turn: int, choices: tuple[str, ...], *, salt: str = "") -> tuple[str, int]:
        """Return the choice of a turn, each choice once per round in a shuffled order, and the round."""
        done, place = divmod(turn, len(choices))
        return choices[_order(self.seed, salt, done, len(choices))[place]], done


def write_corpus(out: Path, settings: PhantomSettings, advance: Callable[[int], None] = lambda _: None) -> bool:
    """Write a phantom corpus into a folder; return False if one with the same settings is there and complete.

    A row depends only on the seed, the modality setting, the split and its number, so a smaller corpus has the first
    rows of a larger one. Findings take turns within their modality, modalities take turns within the corpus.

    Args:
        advance: is told how many more rows are drawn.

    Raises:
        CorpusError: the folder holds a corpus with other settings.
    """
    parameters = {"generator_version": GENERATOR_VERSION, **asdict(settings)}
    if _is_complete(out, parameters):
        return False
    out.mkdir(parents=True, exist_ok=True)
    sweep_temporary(out)
    (out / MANIFEST).unlink(missing_ok=True)
    tars, modalities = [], Counter[str]()
    for number, start in enumerate(range(0, settings.rows, settings.shard_rows)):
        shard = range(start, min(start + settings.shard_rows, settings.rows))
        data = _tar(settings, shard, modalities, advance)
        name = f"phantom-{number:06d}.tar"
        write_atomic(out / name, data)
        tars.append({"name": name, "rows": len(shard), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    # An interrupted larger corpus may have left tars, which a reader's glob would take for this corpus's.
    for path in out.glob("phantom-[0-9][0-9][0-9][0-9][0-9][0-9].tar*"):
        if path.name not in {tar["name"] for tar in tars}:
            path.unlink()
    drawn = {name: modalities[name] for name in MODALITIES if modalities[name]}
    manifest = {"parameters": parameters, "rows": settings.rows, "modalities": drawn, "tars": tars}
    write_atomic(out / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    return True


@functools.lru_cache(maxsize=len(MODALITIES) * REFERENCES)
def _tones(settings: PhantomSettings, modality: str, number: int) -> Tones:
    return settings.tones(modality, number)


@functools.lru_cache(maxsize=2 * len(MODALITIES))
def _order(seed: int, salt: str, done: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, _number(f"turns:{salt}"), done]).permutation(count)


def _number(text: str) -> int:
    return zlib.crc32(text.encode())


def _is_complete(out: Path, wanted: dict[str, Any]) -> bool:
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        found, tars = manifest["parameters"], [(out / tar["name"], tar["bytes"]) for tar in manifest["tars"]]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{out / MANIFEST} is not a phantom corpus's record: {error}",
            hint="give another --out",
        ) from error
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        listed = "; ".join(f"{name} is {found.get(name)!r}, not {wanted[name]!r}" for name in differing)
        raise CorpusError(
            f"{out} holds a phantom corpus with other parameters: {listed}",
            hint="give another --out",
        )
    return all(path.is_file() and path.stat().st_size == num_bytes for path, num_bytes in tars)


def _tar(settings: PhantomSettings, shard: range, modalities: Counter[str], advance: Callable[[int], None]) -> bytes:
    """Return one tar's bytes and count its rows in ``modalities``; its members have no time and no owner."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in shard:
            modality, finding = settings.subject(row)
            modalities[modality] += 1
            for suffix, data in _pair(settings, row, modality, finding).items():
                member = tarfile.TarInfo(f"{settings.key_prefix}-{row:06d}.{suffix}")
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))
            advance(1)
    return buffer.getvalue()


def _pair(settings: PhantomSettings, row: int, modality: str, finding: str) -> dict[str, bytes]:
    rng = settings.generator(row)
    jpeg = io.BytesIO()
    kept = _tones if settings.size_px <= KEPT_PX else PhantomSettings.tones
    tones = kept(settings, modality, int(rng.integers(REFERENCES)))
    pixels = draw(modality, finding, rng, tones=tones, size_px=settings.size_px)
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    record = {
        "modality": modality,
        "finding": finding,
        "split": settings.split,
        "source": "MMKD phantom",
        "license": "CC0-1.0",
        "seed": settings.seed,
        "index": row,
    }
    text = caption(modality, finding, rng)
    return {"jpg": jpeg.getvalue(), "txt": text.encode("ascii"), "json": json.dumps(record).encode("ascii")}
