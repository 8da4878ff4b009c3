"""Memory that runs out on a device: fewer rows at once from the same place on, nothing lost or done twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from extract.run import run_spec
from extract.run.run_spec import build_worker
from extract.teacher_files.entry import TeacherEntry
from extract.teacher_files.specs import teacher_spec
from extract.teachers.loading import load_teacher
from extract.worker.batch_size import BatchSize
from store.read.reader import FeatureStore

ROOM = 24
"""Rows that the device of these tests holds."""


@pytest.mark.parametrize("count", [1, 23, 24, 25, 100, 256, 1000])
def test_every_row_is_done_once_and_in_order(count):
    size, batches = BatchSize(256, teacher="t"), []

    def encode(rows):
        if rows.stop - rows.start > ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory")
        batches.append(rows)
        return list(range(rows.start, rows.stop))

    assert [row for batch in size.over(count, encode) for row in batch] == list(range(count))
    assert all(rows.stop - rows.start <= ROOM for rows in batches)
    assert size.rows == 256 if count <= ROOM else size.rows <= ROOM
    assert size.rows > ROOM // 4


def test_it_stays_small_for_the_rows_that_follow():
    size, refused = BatchSize(64, teacher="t"), []

    def encode(rows):
        if rows.stop - rows.start > ROOM:
            refused.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows

    size.over(128, encode)
    before = len(refused)
    size.over(128, encode)
    assert before == len(refused) == 2
    assert size.rows == 16


def test_no_room_for_one_row_is_an_error_and_other_errors_pass():
    size = BatchSize(8, teacher="t")

    def full(rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        size.over(8, full)
    with pytest.raises(ValueError, match="broken"):
        size.over(8, lambda rows: (_ for _ in ()).throw(ValueError("broken")))


class SmallDevice:
    """A teacher on a device that holds 24 rows."""

    def __init__(self, teacher):
        self._teacher = teacher

    def __getattr__(self, name):
        return getattr(self._teacher, name)

    def image_features(self, pixels_BHWC):
        if len(pixels_BHWC) > ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._teacher.image_features(pixels_BHWC)

    def text_features(self, ids_BL, lengths_B):
        if len(ids_BL) > ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._teacher.text_features(ids_BL, lengths_B)


def test_a_range_on_a_small_device_is_that_of_a_large_one(
    tmp_path, corpus, teachers, write_pipeline, extract_here, monkeypatch
):
    options = {"files": [corpus / "*.tar"], "teachers": teachers, "range_rows": 64, "chunk_rows": 64}
    large = FeatureStore(extract_here(write_pipeline(tmp_path / "large", **options, batch_size=64))[0])

    def build(job):
        worker = build_worker(job)
        worker.teachers["wide"] = SmallDevice(worker.teachers["wide"])
        return worker

    monkeypatch.setattr(run_spec, "build_worker", build)
    small = FeatureStore(extract_here(write_pipeline(tmp_path / "small", **options, batch_size=64))[0])
    for name, batch_size in (("small", 64), ("wide", 15)):
        assert [receipt.batch_size for receipt in small.receipts(name).values()] == [batch_size]
        for side in ("image", "text"):
            ours, theirs = (store.read(slice(None), teacher=name, side=side) for store in (small, large))
            ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
            cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
            assert cosine.shape == (60,)
            assert cosine.min() > 1 - 1e-3
            # Rows are told apart: one that was lost or done twice would show.
            assert np.unique(ours, axis=0).shape[0] == np.unique(theirs, axis=0).shape[0] > 1


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_features_do_not_depend_on_the_batch_size(tmp_path, corpus, teachers, write_pipeline, extract_here, batch_size):
    def extract(size):
        path = write_pipeline(
            tmp_path / str(size),
            files=[corpus / "*.tar"],
            teachers=teachers,
            range_rows=64,
            chunk_rows=64,
            batch_size=size,
        )
        return FeatureStore(extract_here(path)[0])

    ours, theirs = extract(batch_size), extract(16)
    for name in teachers:
        for side in ("image", "text"):
            left, right = (
                store.read(slice(None), teacher=name, side=side).astype(np.float64) for store in (ours, theirs)
            )
            cosine = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
            assert cosine.min() > 1 - 1e-3


class Transfers(TorchDispatchMode):
    """Remembers of which dtype a tensor was when it came to another device."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        source = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if source is not None and isinstance(result, torch.Tensor) and source.device != result.device:
            self.dtypes.append((source.dtype, result.dtype))
        return result


def test_pixels_travel_to_the_device_as_bytes_and_are_normalised_there(teachers):
    entry = TeacherEntry(folder=str(teachers["small"]), embed_dim=32)
    teacher = load_teacher(teacher_spec("small", entry), entry)
    meta = torch.device("meta")
    teacher._device, teacher._mean, teacher._std = meta, teacher._mean.to(meta), teacher._std.to(meta)
    with Transfers() as transfers:
        normal_BCHW = teacher.normalize(torch.zeros((2, 64, 64, 3), dtype=torch.uint8).to(meta))
    assert transfers.dtypes == [(torch.uint8, torch.uint8)]
    assert (normal_BCHW.device.type, normal_BCHW.dtype, normal_BCHW.shape) == ("meta", torch.float32, (2, 3, 64, 64))
