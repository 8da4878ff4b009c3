"""Converts a teacher's checkpoint once to a safetensors file with the model's tensors and nothing else."""

from __future__ import annotations

import logging
import os
import secrets

import safetensors.torch

from store.files import TEMPORARY_SUFFIX, sync_folder, write_atomic

from .entry import TeacherEntry
from .states import read_state
from .weights import CONVERTED_NAME, RECORD_NAME, find_weights, write_record

log = logging.getLogger(__name__)


def convert(name: str, entry: TeacherEntry) -> bool:
    """Convert a teacher's weights unless they are safetensors already; return whether they were converted.

    The authors' files stay. Features and spec are the same before and after.

    Raises:
        TeacherError: the weights are missing or damaged.
    """
    present = find_weights(name, entry)
    if present.conversion is not None or present.paths[0].suffix == ".safetensors":
        return False
    state = {key: value.detach().clone().contiguous() for key, value in read_state(entry, present).items()}
    target = present.folder / CONVERTED_NAME
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; save_file makes a file that only its owner may read
        safetensors.torch.save_file(state, temporary)
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        record = write_record(present.folder, present.paths, temporary)
        # The record is removed first and written last: without it the converted file does not count.
        (present.folder / RECORD_NAME).unlink(missing_ok=True)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(present.folder)
    write_atomic(present.folder / RECORD_NAME, record)
    before, after = present.nbytes / 1e6, target.stat().st_size / 1e6
    log.info("teacher %s: %.1f MB converted to %.1f MB in %s", name, before, after, target)
    return True
