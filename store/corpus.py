"""From corpus files to a pair table, and from a row of it back to the image's bytes."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from .errors import CorpusError, PairDecodeError
from .images import image_size
from .location import Location, locate
from .pairs import PAIR_SCHEMA, check_keys
from .webdataset import TarPair, read_tar


@dataclass(kw_only=True, slots=True)
class CorpusIndex:
    """Pairs found in a corpus.

    Attributes:
        table: of PAIR_SCHEMA.
        root: the folder that the table's uris are relative to.
        problems: one line per pair whose members are not as they should be; such a pair is kept.
    """

    table: pa.Table
    root: Path
    problems: list[str] = field(default_factory=list)


def corpus_files(patterns: list[str]) -> list[Path]:
    """Return the files that the patterns name, in a fixed order.

    Raises:
        CorpusError: a pattern matches nothing.
    """
    files: list[Path] = []
    for pattern in patterns:
        found = sorted(Path(name).absolute() for name in glob.glob(pattern, recursive=True))  # noqa: PTH207 - patterns may be absolute, which Path.glob refuses
        if not found:
            raise CorpusError(
                f"no corpus shard matches {pattern!r}",
                hint="python -m extract phantom --out DIR draws a corpus to try; or correct the path",
            )
        files += found
    return list(dict.fromkeys(files))


def index_tars(
    files: list[Path], *, qualify_keys: bool = False, on_shard: Callable[[int], object] | None = None
) -> CorpusIndex:
    """Read WebDataset tars once and return the table of their pairs.

    A key without image or without caption is kept as a row: extraction gives it a bad status and says why, so that
    nothing vanishes in silence.

    Args:
        files: the corpus shards.
        qualify_keys: put the shard's name before each key, for corpora whose shards count their keys anew.
        on_shard: called with 1 after each shard.

    Raises:
        CorpusError: a shard cannot be read, a key occurs twice, or there is no pair at all.
    """
    root = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for file in files:
        uri = file.relative_to(root).as_posix()
        for pair in read_tar(file):
            if pair.offset is None and pair.caption is None and "caption" not in pair.metadata:
                problems.append(f"{uri}: {pair.key}: passed over, it has neither an image nor a caption")
                continue
            prefix = f"{file.stem}/" if qualify_keys else ""
            rows.append(_row(pair, row=len(rows), key=prefix + pair.key, uri=uri))
            problems += [f"{uri}: {pair.key}: {problem}" for problem in pair.problems]
        if on_shard:
            on_shard(1)
    if not any(row["uri"] is not None and row["caption"] for row in rows):
        raise CorpusError(
            f"the corpus holds no pair: {len(files)} shards were read, {len(rows)} keys found, and none has both an "
            "image and a caption",
            hint="a pair is KEY.jpg (or .png, ...) and KEY.txt, side by side in a tar",
        )
    check_keys([row["key"] for row in rows])
    return CorpusIndex(table=pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), root=root, problems=problems)


def _row(pair: TarPair, *, row: int, key: str, uri: str) -> dict[str, Any]:
    has_image = pair.offset is not None
    size = image_size(pair.image) if has_image else None
    caption = pair.caption if pair.caption is not None else pair.metadata.get("caption")

    def text(name: str) -> str | None:
        value = pair.metadata.get(name)
        return value if isinstance(value, str) else None

    return {
        "row": row,
        "key": key,
        "uri": uri if has_image else None,
        "member": {"offset": pair.offset, "nbytes": pair.nbytes} if has_image else None,
        "caption": caption.strip() if isinstance(caption, str) else None,
        "modality": text("modality"),
        "split": text("split"),
        "image_sha256": hashlib.sha256(pair.image).hexdigest() if has_image else None,
        "width": size[0] if size else None,
        "height": size[1] if size else None,
        "source": text("source"),
        "license": text("license"),
    }


class ImageSource:
    """Fetches images by the uri and member columns of a pair table.

    Safe for use from several threads: each read opens the file by itself.

    Args:
        root: the folder or URL that uris are relative to.
    """

    def __init__(self, root: str | os.PathLike[str] | Location) -> None:
        self._root = locate(root)

    def fetch(self, uri: str | None, member: dict[str, int] | None) -> bytes:
        """Return the bytes of one image.

        Args:
            uri: the table's column.
            member: the table's column, as a dictionary of offset and nbytes.

        Raises:
            PairDecodeError: the pair has no image, or fewer bytes are there than the table says.
            CorpusError: the corpus is not where the store says it is.
        """
        if uri is None:
            raise PairDecodeError("the corpus has no image for this key (missing member)")
        try:
            if member is None:
                return self._root.read(uri)
            data = self._root.read_part(uri, member["offset"], member["nbytes"])
        except FileNotFoundError as error:
            raise CorpusError(
                f"{self._root.show(uri)}: the corpus is not where the store says",
                hint="give --corpus-root FOLDER, the folder that now holds the corpus",
            ) from error
        if len(data) != member["nbytes"]:
            raise PairDecodeError(f"{uri} is cut short: {len(data)} of {member['nbytes']} bytes are there")
        return data
