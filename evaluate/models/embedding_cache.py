"""A cache of embeddings: files named by a digest of everything that decides their content."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.results.record import ModelFacts
from store.files import write_atomic
from store.images.depth import POLICY

from .encoders import Embedded, Embeddings, Encoder, ImageSet


class CachedEncoder:
    """An encoder that caches its embeddings.

    The keys are digests of images and model, so that a moved dataset or model is found again and a changed one is not.

    Args:
        max_pixels: decides whether an image can be embedded, and so is part of the key.
    """

    def __init__(self, encoder: Encoder, folder: Path, *, max_pixels: int) -> None:
        self._encoder, self._folder = encoder, folder
        self._pixels = {"max_pixels": max_pixels, "policy": POLICY}
        self.facts: ModelFacts = encoder.facts
        self.logit_scale = encoder.logit_scale

    def embed_images(self, images: ImageSet) -> Embedded:
        """Return embeddings of images, computed at most once."""
        path = self._path("images", {"digests": list(images.digests), **self._pixels})
        found = _read(path)
        if found is None:
            computed = self._encoder.embed_images(images)
            reasons = json.dumps({str(place): why for place, why in computed.without.items()})
            _write(path, rows=computed.rows, without=np.array(reasons))
            return computed
        without = {int(place): why for place, why in json.loads(str(found["without"])).items()}
        return Embedded(rows=found["rows"], without=without)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Return embeddings of texts, computed at most once."""
        path = self._path("texts", {"texts": list(texts)})
        found = _read(path)
        if found is None:
            rows_NE = self._encoder.embed_texts(texts)
            _write(path, rows=rows_NE)
            return rows_NE
        rows: Embeddings = found["rows"]
        return rows

    def _path(self, kind: str, content: dict[str, Any]) -> Path:
        parts = {"kind": kind, "model": self.facts.digest, **content}
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self._folder / f"{digest}.npz"


def _read(path: Path) -> dict[str, Any] | None:
    """Return the arrays of a file; None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        # Damaged entries are computed again.
        return None


def _write(path: Path, **arrays: Any) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())
