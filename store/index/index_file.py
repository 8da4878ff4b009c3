"""Turns one corpus file into candidates for the pair table: maps fields and applies rules on single pairs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile, relative_uri
from store.corpus.curation import first_refusal, pair_rules
from store.corpus.fields import FieldReader, SourcePair, as_text, as_written
from store.corpus.image_source import ImageSource
from store.corpus.near_duplicates import difference_hash
from store.corpus.section import Corpus
from store.errors import CorpusError, PairDecodeError, printable
from store.format.key_index import hash_text
from store.format.pairs import PAIR_SCHEMA
from store.images.decode import decode_image, image_size
from store.layouts.source import Source
from store.texts.captions import clean_caption

CANDIDATE_SCHEMA = pa.schema(
    [
        *[field for field in PAIR_SCHEMA if field.name != "row"],
        pa.field("group", pa.int64(), nullable=False),
        pa.field("key_hash", pa.uint64(), nullable=False),
        pa.field("image_hash", pa.uint64()),
        pa.field("pair_hash", pa.uint64()),
        pa.field("difference_hash", pa.uint64()),
    ]
)
"""A pair before it has a row: ``group`` counts the file's images, and the hashes find duplicates across files."""

BATCH_ROWS = 4096
"""Candidates held as Python values at a time."""

ACCOUNT_KEY = "mmkd_account"


class FileIndexer:
    """Turns one corpus file into candidates.

    Args:
        root: the folder that uris become relative to.
        prefix: goes before each key, with a ``/`` between them.
    """

    def __init__(self, file: CorpusFile, corpus: Corpus, *, root: str, prefix: str = "") -> None:
        self._corpus, self._root = corpus, root
        self._prefix = f"{prefix}/" if prefix else ""
        self.account = Account(files=1)
        self._images = ImageSource(root, allow=corpus.readable())
        self._source = Source(file, corpus, self.account, self._images)
        self._rules = pair_rules(corpus.keep)
        self._modalities = {label.casefold(): name for label, name in (corpus.modality_map or {}).items()}
        self._name = relative_uri(file.uri, root)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the candidates in the file's order, some thousands at a time.

        Raises:
            CorpusError: the file cannot be read.
        """
        rows: list[dict[str, Any]] = []
        for group, pair in enumerate(self._source.pairs()):
            rows += self._rows(pair, group)
            if len(rows) >= BATCH_ROWS:
                yield pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA)
                rows = []
        yield pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA)

    def part(self) -> bytes:
        """Return the candidates as Parquet, with the account in its metadata."""
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, CANDIDATE_SCHEMA, compression="zstd") as writer:
            for table in self.tables():
                writer.write_table(table)
                self._look_again(table)
            writer.add_key_value_metadata({ACCOUNT_KEY: self.account.model_dump_json()})
        return buffer.getvalue()

    def _look_again(self, table: pa.Table) -> None:
        """Fetch some images as extraction will, and compare their digests.

        Raises:
            CorpusError: another image is read there, or none.
        """
        there = table.filter(pc.field("image_sha256").is_valid())
        for number in sorted({0, there.num_rows // 2, there.num_rows - 1} & {*range(there.num_rows)}):
            row = there.slice(number, 1).to_pylist()[0]
            try:
                self._images.fetch(row["uri"], row["member"], sha256=row["image_sha256"])
            except CorpusError as error:
                raise CorpusError(
                    f"{self._name}: {row['key']}: the image cannot be read again as extraction reads it: {error}",
                    hint=error.hint or "let nothing change the corpus, and run the same command again",
                ) from error

    def _rows(self, pair: SourcePair, group: int) -> list[dict[str, Any]]:
        fields, record = self._source.fields, pair.record
        self.account.keys += 1
        where = f"{self._name}: {pair.key}"
        for reason, what in pair.passed:
            self.account.pass_over(reason, f"{where}: {what}" if what else where)
        for reason, what in pair.changed:
            self.account.change(reason, f"{where}: {what}" if what else where)
        captions = self._distinct([self._cleaned(caption, where) for caption in _captions(fields, record)], where)
        if pair.uri is None and captions == [None]:
            self.account.pass_over(
                "JSON without image" if pair.record.get("json") else "neither image nor caption", where
            )
            return []
        if pair.image is None and pair.uri is None:
            self.account.pass_over("caption without image", where)
        if not any(captions):
            self.account.pass_over("image without caption", where)
        image = self._image_columns(pair) | {"group": group}
        shared = self._shared_columns(record, where)
        if not pair.key.isprintable():
            self.account.change("control characters in key", where)
            pair.key = printable(pair.key)
        raw = {path: fields.raw(record, path) for path in self._corpus.keep.raw_paths()}
        rows = []
        for number, caption in enumerate(captions, start=1):
            key = self._prefix + (f"{pair.key}#{number}" if len(captions) > 1 else pair.key)
            row = {**image, **shared, "key": key, "caption": caption}
            if self._keep(row, raw):
                row["key_hash"] = hash_text(key)
                if row["image_sha256"] is not None:
                    row["pair_hash"] = hash_text(f"{row['image_sha256']} {caption or ''}")
                rows.append(row)
        if rows and pair.image is not None and self._corpus.keep.near_duplicates is not None:
            alike = _difference_hash(pair.image)
            for row in rows:
                row["difference_hash"] = alike
        return rows

    def _distinct(self, captions: list[str | None], where: str) -> list[str | None]:
        """Return an image's captions without those that are empty or equal; the last one stays."""
        distinct: list[str | None] = list(dict.fromkeys(caption for caption in captions if caption)) or captions[:1]
        if len(distinct) < len(captions):
            self.account.change("equal or empty captions of one image are left out", where)
        return distinct

    def _cleaned(self, text: str | None, where: str) -> str | None:
        """Return a caption without control characters, None if it has no word; both are counted."""
        caption = clean_caption(text)
        for reason in caption.changed:
            self.account.change(reason, where)
        if caption.passed:
            self.account.pass_over(caption.passed, where)
        return caption.text

    def _keep(self, row: dict[str, Any], raw: Mapping[str, list[str]]) -> bool:
        self.account.pairs += 1
        self.account.usable += bool(row["image_sha256"] is not None and row["caption"])
        refusal = first_refusal(self._rules, row, raw)
        if refusal is not None:
            self.account.dropped[refusal] += 1
        return refusal is None

    def _image_columns(self, pair: SourcePair) -> dict[str, Any]:
        sha256 = hashlib.sha256(pair.image).hexdigest() if pair.image is not None else None
        size = image_size(pair.image) if pair.image is not None else None
        return {
            "uri": relative_uri(pair.uri, self._root) if pair.uri is not None else None,
            "member": pair.member,
            "image_sha256": sha256,
            "image_hash": int(sha256[:16], 16) if sha256 else None,
            "width": size[0] if size else None,
            "height": size[1] if size else None,
        }

    def _shared_columns(self, record: dict[str, Any], where: str) -> dict[str, str | None]:
        fields = self._source.fields
        found = {name: fields.text(record, name) for name in ("split", "source", "license")}
        found["modality"] = self._modality(record)
        for name, value in found.items():
            if value is not None and not value.isprintable():
                self.account.change(f"control characters in {name}", where)
                found[name] = printable(value)
        return found

    def _modality(self, record: dict[str, Any]) -> str | None:
        if self._corpus.modality_map is None:
            return self._source.fields.text(record, "modality")
        found = self._source.fields.values(record, "modality") or []
        labels = [label for label in map(as_text, found) if label]
        for label in labels:
            if label.casefold() in self._modalities:
                return self._modalities[label.casefold()]
        self.account.unmapped.update(dict.fromkeys(labels, 1))
        return None


def _captions(fields: FieldReader, record: dict[str, Any]) -> list[str | None]:
    """Return a record's captions: one, which may be empty or None, or those of a list."""
    texts = [text for text in map(as_written, fields.values(record, "caption") or ()) if text is not None]
    return [*texts] or [None]


def _difference_hash(image: bytes) -> int | None:
    try:
        return difference_hash(decode_image(image))
    except PairDecodeError:
        return None
