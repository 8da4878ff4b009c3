"""Reads a corpus file of any kind as a sequence of pairs; its name or the corpus says the kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from store.corpus.account import Account
from store.corpus.corpus_files import CorpusFile
from store.corpus.fields import TABLE_DEFAULTS, TAR_DEFAULTS, FieldReader, SourcePair
from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus, Format, KeyEnds
from store.errors import CorpusError, PairDecodeError
from store.images.decode import one_row_only
from store.images.dicom import dicom_header, is_dicom
from store.images.suffixes import image_suffixes

from .folder import read_folder
from .members import name_rules, split_last
from .records.text_lines import name_within
from .tables import TABLE_SUFFIXES, read_table
from .webdataset import read_tar
from .zip_archive import read_zip

SUFFIXES: dict[str, Format] = {
    ".tar": "tar",
    **dict.fromkeys((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz"), "tar"),
    ".zip": "zip",
    **TABLE_SUFFIXES,
}
"""Kinds by the end of a name. The tar reader refuses a compressed tar and says what to do."""

MEMBERS = frozenset({"tar", "zip", "folder"})
"""Kinds in which a pair is made of members with names."""


Kind: TypeAlias = Format | Literal["folder"]


def format_of(file: CorpusFile, corpus: Corpus) -> Kind:
    """Return what kind of file it is.

    Raises:
        CorpusError: its name does not tell and the corpus does not say.
    """
    if file.pattern is not None:
        return "folder"
    if corpus.format is not None:
        return corpus.format
    for name in (file.plain_name.lower(), name_within(file)):
        for suffix, kind in SUFFIXES.items():
            if name.endswith(suffix):
                return kind
    raise CorpusError(
        f"{file.uri}: its name does not say what it is; expected one of {', '.join(SUFFIXES)}",
        hint="it is an image: name its folder instead, as in files: [images/]"
        if split_last(file.plain_name)[1] in image_suffixes()
        else "say it in the corpus of pipelines.yaml, as in format: jsonl",
    )


MEANING: dict[str, frozenset[Kind]] = {
    **dict.fromkeys(("separator", "quotes", "header"), frozenset({"csv"})),
    "records": frozenset({"json"}),
    **dict.fromkeys(("join", "lists", "names"), frozenset(TABLE_SUFFIXES.values()) | {"coco"}),
}
"""Formats in which a key of a corpus has a meaning, where that is not all of them."""


def _require_meaning(file: CorpusFile, kind: Kind, corpus: Corpus) -> None:
    for key, kinds in MEANING.items():
        if key in corpus.model_fields_set and kind not in kinds:
            raise CorpusError(
                f"{file.uri}: {key} has no meaning for a file of format {kind}, only for {', '.join(sorted(kinds))}",
                hint="take it out of the corpus in pipelines.yaml, or make files of another format another corpus",
            )


class Source:
    """One corpus file, to be read from front to back."""

    def __init__(self, file: CorpusFile, corpus: Corpus, account: Account, images: ImageSource) -> None:
        self._file, self._format, self._account = file, format_of(file, corpus), account
        self._corpus, self._images = corpus, images
        _require_meaning(file, self._format, corpus)
        defaults = TAR_DEFAULTS if self._format in MEMBERS else TABLE_DEFAULTS
        raw, fixed = corpus.keep.raw_paths(), corpus.fixed.model_dump(exclude_none=True)
        self.fields = FieldReader(file.uri, corpus.fields, defaults, raw=raw, fixed=fixed)

    def pairs(self, *, all_columns: bool = False) -> Iterator[SourcePair]:
        """Yield the file's pairs in order.

        Raises:
            CorpusError: the file cannot be read, or no record has a field that is mapped.
        """
        match self._format:
            case "tar" | "zip" | "folder" as kind:
                found = self._from_members(kind, all_columns=all_columns)
            case kind:
                found = read_table(
                    self._file,
                    kind,
                    self._corpus,
                    fields=self.fields,
                    account=self._account,
                    images=self._images,
                    all_columns=all_columns,
                )
        wants_headers = all_columns or "dicom" in self.fields.names()
        for pair in found:
            mapped = self.fields.text(pair.record, "key") if self._format in MEMBERS else None
            if mapped:
                pair.key = mapped
            if wants_headers and pair.image is not None and is_dicom(pair.image):
                try:
                    with one_row_only("read"):
                        pair.record["dicom"] = dicom_header(pair.image)
                except PairDecodeError as error:
                    pair.passed.append(("header of a DICOM file that cannot be read", str(error)))
            self.fields.note(pair.record)
            yield pair
        self.fields.finish()

    def _from_members(self, kind: Literal["tar", "zip", "folder"], *, all_columns: bool) -> Iterator[SourcePair]:
        # WebDataset ends keys at the first dot; what people zip or keep in folders has one suffix.
        default: KeyEnds | None = None if kind == "tar" else "last_dot"
        rules = name_rules(self._corpus, self.fields.names(), default=default, all_texts=all_columns)
        read = {"tar": read_tar, "zip": read_zip, "folder": read_folder}[kind]
        return read(self._file, self._account, rules)
