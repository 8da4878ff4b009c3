"""Finds a teacher's weight files, checks that they are weights, and takes their digest, without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from store.errors import TeacherError, WeightsNotFoundError
from store.files import sha256_file
from store.format.records import Record, record_bytes
from store.io.weight_files import check_plausible

from .entry import TeacherEntry

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
    """One of the authors' files at the time of its conversion.

    Attributes:
        mtime_ns: time of its last change; None in records of earlier releases.
    """

    nbytes: int
    sha256: str
    mtime_ns: int | None = None


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
            return combined({path.name: sha256_file(path) for path in self.paths})
        if sha256_file(self.paths[0]) != self.conversion.sha256:
            raise TeacherError(
                f"{self.paths[0]}: not the file that {RECORD_NAME} beside it was written for",
                hint="it is damaged or was replaced; move it away, and fetch makes it again from the authors' file",
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
    """Find a teacher's weights; the converted file if it is valid.

    Raises:
        WeightsNotFoundError: a file is missing; the message says which, and where it comes from.
        TeacherError: a file is not what its name says.
    """
    folder = Path(entry.folder)
    sets = weight_names(entry)
    present = next((names for names in sets if all((folder / file).is_file() for file in names)), None)
    if found := _find_converted(folder, sets):
        return found
    if present is None:
        missing = [file for file in sets[-1] if not (folder / file).is_file()]
        alternative = f" (nor {' or '.join(' + '.join(names) for names in sets[:-1])})" if len(sets) > 1 else ""
        raise WeightsNotFoundError(
            f"teacher {name}: {folder}: {' and '.join(missing)} missing{alternative}", hint=_where(name, entry, missing)
        )
    paths = tuple(folder / file for file in present)
    for path in paths:
        check_plausible(path)
    return Weights(folder=folder, paths=paths, conversion=None)


def _find_converted(folder: Path, sets: Sequence[tuple[str, ...]]) -> Weights | None:
    record, path = folder / RECORD_NAME, folder / CONVERTED_NAME
    if not (record.is_file() and path.is_file()):
        return None
    try:
        conversion = ConversionRecord.model_validate_json(record.read_bytes())
    except ValidationError as error:
        raise TeacherError(
            f"{record}: not a record of a conversion: {error}", hint="move it away and fetch again"
        ) from None
    if tuple(conversion.files) not in sets:
        return None
    if any(_was_replaced(folder / name, file) for name, file in conversion.files.items()):
        return None
    return Weights(folder=folder, paths=(path,), conversion=conversion)


def _was_replaced(source: Path, file: SourceFile) -> bool:
    """Whether a file is there and is not the one that was converted; every fine-tune of a model has the same size."""
    if not source.is_file():
        return False
    found = source.stat()
    if (found.st_size, found.st_mtime_ns) == (file.nbytes, file.mtime_ns):
        return False
    return found.st_size != file.nbytes or sha256_file(source) != file.sha256


def _where(name: str, entry: TeacherEntry, missing: Sequence[str]) -> str:
    origins = [f"{file.name} of {file.item.origin}" for file in entry.wanted() if file.name in missing]
    if not origins:
        return f"put it there, or correct teachers.{name}.folder"
    return f"python -m extract fetch {name}, or put {' and '.join(origins)} there"


def write_record(folder: Path, sources: Sequence[Path], converted: Path) -> bytes:
    """Return the content of ``converted.json``.

    Args:
        sources: the authors' files, in the family's order.
        converted: the file made from them, not yet in place.
    """
    files = {
        path.relative_to(folder).as_posix(): SourceFile(
            nbytes=path.stat().st_size, sha256=sha256_file(path), mtime_ns=path.stat().st_mtime_ns
        )
        for path in sources
    }
    return record_bytes(ConversionRecord(files=files, sha256=sha256_file(converted)))
