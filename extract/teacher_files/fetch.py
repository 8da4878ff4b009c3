"""Downloads teachers' files from where their authors publish them."""

from __future__ import annotations

import logging
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from store.console import progress
from store.errors import TeacherError, WeightsNotFoundError
from store.files import sha256_file
from store.io.weight_files import check_plausible

from .entry import TeacherEntry, Wanted
from .states import convert
from .weights import CONVERTED_NAME, RECORD_NAME, weight_names

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20


def fetch(name: str, entry: TeacherEntry) -> int:
    """Fetch the files that a teacher lacks, convert its weights, and return how many files were fetched.

    Files that exist are left alone, whatever they hold. The next call continues a download that was cut off.

    Raises:
        TeacherError: a file cannot be fetched, or is wrong; the message says which files to put where by hand.
    """
    count = 0
    for file in entry.wanted():
        if file.path.is_file() or _is_superfluous(file, entry):
            continue
        if _fetch_one(name, file, entry):
            count += 1
            log.info("teacher %s: %s fetched from %s", name, file.path, file.item.origin)
    convert(name, entry)
    return count


def _is_superfluous(file: Wanted, entry: TeacherEntry) -> bool:
    sets, folder = weight_names(entry), Path(entry.folder)
    if file.path.parent != folder or not any(file.name in names for names in sets):
        return False
    converted = (folder / CONVERTED_NAME).is_file() and (folder / RECORD_NAME).is_file()
    # One of several forms of the same weights is enough.
    return converted or (file.optional and any(all((folder / name).is_file() for name in names) for names in sets))


def _fetch_one(name: str, file: Wanted, entry: TeacherEntry) -> bool:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if file.item.repo:
            huggingface_hub.hf_hub_download(
                file.item.repo,
                file.name,
                repo_type=file.item.kind,
                revision=file.item.revision,
                local_dir=file.path.parent,
            )
        else:
            _from_zip(file)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            if file.optional:
                return False
            raise TeacherError(
                f"teacher {name}: {file.item.origin} has no file {file.name}",
                hint=f"correct teachers.{name}.download, or put the file at {file.path}",
            ) from error
        raise _by_hand(name, entry, error) from error
    expected = file.item.sha256.get(file.name)
    if expected and sha256_file(file.path) != expected.lower():
        file.path.unlink()
        raise TeacherError(
            f"teacher {name}: {file.name} of {file.item.origin} is another file than the pipeline expects (sha256 "
            f"{expected[:12]}...)",
            hint="the authors may have replaced it; state the revision or the digest of the one you want",
        )
    if file.path.suffix not in (".json", ".txt"):
        check_plausible(file.path)
    return True


def _by_hand(name: str, entry: TeacherEntry, error: Exception) -> TeacherError:
    """Return the error that says which files are missing, where they come from, and where they go."""
    missing = [file for file in entry.wanted() if not file.path.is_file() and not _is_superfluous(file, entry)]
    lines = [
        f"  {file.name} of {file.item.origin}{' (if it is there)' if file.optional else ''}\n    to {file.path}"
        for file in missing
    ]
    if isinstance(error, GatedRepoError):
        hint = "accept the terms on the repository's page and set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        hint = "the repository is gone, or private: then set HF_TOKEN"
    elif constants.HF_HUB_OFFLINE:
        hint = "HF_HUB_OFFLINE is set: unset it, or copy the files from a machine with a network"
    else:
        hint = f"run it where {constants.ENDPOINT} answers (HF_ENDPOINT names a mirror), or copy the files from there"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return WeightsNotFoundError(
        f"teacher {name}: cannot be fetched ({reason}); put by hand\n" + "\n".join(lines), hint=hint
    )


def _from_zip(file: Wanted) -> None:
    url = file.item.url or ""
    archive = file.path.parent / url.rsplit("/", 1)[-1]
    if not archive.is_file():
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled("offline by HF_HUB_OFFLINE")
        _download(url, archive)
    try:
        with zipfile.ZipFile(archive) as members:
            member = next((info for info in members.infolist() if Path(info.filename).name == file.name), None)
            if member is None:
                raise TeacherError(f"{archive}: holds no {file.name}, but {', '.join(members.namelist()[:8])}")
            partial = file.path.with_name(f"{file.path.name}.part")
            with members.open(member) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
            partial.replace(file.path)
    except zipfile.BadZipFile as error:
        raise TeacherError(f"{archive}: not a zip file: {error}", hint="move it away and fetch again") from error
    if all((file.path.parent / name).is_file() for name in file.item.files):
        archive.unlink()


def _download(url: str, target: Path) -> None:
    """Download a file, from the byte at which an earlier attempt was cut off."""
    if not url.startswith(("https://", "http://")):
        raise TeacherError(f"{url}: expected an https:// address")
    partial = target.with_name(f"{target.name}.part")
    have = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        goes_on = answer.status == 206
        size = int(answer.headers.get("Content-Length") or 0) + (have if goes_on else 0)
        with (
            partial.open("ab" if goes_on else "wb") as file,
            progress(max(size >> 20, 1), label=target.name, noun="MB") as advance,
        ):
            while block := answer.read(BLOCK_BYTES):
                file.write(block)
                advance(1)
    if size and partial.stat().st_size != size:
        raise urllib.error.URLError(f"{url}: cut off at {partial.stat().st_size} of {size} bytes; fetch again")
    partial.replace(target)
