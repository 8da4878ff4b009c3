"""Finds a teacher's weight files, checks that they are weights, and takes their digest, without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from store.errors import TeacherError, WeightsNotFoundError
from store.format.records import Record, record_bytes
from store.io.weight_files import check_plausible

from .digests import file_digest
from .entry import FETCH, TeacherEntry

CONVERTED_NAME = "converted.safetensors"
RECORD_NAME = "converted.json"
"""``extract fetch`` writes these: the model's tensors alone, and a record of the authors' files."""

SAFETENSORS_NAME = "open_clip_model.safetensors"
NAMES: dict[str, tuple[tuple[str, ...], ...]] = {
    "open_clip": ((SAFETENSORS_NAME,), ("open_clip_pytorch_model.bin",)),
    "open_clip_file": ((SAFETENSORS_NAME,), ("open_clip_pytorch_model.bin",)),
    "transformers": (("model.safetensors",), ("pytorch_model.bin",)),
    "timm": (("model.safetensors",), ("pytorch_model.bin",)),
    "pmc_clip": (("image_encoder(resnet50).pth", "text_encoder.pth", "text_projection_layer.pth"),),
    "medclip": (("pytorch_model.bin",),),
}
"""Sets of file names as the authors publish them, by family; the first complete set is used."""


class SourceFile(Record):
    """One of the authors' files at the time of its conversion."""

    # Records of earlier releases have more fields.
    model_config = ConfigDict(extra="ignore", frozen=True)

    nbytes: int
    sha256: str


class ConversionRecord(Record):
    """``converted.json``: the authors' files by name, and the digest of the converted file."""

    files: dict[str, SourceFile]
    sha256: str


@dataclass(kw_only=True, frozen=True, slots=True)
class Weights:
    """A teacher's weights.

    Attributes:
        paths: the files to read, in the family's order.
        conversion: the record, if the weights were converted.
    """

    teacher: str
    folder: Path
    paths: tuple[Path, ...]
    conversion: ConversionRecord | None

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.paths)

    def digest(self) -> str:
        """Return the SHA-256 of the authors' file; for several files, that of their names and digests.

        Conversion does not change it, because the tensors stay the same.

        Raises:
            TeacherError: the converted file was changed after it was written.
        """
        if self.conversion is None:
            return combined({path.name: file_digest(path) for path in self.paths})
        if file_digest(self.paths[0]) != self.conversion.sha256:
            raise TeacherError(
                f"teacher {self.teacher}: {self.paths[0]}: damaged or replaced, not the file that {RECORD_NAME} beside "
                f"it was written for",
                hint=f"{FETCH} {self.teacher} makes it again from the authors' file",
            )
        return combined({name: file.sha256 for name, file in self.conversion.files.items()})


def combined(digests: Mapping[str, str]) -> str:
    """Return one digest for one or several files."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def weight_names(entry: TeacherEntry) -> Sequence[tuple[str, ...]]:
    """Return the sets of file names; any complete set is enough."""
    return ((entry.checkpoint,),) if entry.checkpoint else NAMES[entry.family]


def find_weights(name: str, entry: TeacherEntry) -> Weights:
    """Find a teacher's weights: the first form that is there. A converted file stands for the files it was made from.

    Raises:
        WeightsNotFoundError: a file is missing; the message says which, and where it comes from.
        TeacherError: a file is not what its name says, or was replaced after the conversion.
    """
    folder, conversion = Path(entry.folder), read_conversion(name, entry)
    if conversion is None or not counts(entry, conversion):
        return find_sources(name, entry)
    for file, digest in replaced_sources(entry, conversion).items():
        raise TeacherError(
            f"teacher {name}: {folder / file} was replaced after it was converted: its sha256 is {digest}, "
            f"{CONVERTED_NAME} was made from {conversion.files[file].sha256}",
            hint=f"put the former one back, or let {FETCH} {name} compare the new one with its pin and convert it",
        )
    return Weights(teacher=name, folder=folder, paths=(folder / CONVERTED_NAME,), conversion=conversion)


def find_sources(name: str, entry: TeacherEntry) -> Weights:
    """Find the authors' files of a teacher's weights.

    Raises:
        WeightsNotFoundError, TeacherError: as `find_weights`.
    """
    folder, sets = Path(entry.folder), weight_names(entry)
    present = present_set(entry)
    if present is None:
        if sharded := next((path for names in sets for path in folder.glob(f"{names[0]}.index.json")), None):
            raise WeightsNotFoundError(
                f"teacher {name}: {sharded}: the weights are spread over several files, which are not read",
                hint=f"put them there as one file, {sets[0][0]}: save_pretrained(folder, max_shard_size='1TB') of "
                "transformers writes it",
            )
        missing = [file for file in sets[-1] if not (folder / file).is_file()]
        alternative = f" (nor {' or '.join(' + '.join(names) for names in sets[:-1])})" if len(sets) > 1 else ""
        raise WeightsNotFoundError(
            f"teacher {name}: {folder}: {' and '.join(missing)} missing{alternative}", hint=_where(name, entry, missing)
        )
    paths = tuple(folder / file for file in present)
    for path in paths:
        check_plausible(path)
    return Weights(teacher=name, folder=folder, paths=paths, conversion=None)


def present_set(entry: TeacherEntry) -> tuple[str, ...] | None:
    """Return the first set of file names that is complete in the entry's folder."""
    folder = Path(entry.folder)
    return next((names for names in weight_names(entry) if all((folder / file).is_file() for file in names)), None)


def read_conversion(name: str, entry: TeacherEntry) -> ConversionRecord | None:
    """Return the record of the conversion that lies in an entry's folder, if there is one.

    Raises:
        TeacherError: it is damaged.
    """
    record, path = Path(entry.folder, RECORD_NAME), Path(entry.folder, CONVERTED_NAME)
    if not (record.is_file() and path.is_file()):
        return None
    try:
        return ConversionRecord.model_validate_json(record.read_bytes())
    except ValidationError as error:
        raise TeacherError(
            f"teacher {name}: {record}: not a record of a conversion: {error}",
            hint=f"{FETCH} {name} makes it and {CONVERTED_NAME} again from the authors' file",
        ) from None


def counts(entry: TeacherEntry, conversion: ConversionRecord) -> bool:
    """Return whether a conversion is of files that an entry reads, and no form that comes before them is there."""
    sets, converted, present = [*weight_names(entry)], tuple(conversion.files), present_set(entry)
    return converted in sets and (present is None or sets.index(converted) <= sets.index(present))


def replaced_sources(entry: TeacherEntry, conversion: ConversionRecord) -> dict[str, str]:
    """Return the digests of the authors' files that are there and are not those that were converted."""
    folder = Path(entry.folder)
    there = {file: file_digest(folder / file) for file in conversion.files if (folder / file).is_file()}
    return {file: digest for file, digest in there.items() if digest != conversion.files[file].sha256}


def valid_conversion(name: str, entry: TeacherEntry) -> ConversionRecord | None:
    """Return the record of a conversion that an entry reads, if it and the converted file are what they were."""
    try:
        weights = find_weights(name, entry)
        if weights.conversion:
            weights.digest()
    except TeacherError:
        return None
    return weights.conversion


def _where(name: str, entry: TeacherEntry, missing: Sequence[str]) -> str:
    origins = [f"{file.name} of {file.item.origin}" for file in entry.wanted() if file.name in missing]
    if not origins:
        return f"put it there, or correct teachers.{name}.folder"
    return f"{FETCH} {name}, or put {' and '.join(origins)} there"


def write_record(sources: Mapping[Path, str], converted: Path) -> bytes:
    """Return the content of ``converted.json``.

    Args:
        sources: the digests of the authors' files, in the family's order.
        converted: the file made from them, not yet in place.
    """
    files = {path.name: SourceFile(nbytes=path.stat().st_size, sha256=digest) for path, digest in sources.items()}
    return record_bytes(ConversionRecord(files=files, sha256=file_digest(converted)))
