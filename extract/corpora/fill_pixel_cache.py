"""Fills a store's pixel cache: makes every image small and encodes it again, once."""

from __future__ import annotations

import io
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import PIL
import pyarrow as pa
from PIL import Image, features

from store.console import progress
from store.corpus.image_source import ImageSource
from store.corpus.read_ahead import ReadAhead, Take
from store.errors import PairDecodeError, kind_of
from store.files import sweep_temporary
from store.format.commit import valid_receipt
from store.format.pairs import PairTable
from store.format.pixels import (
    PIXEL_SPEC_KEY,
    PixelReceipt,
    PixelSpec,
    SmallImage,
    commit_pixels,
    pixel_receipt_key,
    register_pixels,
)
from store.format.promote import recover, replace_units
from store.format.records import read_store_info, require_present_format
from store.images.decode import MAX_PIXELS, decode_image
from store.io.folder import Folder
from store.io.location import Location, locate
from store.io.lock import exclusive

log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class PixelOutcome:
    """The result of filling the cache.

    Attributes:
        found: ranges that were committed before.
        done: ranges that this call committed, with ``nbytes`` bytes.
        bad_rows: rows of these without image, by reason.
    """

    ranges: int
    found: int
    done: int = 0
    nbytes: int = 0
    bad_rows: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def make_pixels(
    store: str | os.PathLike[str] | Location,
    spec: PixelSpec,
    *,
    corpus_root: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
    replace: bool = False,
) -> PixelOutcome:
    """Complete a store's pixel cache. Kill it at any moment and run it again: committed ranges stay.

    Memory holds the encoded images of one range, one decoded image per thread, and what `ReadAhead` reads ahead.

    Args:
        corpus_root: where the images lie, if the corpus moved since it was indexed.
        allow: places beside it that single images may be read from.
        threads: threads that read, decode and encode; one per core if left out.
        max_pixels: largest width times height that is decoded.
        replace: replace images of another spec, once all new ones are there.

    Raises:
        SpecMismatchError: the store holds images of another spec, and ``replace`` is not given.
        CorpusError: the corpus is not where the store says, or was changed since it was indexed.
    """
    began = time.monotonic()
    location = locate(store)
    read_store_info(location)

    def small_image(take: Take) -> SmallImage:
        try:
            return keep(take(), spec, max_pixels=max_pixels)
        except PairDecodeError as error:
            return SmallImage(reason=str(error))

    with exclusive(location) as lock:
        info = read_store_info(location)
        require_present_format(location, info)
        pairs, source = PairTable(location, info), ImageSource(corpus_root or info.corpus_root, allow=allow)
        if isinstance(location, Folder):
            sweep_temporary(location.path / "pixels")
        recover(location, guard=lock.check)
        at = register_pixels(location, spec, replace=replace)
        place = location.below(at)

        def is_committed(range_id: int) -> bool:
            key, digest = pixel_receipt_key(range_id), pairs.digest(*info.bounds(range_id))
            return valid_receipt(place, key, PixelReceipt, spec_hash=spec.hash, digest=digest) is not None

        ranges = [range_id for range_id in range(info.ranges) if not is_committed(range_id)]
        outcome = PixelOutcome(ranges=info.ranges, found=info.ranges - len(ranges))
        with (
            ThreadPoolExecutor(threads or os.cpu_count()) as pool,
            ReadAhead(source) as ahead,
            progress(len(ranges), label="pixels", noun="ranges") as advance,
        ):
            for range_id in ranges:
                part, range_began = pairs.read(*info.bounds(range_id)), time.monotonic()
                takes = ahead.request(part.select(["uri", "member", "image_sha256"]).to_pylist())
                # After an error or Ctrl-C the pool cancels the rest of the range.
                images = list(pool.map(small_image, takes))
                receipt = commit_pixels(
                    place,
                    info=info,
                    spec=spec,
                    range_id=range_id,
                    pairs=part,
                    images=images,
                    timings_s={"encode": round(time.monotonic() - range_began, 4)},
                    versions=_versions(),
                    guard=lock.check,
                )
                outcome.done += 1
                outcome.nbytes += sum(stored.nbytes for stored in receipt.objects.values())
                outcome.bad_rows.update(kind_of(bad.reason) for bad in receipt.bad_rows)
                advance(1)
        if at:
            replace_units(location, at, PIXEL_SPEC_KEY, guard=lock.check)
    outcome.seconds = time.monotonic() - began
    return outcome


def keep(data: bytes, spec: PixelSpec, *, max_pixels: int = MAX_PIXELS) -> SmallImage:
    """Return an image file as the cache stores it.

    Raises:
        PairDecodeError: it cannot be decoded, or the format cannot hold it.
    """
    image = decode_image(data, max_pixels=max_pixels, window=spec.window)
    small = shrink(image, spec.short_side_px)
    encoded = encode(small, spec)
    if spec.keeps_small_originals and small is image and len(data) <= len(encoded) and _is_plain(data):
        encoded = data
    return SmallImage(data=encoded, width=small.width, height=small.height)


def _is_plain(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L")


def shrink(image: Image.Image, short_side_px: int) -> Image.Image:
    """Return an image resized to that short side, antialiased; a smaller image unchanged."""
    short, long = sorted(image.size)
    if short <= short_side_px:
        return image
    other = round(long * short_side_px / short)
    size = (short_side_px, other) if image.width <= image.height else (other, short_side_px)
    return image.resize(size, Image.Resampling.LANCZOS)


def encode(image: Image.Image, spec: PixelSpec) -> bytes:
    """Return an RGB image as a file.

    Raises:
        PairDecodeError: the format cannot hold it (WebP ends at 16383 pixels a side, JPEG at 65535).
    """
    buffer = io.BytesIO()
    # Otherwise Pillow would copy the original's metadata into the file.
    image.info = {}
    try:
        image.save(buffer, spec.format, **spec.options)
    except (ValueError, OSError) as error:
        raise PairDecodeError(
            f"the image of {image.width} x {image.height} pixels cannot be kept as {spec.format}: {error}"
        ) from error
    return buffer.getvalue()


def _versions() -> dict[str, str]:
    codecs = {"libwebp": features.version("webp"), "libjpeg": features.version("jpg"), "pyarrow": pa.__version__}
    return {"pillow": PIL.__version__} | {name: version for name, version in codecs.items() if version}
