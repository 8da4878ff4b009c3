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
from .http import Found, NotFetchedError, address, download, look
from .pins import Pins, only_one
from .refusals import page_of, worded

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
                self._compare_present(file, here)
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

    def _compare_present(self, file: Wanted, here: str) -> None:
        expected, why = self._expected(file)
        if expected is None and file.item.repo:
            expected, why = self._adopt(file, here)
        if expected is None:
            other = self.pins.elsewhere(file.item, file.name, here)
            expected, why = (None, "") if other is None else ("another", f"it is that of {other.origin}")
        if expected not in (None, here):
            ours = file.path if file.path.is_file() else file.path.with_name(CONVERTED_NAME)
            raise self._another(file, here, f"{ours} is", why, f"move {ours} away for the former one")

    def _expected(self, file: Wanted) -> tuple[str | None, str]:
        """Return the digest that a file must have, and who says so; None if nobody does."""
        if stated := file.item.sha256.get(file.name):
            return stated, f"the pipeline states {stated}"
        pin = self.pins.of(file.item, file.name)
        if pin and pin.sha256:
            return pin.sha256, f"{self.pins.path.name} says {pin.sha256} since {pin.fetched}"
        return None, ""

    def _adopt(self, file: Wanted, here: str) -> tuple[str | None, str]:
        """Compare a file that was put by hand with the hub's, and record it if they are the same."""
        commit = self.pins.commit(file.item)
        try:
            found = look(address(file.item, file.name, commit))
        except NotFetchedError as error:
            log.info("teacher %s: %s is not compared with %s: %s", self.name, file.path, file.item.origin, error)
            return None, ""
        same = _is_same(file.path, here, found.etag)
        if same is False:
            return found.etag, f"{file.item.origin} has {found.etag}"
        if same:
            nbytes = file.path.stat().st_size if file.path.is_file() else found.nbytes
            self.pins.record(file.item, file.name, commit=found.commit, nbytes=nbytes, sha256=here)
        return None, ""

    def _from_hub(self, one: Missing) -> bool:
        file, found = one.file, one.found
        place = address(file.item, file.name, found.commit)
        with _partial(file.path, str(found)) as partial:
            if file.path.is_file():
                return False
            download(place, partial, label=file.name)
            digest = self._checked(file, partial)
            if _is_same(partial, digest, found.etag) is False:
                partial.unlink()
                raise NotFetchedError("wrong", f"its sha256 is {digest}, the hub says {found.etag}")
            nbytes = partial.stat().st_size
            self.pins.record(file.item, file.name, commit=found.commit, nbytes=nbytes, sha256=digest)
            _put(partial, file.path)
        return True

    def _from_archive(self, one: Missing) -> bool:
        file, url = one.file, one.file.item.url or ""
        archive = file.path.parent / url.rsplit("/", 1)[-1]
        if file.path.is_file():
            return False
        if not archive.is_file():
            with _partial(archive, str(one.found)) as partial:
                if not archive.is_file():
                    download(address(file.item, file.name, None), partial, label=archive.name)
                    self._check_archive(file.item, archive.name, partial)
                    _put(partial, archive)
        with _partial(file.path, "unpacked") as partial:
            if file.path.is_file():
                return False
            _unpack(archive, file.name, partial)
            digest = self._checked(file, partial)
            self.pins.record(file.item, file.name, commit=None, nbytes=partial.stat().st_size, sha256=digest)
            _put(partial, file.path)
        if all((file.path.parent / name).is_file() for name in file.item.files):
            archive.unlink(missing_ok=True)
        return True

    def _check_archive(self, item: Download, name: str, partial: Path) -> None:
        self._check_plausible(partial)
        if not zipfile.is_zipfile(partial):
            partial.unlink()
            raise NotFetchedError("wrong", "not a zip file")
        stated = item.sha256.get(name)
        if stated and (digest := sha256_file(partial)) != stated:
            partial.unlink()
            raise NotFetchedError("wrong", f"its sha256 is {digest}, the pipeline states {stated}")

    def _check_plausible(self, partial: Path) -> None:
        try:
            check_plausible(partial)
        except TeacherError as error:
            partial.unlink()
            said = str(error).removeprefix(f"{partial}: ")
            raise NotFetchedError("page" if "HTML" in said else "wrong", said) from None

    def _checked(self, file: Wanted, partial: Path) -> str:
        """Return the digest of a file that came; one that is not what it should be is not kept."""
        if file.path.suffix not in (".json", ".txt"):
            self._check_plausible(partial)
        digest = sha256_file(partial)
        expected, why = self._expected(file)
        if expected not in (None, digest):
            partial.unlink()
            what = f"{file.name} of {file.item.origin} is now"
            raise self._another(file, digest, what, why, "nothing was changed here")
        return digest

    def _another(self, file: Wanted, digest: str, what: str, why: str, instead: str) -> TeacherError:
        stated = f"sha256: {{{file.name}: {digest}}}"
        return TeacherError(
            f"teacher {self.name}: {what} another file than before: its sha256 is {digest}, {why}",
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
    archives = {one.file.item.url: one.found.nbytes or 0 for one in missing if one.file.item.url}
    files = {one.file.path: one.found.nbytes or 0 for one in missing if not one.file.item.url}
    sizes = files | {one.file.path: archives[one.file.item.url] for one in missing if one.file.item.url}
    folder = Path(entry.folder)
    there = {name for names in weight_names(entry) for name in names if (folder / name).is_file()}
    there |= {path.name for path in sizes if path.parent == folder}
    complete = () if conversion else next((names for names in weight_names(entry) if there.issuperset(names)), ())
    paths = [folder / weight for weight in complete if not weight.endswith(".safetensors")]
    return FetchPlan(
        name=name,
        entry=entry,
        missing=tuple(missing),
        download_bytes=sum(files.values()) + sum(archives.values()),
        archive_bytes=sum(archives.values()),
        source_bytes=sum(sizes[path] if path in sizes else path.stat().st_size for path in paths),
        unknown=sum(one.found.nbytes is None for one in missing),
    )


@contextmanager
def _partial(target: Path, content: str) -> Iterator[Path]:
    """Hold the unfinished form of a file, whose name says of which content it is the beginning; other fetches wait."""
    partial = target.with_name(f"{target.name}.{hashlib.sha256(content.encode()).hexdigest()[:12]}.part")
    with only_one(partial):
        try:
            yield partial
        finally:
            if target.is_file() or (partial.is_file() and not partial.stat().st_size):
                partial.unlink(missing_ok=True)


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
    """Whether a file is the hub's by its SHA-256, or by git's SHA-1 of a small one; None if that cannot be said."""
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
