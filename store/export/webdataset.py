"""Rows of a store as WebDataset tars: image, caption, metadata and features of a pair side by side."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from store.corpus.read_ahead import ReadAhead, Take
from store.errors import CorpusError, PairDecodeError
from store.format.records import SIDES, Status
from store.images.decode import NO_IMAGE
from store.images.dicom import is_dicom

from .images import image_requests
from .rows import Rows, Skipped

WINDOW = 64
"""Images that are held at once, beside those that are read ahead."""

_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "GIF": "gif"}
_SAFE_KEY = re.compile(r"[^/.][^.]*")


def write_tars(rows: Rows, folder: Path, advance: Callable[[int], object]) -> list[Skipped]:
    """Write one ``NNNNNN.tar`` per range: KEY.jpg (or as the image is), KEY.txt, KEY.json, KEY.TEACHER.image.npy, ...

    Where a teacher has no feature of a row there is no member; ``KEY.json`` says why. A pair whose image cannot be read
    is left out.

    Raises:
        CorpusError: not one image of the first range is where the store says, so the corpus is elsewhere.
    """
    skipped: list[Skipped] = []
    with ThreadPoolExecutor(8) as pool, ReadAhead(rows.store.images) as ahead:
        request = image_requests(rows.store, ahead, first_row=rows.start)
        for range_id, start, stop in rows.blocks():
            # The rest of a pair is small, so the window of images bounds the memory.
            pairs = rows.store.pairs.read(start, stop).to_pylist()
            values = {
                teacher: {name: rows.values(teacher, name, start, stop) for name in rows.arrays(teacher)}
                for teacher in rows.teachers
            }
            elsewhere: list[CorpusError] = []
            with tarfile.open(folder / f"{range_id:06d}.tar", "w") as tar:
                for position, image in enumerate(_images(request(pairs), pool)):
                    pair = pairs[position]
                    if isinstance(image, CorpusError):
                        skipped.append(Skipped(row=pair["row"], key=pair["key"], reason=str(image)))
                        elsewhere += [] if isinstance(image, PairDecodeError) else [image]
                    else:
                        at = {
                            teacher: {name: array[position] for name, array in arrays.items()}
                            for teacher, arrays in values.items()
                        }
                        _add(tar, pair, image, at)
            if len(elsewhere) == len(pairs) == len(skipped):
                raise elsewhere[0]
            advance(stop - start)
    return skipped


def _images(takes: list[Take], pool: ThreadPoolExecutor) -> Iterator[tuple[str, bytes] | CorpusError]:
    def fetch(take: Take) -> tuple[str, bytes] | CorpusError:
        try:
            data = take()
            return _suffix(data), data
        except CorpusError as error:
            return error

    for first in range(0, len(takes), WINDOW):
        yield from pool.map(fetch, takes[first : first + WINDOW])


def _suffix(data: bytes) -> str:
    if is_dicom(data):
        return "dcm"
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _SUFFIXES.get(image.format or "", (image.format or "bin").lower())
    # Pillow raises nearly anything on damaged files.
    except Exception:  # noqa: BLE001 - see above
        raise PairDecodeError(NO_IMAGE) from None


def _add(tar: tarfile.TarFile, pair: dict[str, Any], image: tuple[str, bytes], teachers: dict[str, Any]) -> None:
    # In WebDataset a key ends at the first dot of the base name, so a key with dots would be cut.
    folder, slash, base = pair["key"].rpartition("/")
    safe = _SAFE_KEY.fullmatch(base) and not pair["key"].startswith("/") and ".." not in folder.split("/")
    name = f"{folder}{slash}{base}" if safe else f"row{pair['row']:09d}"
    suffix, data = image
    _member(tar, f"{name}.{suffix}", data)
    if pair["caption"] is not None:
        _member(tar, f"{name}.txt", pair["caption"].encode())
    metadata = {column: value for column, value in pair.items() if column != "member"}
    metadata["teachers"] = {
        teacher: {
            "status": Status(int(at["status"])).name.lower(),
            "similarity": float(at["similarity"]) if "similarity" in at else None,
        }
        for teacher, at in teachers.items()
    }
    _member(tar, f"{name}.json", json.dumps(metadata).encode())
    for teacher, at in teachers.items():
        if at["status"] == Status.OK:
            for side in (side for side in SIDES if side in at):
                buffer = io.BytesIO()
                np.save(buffer, at[side], allow_pickle=False)
                _member(tar, f"{name}.{teacher}.{side}.npy", buffer.getvalue())


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
