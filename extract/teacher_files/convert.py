"""Converting a teacher's checkpoint once to safetensors that hold the model's tensors and nothing else."""

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
    """Convert a teacher's weights if they are not safetensors already; return whether there was something to do.

    The authors' files stay. Features and spec are the same before and after.

    Args:
        name: the teacher's id.
        entry: says where they lie.

    Raises:
        TeacherError: they are not there, or not what they should be.
    """
    present = find_weights(name, entry)
    if present.conversion is not None or present.paths[0].suffix == ".safetensors":
        return False
    state = {key: value.detach().clone().contiguous() for key, value in read_state(entry, present).items()}
    target = present.folder / CONVERTED_NAME
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; save_file leaves a file that its owner alone may read
        safetensors.torch.save_file(state, temporary)
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        record = write_record(present.folder, present.paths, temporary)
        # The record goes first and comes last: without it the converted file does not count.
        (present.folder / RECORD_NAME).unlink(missing_ok=True)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(present.folder)
    write_atomic(present.folder / RECORD_NAME, record)
    before, after = present.nbytes / 1e6, target.stat().st_size / 1e6
    log.info("teacher %s: %.1f MB converted to %.1f MB in %s", name, before, after, target)
    return True
