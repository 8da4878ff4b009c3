"""Fetches teachers' files, compares them with what was fetched before, and converts the weights."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from extract.teacher_files.digests import file_digest
from extract.teacher_files.entry import Download, TeacherEntry, Wanted
from extract.teacher_files.weights import CONVERTED_NAME, ConversionRecord, valid_conversion, weight_names
from store.errors import TeacherError
from store.files import make_folder, sha256_file, sync_folder
from store.io.weight_files import check_plausible

from .disk import FetchPlan, Missing
from .http import Found, NotFetchedError, address, download, look, page_of
from .pins import Pins, only_one
from .refusals import worded

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20

SHOWN = 8


@dataclass(kw_only=True, frozen=True, slots=True)
class Fetch:
    """One teacher that is to be fetched.

    Attributes:
        command: fetches this teacher alone; messages name it.
    """

    name: str
    entry: TeacherEntry
    pins: Pins
    command: str

    def plan(self) -> FetchPlan:
        """Find out which files are missing and what their servers say of them; compare the others with their pins.

        Raises:
            TeacherError: a file is not there, cannot be asked for, or is another one than its pin says.
        """
        conversion = valid_conversion(self.name, self.entry)
        missing: list[Missing] = []
        for file in self.entry.wanted():
            here = _digest_here(file, self.entry, conversion)
            if here:
                self._compare_present(file, here, conversion)
            elif self._is_needed(file, conversion, {one.file.name for one in missing}):
                found = self._look(file)
                if found:
                    missing.append(Missing(file=file, found=found))
        return _sized(self.name, self.entry, missing, conversion)

    def run(self, plan: FetchPlan, *, keep_source: bool) -> int:
        """Fetch what a plan lists, convert the weights, and return how many files were fetched.

        The next call goes on where a killed one was.

        Args:
            keep_source: whether the authors' weights stay once they are converted.

        Raises:
            TeacherError: a file cannot be had, or is another one than its pin says.
        """
        from extract.teacher_files.states import convert  # torch takes seconds, which a failing plan need not cost

        count = 0
        for one in plan.missing:
            make_folder(one.file.path.parent)
            with self._worded(one.file):
                fetched = self._from_archive(one) if one.file.item.url else self._from_hub(one)
            if fetched:
                count += 1
                log.info("teacher %s: %s fetched from %s", self.name, one.file.path, one.file.item.origin)
        convert(self.name, self.entry)
        if not keep_source:
            self._drop_sources()
        return count

    def _is_needed(self, file: Wanted, conversion: ConversionRecord | None, planned: set[str]) -> bool:
        pin = self.pins.of(file.item, file.name)
        if file.optional and pin and pin.sha256 is None:
            return False
        sets, folder = weight_names(self.entry), Path(self.entry.folder)
        if file.path.parent != folder or not any(file.name in names for names in sets):
            return True
        # One of several forms of the same weights is enough.
        complete = any(all(name in planned or (folder / name).is_file() for name in names) for names in sets)
        return conversion is None and not (file.optional and complete)

    def _look(self, file: Wanted) -> Found | None:
        commit = self.pins.commit(file.item)
        with self._worded(file):
            try:
                return look(address(file.item, file.name, commit))
            except NotFetchedError as error:
                if error.kind != "no_file" or not file.optional:
                    raise
                if error.commit:
                    self.pins.record(file.item, file.name, commit=commit or error.commit, nbytes=None, sha256=None)
                return None

    def _compare_present(self, file: Wanted, here: str, conversion: ConversionRecord | None) -> None:
        contradicted = self._contradicted(file, here)
        if contradicted is None:
            contradicted = self._contradicted_by_origin(file, here)
        if contradicted:
            converted = [file.path.with_name(CONVERTED_NAME)] if conversion and file.name in conversion.files else []
            ours = [*([file.path] if file.path.is_file() else []), *converted]
            away = f"move {' and '.join(map(str, ours))} away for the other one"
            raise self._another(file, here, f"{ours[0]} is", contradicted, away)

    def _contradicted(self, file: Wanted, digest: str) -> str | None:
        """Say who knows a file by another digest: nobody (""), or nobody knows it (None)."""
        pin, stated = self.pins.of(file.item, file.name), file.item.sha256.get(file.name)
        if stated:
            return "" if stated == digest else f"the pipeline states {stated}"
        if pin and pin.sha256:
            return "" if pin.sha256 == digest else f"{self.pins.path.name} says {pin.sha256} since {pin.fetched}"
        return None

    def _contradicted_by_origin(self, file: Wanted, here: str) -> str:
        """Compare a file that was put by hand with its origin, and record it if it is the same."""
        item, same = file.item, None
        if item.repo:
            try:
                found = look(address(item, file.name, self.pins.commit(item)))
            except NotFetchedError as error:
                log.info("teacher %s: %s is not compared with %s: %s", self.name, file.path, item.origin, error)
            else:
                same = _is_same(file.path, here, found.etag)
                if same:
                    nbytes = file.path.stat().st_size if file.path.is_file() else found.nbytes
                    self.pins.record(item, file.name, commit=found.commit, nbytes=nbytes, sha256=here)
                elif same is False:
                    return f"{item.origin} has {found.etag}"
        other = self.pins.elsewhere(item, file.name, here)
        return f"it came from {other.origin}" if other and not same else ""

    def _from_hub(self, one: Missing) -> bool:
        file, found = one.file, one.found
        place = address(file.item, file.name, found.commit)
        with _partial(file.path, found) as partial:
            if file.path.is_file():
                return False
            download(place, partial, nbytes=found.nbytes, label=file.name)
            with _unless_wrong(partial):
                digest = self._checked(file, partial)
                if _is_same(partial, digest, found.etag) is False:
                    raise NotFetchedError("wrong", f"its sha256 is {digest}, the hub says {found.etag}")
            nbytes = partial.stat().st_size
            self.pins.record(file.item, file.name, commit=found.commit, nbytes=nbytes, sha256=digest)
            _put(partial, file.path)
        return True

    def _from_archive(self, one: Missing) -> bool:
        file, item = one.file, one.file.item
        archive = file.path.parent / (item.archive or "")
        if file.path.is_file():
            return False
        with _partial(archive, one.found) as partial:
            if not archive.is_file():
                place = address(item, file.name, None)
                download(place, partial, nbytes=one.found.nbytes, label=archive.name)
                with _unless_wrong(partial):
                    _check_archive(item, partial)
                _put(partial, archive)
        _check_archive(item, archive)
        with _partial(file.path, Found()) as partial:
            if file.path.is_file():
                return False
            with _unless_wrong(partial):
                _unpack(archive, file.name, partial)
                digest = self._checked(file, partial)
            self.pins.record(item, file.name, commit=None, nbytes=partial.stat().st_size, sha256=digest)
            _put(partial, file.path)
        if all((file.path.parent / name).is_file() for name in item.files):
            archive.unlink(missing_ok=True)
        return True

    def _checked(self, file: Wanted, partial: Path) -> str:
        """Return the digest of a file that came."""
        if file.path.suffix not in (".json", ".txt"):
            _check_plausible(partial)
        digest = sha256_file(partial)
        if contradicted := self._contradicted(file, digest):
            raise self._another(file, digest, f"{file.name} of {file.item.origin} is", contradicted, "it was not kept")
        return digest

    def _another(self, file: Wanted, digest: str, what: str, contradicted: str, instead: str) -> TeacherError:
        stated = f"sha256: {{{file.name}: {digest}}}"
        return TeacherError(
            f"teacher {self.name}: {what} another file than expected: its sha256 is {digest}, {contradicted}",
            hint=f"look at {page_of(file.item)}; {instead}; if this one is wanted, state {stated} in "
            f"teachers.{self.name}.download; then {self.command}",
        )

    def _drop_sources(self) -> None:
        conversion, folder = valid_conversion(self.name, self.entry), Path(self.entry.folder)
        wanted = {file.path for file in self.entry.wanted()}
        for path in (folder / name for name in (conversion.files if conversion else ())):
            if not path.is_file():
                continue
            if path not in wanted:
                log.warning("teacher %s: %s stays: the pipeline does not say where to get it again", self.name, path)
                continue
            path.unlink()
            sync_folder(folder)
            log.info("teacher %s: %s dropped, converted as it is", self.name, path)

    @contextmanager
    def _worded(self, file: Wanted) -> Iterator[None]:
        try:
            yield
        except NotFetchedError as error:
            lacking = [one for one in self.entry.wanted() if not one.path.is_file()]
            commit = self.pins.commit(file.item)
            raise worded(error, self.name, file, commit=commit, command=self.command, missing=lacking) from error


def _digest_here(file: Wanted, entry: TeacherEntry, conversion: ConversionRecord | None) -> str | None:
    """Return the digest of a file that is there, or that was there and is converted."""
    if file.path.is_file():
        return file_digest(file.path)
    if conversion and file.path.parent == Path(entry.folder) and file.name in conversion.files:
        return conversion.files[file.name].sha256
    return None


def _sized(name: str, entry: TeacherEntry, missing: list[Missing], conversion: ConversionRecord | None) -> FetchPlan:
    sizes = {one.file.path: one.found.nbytes or 0 for one in missing}
    # Several files may come from one archive.
    archives = {one.file.path.with_name(one.file.item.archive): one.found for one in missing if one.file.item.archive}
    whole = archives | {one.file.path: one.found for one in missing if one.file.item.repo}
    whole = {path: found for path, found in whole.items() if not path.is_file()}
    begun = sum(path.stat().st_size for path in (_partial_path(*one) for one in whole.items()) if path.is_file())
    folder = Path(entry.folder)
    there = {name for names in weight_names(entry) for name in names if (folder / name).is_file()}
    there |= {path.name for path in sizes if path.parent == folder}
    complete = () if conversion else next((names for names in weight_names(entry) if there.issuperset(names)), ())
    paths = [folder / weight for weight in complete if not weight.endswith(".safetensors")]
    return FetchPlan(
        name=name,
        entry=entry,
        missing=tuple(missing),
        download_bytes=sum(found.nbytes or 0 for found in whole.values()) - begun,
        archive_bytes=sum(found.nbytes or 0 for found in archives.values()),
        source_bytes=sum(sizes[path] if path in sizes else path.stat().st_size for path in paths),
        unknown=sum(one.found.nbytes is None for one in missing),
    )


def _partial_path(target: Path, found: Found) -> Path:
    """Return the place of the unfinished form of a file; its name says of which content it is the beginning."""
    return target.with_name(f"{target.name}.{hashlib.sha256(str(found).encode()).hexdigest()[:12]}.part")


@contextmanager
def _partial(target: Path, found: Found) -> Iterator[Path]:
    """Hold the unfinished form of a file; other fetches of it wait."""
    partial = _partial_path(target, found)
    with only_one(partial):
        try:
            yield partial
        finally:
            if target.is_file() or (partial.is_file() and not partial.stat().st_size):
                partial.unlink(missing_ok=True)


@contextmanager
def _unless_wrong(partial: Path) -> Iterator[None]:
    """Do not keep an unfinished file that turns out to be another one."""
    try:
        yield
    except (NotFetchedError, TeacherError):
        partial.unlink(missing_ok=True)
        raise


def _check_plausible(partial: Path) -> None:
    try:
        check_plausible(partial)
    except TeacherError as error:
        said = str(error).removeprefix(f"{partial}: ")
        raise NotFetchedError("page" if "HTML" in said else "wrong", said) from None


def _check_archive(item: Download, path: Path) -> None:
    _check_plausible(path)
    if not zipfile.is_zipfile(path):
        raise NotFetchedError("wrong", "not a zip file")
    stated = item.sha256.get(item.archive or "")
    if stated and (digest := file_digest(path)) != stated:
        raise NotFetchedError("wrong", f"the sha256 of the zip is {digest}, the pipeline states {stated}")


def _put(partial: Path, target: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    sync_folder(target.parent)
    # The beginning of a file that the authors replaced since is of no more use.
    for path in target.parent.iterdir():
        if path.name.startswith(f"{target.name}.") and path.suffix == ".part":
            path.unlink()


def _is_same(path: Path, digest: str, etag: str | None) -> bool | None:
    """Return whether a file is the hub's by its SHA-256, or by a small one's git SHA-1; None if that cannot be said."""
    if etag and re.fullmatch(r"[0-9a-f]{64}", etag):
        return digest == etag
    if etag and re.fullmatch(r"[0-9a-f]{40}", etag) and path.is_file():
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == etag
    return None


def _unpack(archive: Path, name: str, partial: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as members:
            member = next((info for info in members.infolist() if Path(info.filename).name == name), None)
            if member is None:
                said = f"the archive holds no {name}, but {', '.join(members.namelist()[:SHOWN])}"
                raise NotFetchedError("wrong", said)
            with members.open(member) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        archive.unlink()
        raise NotFetchedError("wrong", f"the archive is damaged: {error}") from error
