"""Turns one corpus file into candidates for the pair table: maps fields and applies rules on single pairs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from store.corpus.account import Account
from store.corpus.captions import clean_caption
from store.corpus.corpus_files import CorpusFile, relative_uri
from store.corpus.curation import first_refusal, pair_rules
from store.corpus.fields import FieldReader, SourcePair, as_text, as_written
from store.corpus.near_duplicates import difference_hash
from store.corpus.section import Corpus
from store.errors import PairDecodeError
from store.format.key_index import hash_text
from store.format.pairs import PAIR_SCHEMA
from store.images.decode import decode_image, image_size
from store.layouts.source import Source

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
    """Turns one corpus file into candidates."""

    def __init__(self, file: CorpusFile, corpus: Corpus, *, root: str) -> None:
        self._file, self._corpus, self._root = file, corpus, root
        self.account = Account(files=1)
        self._source = Source(file, corpus, self.account)
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
            writer.add_key_value_metadata({ACCOUNT_KEY: self.account.model_dump_json()})
        return buffer.getvalue()

    def _rows(self, pair: SourcePair, group: int) -> list[dict[str, Any]]:
        fields, record = self._source.fields, pair.record
        self.account.keys += 1
        where = f"{self._name}: {pair.key}"
        for reason, what in pair.passed:
            self.account.pass_over(reason, f"{where}: {what}" if what else where)
        for reason, what in pair.changed:
            self.account.change(reason, f"{where}: {what}" if what else where)
        captions = [self._cleaned(caption, where) for caption in _captions(fields, record)]
        if len(captions) > 1:
            captions = list(dict.fromkeys(caption for caption in captions if caption)) or captions[:1]
        if pair.uri is None and captions == [None]:
            self.account.pass_over("neither image nor caption", where)
            return []
        image = self._image_columns(pair) | {"group": group}
        shared = {name: fields.text(record, name) for name in ("split", "source", "license")}
        shared["modality"] = self._modality(record)
        raw = {path: fields.raw(record, path) for path in self._corpus.keep.raw_paths()}
        prefix = f"{self._file.stem}/" if self._corpus.qualify_keys else ""
        rows = []
        for number, caption in enumerate(captions, start=1):
            key = prefix + (f"{pair.key}#{number}" if len(captions) > 1 else pair.key)
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
        self.account.usable += bool(row["uri"] is not None and row["caption"])
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
    if len(texts) > 1:
        texts = list(dict.fromkeys(text for text in texts if text)) or texts[:1]
    return [*texts] or [None]


def _difference_hash(image: bytes) -> int | None:
    try:
        return difference_hash(decode_image(image))
    except PairDecodeError:
        return None
