"""Retrieval on held-out pairs during training, in both directions.

Axes: V validation pairs, E student width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from store.console import progress
from store.errors import CorpusError
from store.texts.tokens import CaptionTokenizer
from train.data.captions import Tokens
from train.data.image_loader import ImageLoader
from train.models.towers import Towers
from train.runtime.ranks import ALONE, Ranks

RECALL_AT = (1, 5, 10)
"""Ranks up to which the right one counts as found."""

CHUNK_ROWS = 256
"""Number of rows per forward pass and of queries per comparison; does not affect the result."""


def held_out(digests: Sequence[str | None], *, share: float) -> npt.NDArray[np.bool_]:
    """Return which images belong to the held-out share: those whose SHA-256 begins with a small number.

    All pairs of an image are thus on one side, also after rows were added to the table.

    Args:
        digests: hexadecimal SHA-256 of each pair's image; None is not held out.
        share: of the images, 0 to 1.
    """
    bound = int(share * 2**32)
    return np.array([digest is not None and int(digest[:8], 16) < bound for digest in digests], bool)


def evenly(rows: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """Return at most ``limit`` rows, evenly spread over those given."""
    if len(rows) <= limit:
        return rows
    return rows[np.arange(limit) * len(rows) // limit]


def recalls(
    image_VE: Tensor, text_VE: Tensor, *, images: npt.NDArray[np.int64], texts: npt.NDArray[np.int64]
) -> dict[str, float]:
    """Return recall at K by name, in both directions.

    Equal cosines count against the model, so a constant embedding finds nothing. Pairs with the same image or
    the same caption are not counted as wrong answers to each other.

    Args:
        image_VE, text_VE: embeddings of the same pairs; L2-normalised here.
        images: (V,) a number per distinct image.
        texts: (V,) a number per distinct caption.
    """
    image_VE, text_VE = functional.normalize(image_VE.float(), dim=-1), functional.normalize(text_VE.float(), dim=-1)
    found = {}
    for name, query_VE, answer_VE, same in (
        ("image_to_text", image_VE, text_VE, texts),
        ("text_to_image", text_VE, image_VE, images),
    ):
        better_V = _better(query_VE, answer_VE, torch.from_numpy(same))
        for k in RECALL_AT:
            found[f"{name}_recall@{k}"] = float((better_V < k).float().mean())
    return found


def _better(query_VE: Tensor, answer_VE: Tensor, same_V: Tensor) -> Tensor:
    """Return for each query how many wrong answers are at least as near as its own, (V,)."""
    counts = []
    for begin in range(0, len(query_VE), CHUNK_ROWS):
        cosine_QV = query_VE[begin : begin + CHUNK_ROWS] @ answer_VE.T
        places = torch.arange(len(cosine_QV))
        own_Q1 = cosine_QV[places, begin + places][:, None]
        wrong_QV = same_V[None, :] != same_V[begin : begin + len(cosine_QV), None]
        counts.append(((cosine_QV >= own_Q1) & wrong_QV).sum(dim=1))
    return torch.cat(counts)


class Validation:
    """Embeds held-out pairs and computes retrieval between images and texts.

    Args:
        loader: crops nothing at random.
        rows: of the pair table.
        captions: of these rows.
        digests: of their images.
    """

    def __init__(
        self,
        tokenizer: CaptionTokenizer,
        loader: ImageLoader,
        *,
        rows: npt.NDArray[np.int64],
        captions: Sequence[str],
        digests: Sequence[str | None],
        ranks: Ranks = ALONE,
    ) -> None:
        self._tokenizer, self._loader, self._ranks = tokenizer, loader, ranks
        self._rows, self._captions = rows, list(captions)
        self._texts = _numbered(captions)
        self._images = _numbered([digest or f"row {row}" for digest, row in zip(digests, rows, strict=True)])

    def __call__(self, towers: Towers) -> dict[str, float]:
        """Return recalls by name; all processes call this and get the same values."""
        mine = np.arange(len(self._rows))[self._ranks.rank :: self._ranks.world_size]
        shown = progress(len(mine), label="validate", noun="pairs")
        # Processes of torchrun share a terminal, where the first one has its bars.
        with shown if self._ranks.is_first else contextlib.nullcontext(lambda _: None) as advance:
            parts = []
            for begin in range(0, len(mine), CHUNK_ROWS):
                places = mine[begin : begin + CHUNK_ROWS]
                parts.append(self._embed(towers, places))
                advance(len(places))
        found = [part for of_rank in self._ranks.gather(parts) for part in of_rank]
        places = np.concatenate([part[0] for part in found])
        image_VE, text_VE = torch.cat([part[1] for part in found]), torch.cat([part[2] for part in found])
        order = np.argsort(places)
        return recalls(
            image_VE[order], text_VE[order], images=self._images[places[order]], texts=self._texts[places[order]]
        )

    @torch.no_grad()
    def _embed(self, towers: Towers, places: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Tensor, Tensor]:
        device = towers.mean.device
        with self._loader.begin(self._rows[places], epoch=0) as images:
            pixels_KHWC, readable_B = images.result()
            pixels = torch.from_numpy(pixels_KHWC).to(device, copy=True)
        places = places[readable_B]
        tokens = Tokens.of([self._captions[place] for place in places], self._tokenizer)
        image_BE, text_BE, _ = towers(pixels, tokens.ids_BL.to(device), tokens.lengths_B)
        return places, image_BE.float().cpu(), text_BE.float().cpu()


def _numbered(values: Sequence[str]) -> npt.NDArray[np.int64]:
    numbers: npt.NDArray[np.int64] = np.unique(np.array(values, dtype=object), return_inverse=True)[1].astype(np.int64)
    return numbers


def require_pairs(name: str, rows: npt.NDArray[np.int64], *, where: str) -> None:
    """Check that there are pairs to validate on.

    Raises:
        CorpusError: there are fewer than two pairs.
    """
    if len(rows) < 2:
        raise CorpusError(
            f"{name}: {len(rows)} pairs to validate on ({where})",
            hint="set validation: {holdout: 0.02}, or leave optimization.validate_every out",
        )
