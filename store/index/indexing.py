"""Turns corpus files into candidates, several at a time; candidates stay, so that a killed index resumes."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

from store.corpus.corpus_files import CorpusFile, relative_uri
from store.corpus.section import Corpus
from store.io.location import Location
from store.io.object_file import open_parquet

from .index_file import FileIndexer
from .merge import OpenPart

INDEX_FOLDER = "index"
"""Candidates of corpus files while a store is made; deleted when its pair table is complete."""

PARALLEL_BYTES = 64 * 2**20
"""Corpora smaller than this are indexed in this process: starting others would take longer."""

CANDIDATES_VERSION = 2
"""Changes when the same files give other candidates, so that older candidates are not used."""


@dataclass(kw_only=True, frozen=True, slots=True)
class Plan:
    """The corpus files to index.

    Attributes:
        files: in the order of their rows.
        stamps: bytes and version of each file, by uri.
        root: the folder that uris become relative to.
        prefixes: what goes before the keys of each file, by uri; nothing where none is listed.
    """

    files: Sequence[CorpusFile]
    stamps: Mapping[str, tuple[int, int]]
    root: str
    corpus: Corpus
    prefixes: Mapping[str, str] = field(default_factory=dict)

    def prefix(self, file: CorpusFile) -> str:
        """Return what goes before the keys of a file."""
        return self.prefixes.get(file.uri, "")

    def key(self, file: CorpusFile) -> str:
        """Return where the candidates of a file lie in the store: by all that decides them."""
        uri = relative_uri(file.uri, self.root)
        settings = settings_of(self.corpus), self.corpus.allow
        identity = [CANDIDATES_VERSION, self.root, uri, *self.stamps[file.uri], *settings, self.prefix(file)]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f"{INDEX_FOLDER}/{digest[:32]}.parquet"


def settings_of(corpus: Corpus) -> dict[str, Any]:
    """Return what of a corpus decides its rows, besides its files: settings that are not the defaults."""
    settings = corpus.model_dump(
        mode="json", exclude={"files", "phantom", "qualify_keys", "allow"}, exclude_defaults=True
    )
    return {"qualify_keys": corpus.qualify_keys, **settings}


def index_files(
    location: Location, plan: Plan, *, workers: int | None, on_file: Callable[[int], object]
) -> list[OpenPart]:
    """Make the candidates of every file that has none yet.

    Args:
        location: the store's; they lie in its ``index/``.
        workers: processes; one per core if left out.

    Returns:
        The functions that open them, in the order of the files.

    Raises:
        CorpusError: a file cannot be read.
    """
    done = {key for key, _ in location.list(INDEX_FOLDER)}
    todo = [file for file in plan.files if plan.key(file) not in done]
    if len(todo) < len(plan.files):
        on_file(len(plan.files) - len(todo))
    if _worth_processes(location, plan, todo, workers := workers or len(os.sched_getaffinity(0))):
        context = multiprocessing.get_context("spawn")  # obstore's threads do not survive a fork
        with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context, initializer=_begin_worker) as pool:
            futures = [
                pool.submit(_make, location, plan.key(f), f, plan.corpus, plan.root, prefix=plan.prefix(f))
                for f in todo
            ]
            try:
                for future in as_completed(futures):
                    future.result()
                    on_file(1)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    else:
        for file in todo:
            _make(location, plan.key(file), file, plan.corpus, plan.root, prefix=plan.prefix(file))
            on_file(1)
    return [functools.partial(open_parquet, location, plan.key(file), in_blocks=True) for file in plan.files]


def _worth_processes(location: Location, plan: Plan, todo: Sequence[CorpusFile], workers: int) -> bool:
    shared = not any(uri.startswith("memory:") for uri in (location.uri, plan.root))
    nbytes = sum(plan.stamps[file.uri][0] for file in todo)
    return shared and min(workers, len(todo)) > 1 and nbytes >= PARALLEL_BYTES


def _make(location: Location, key: str, file: CorpusFile, corpus: Corpus, root: str, *, prefix: str) -> None:
    location.write(key, FileIndexer(file, corpus, root=root, prefix=prefix).part())


def _begin_worker() -> None:
    # Ctrl-C reaches all processes. The parent ends the pool; a traceback of each would hide its message.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when its parent ends; a worker of a pool would wait for ever for a killed parent."""
    wait([sentinel])
    os._exit(1)
