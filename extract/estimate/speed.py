"""Measures speed and memory of teachers on this device, and computes hours for a corpus."""

from __future__ import annotations

import io
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from extract.config import ExtractSection
from extract.teacher_files.entry import FETCH, TeacherEntry
from extract.teacher_files.geometry import Geometry, fit_all
from extract.teacher_files.specs import teacher_spec
from extract.teachers.base import FrozenTeacher
from extract.teachers.loading import load_teacher
from store.errors import WeightsNotFoundError
from store.images.decode import decode_image

from .memory import begin_peak, give_back, held_bytes, peak_bytes
from .rates import Distinct, Rates, Resources, TeacherRate, seconds_per_row
from .stand_in import captions, stand_in

IMAGE_PX = (640, 480)
"""Size of the JPEG whose decoding is timed: a usual size of figures."""

CPU_BATCH = 8
"""A CPU gains nothing from more rows at once, and a batch of the slowest teacher takes seconds."""


@dataclass(kw_only=True, frozen=True, slots=True)
class TeacherSpeed(TeacherRate):
    """One teacher's rates, without decoding and fitting of images, and its cost.

    Attributes:
        weights: ``own`` or ``random``.
        precision: compute dtype.
        parameter_bytes: its weights in memory.
        peak_bytes: most memory that its weights and the work of one batch took, beyond what was held before it.
        load_s: seconds to read its files and build it.
        cpu_share: share of its CPU threads' time that this process got during the measurement, None on a GPU; less than
            1 where other work used the machine, or where threads waited for each other.
        hours: hours for the profile's rows, without decoding.
    """

    weights: str
    precision: str
    parameter_bytes: int
    peak_bytes: int
    load_s: float
    cpu_share: float | None
    hours: float

    @property
    def alone(self) -> TeacherRate:
        """The rates if it had its CPU threads to itself."""
        share = self.cpu_share or 1.0
        captions_per_s = self.captions_per_s / share if self.captions_per_s else None
        return TeacherRate(images_per_s=self.images_per_s / share, captions_per_s=captions_per_s)


@dataclass(kw_only=True, frozen=True, slots=True)
class Profile:
    """Teachers that share a device.

    Attributes:
        device: the name of the GPU, or the processor.
        rows: hours are for so many rows, each with an image and a caption of its own.
        not_profiled: the reason, by teacher.
        decoded_per_s: JPEGs that one thread decodes and fits to every geometry, per second of processor time.
        resident_bytes: memory held with all teachers loaded, beyond what was held before the first.
        decode_hours: hours for one thread to decode the rows' images.
        hours: hours for all teachers and each image decoded once; see `seconds_per_row`.
        hours_alone: the same if the process had its CPU threads to itself; None on a GPU.
    """

    device: str
    threads: int
    batch_size: int
    rows: int
    teachers: dict[str, TeacherSpeed]
    not_profiled: dict[str, str]
    decoded_per_s: float
    parameter_bytes: int
    resident_bytes: int
    decode_hours: float
    hours: float
    hours_alone: float | None


@dataclass(kw_only=True, frozen=True, slots=True)
class Settings:
    """Settings of a profile.

    Attributes:
        threads: CPU threads of a forward pass; set for the process.
        decode_threads: threads that decode beside a GPU.
        seconds: least duration of each measurement; it may be exceeded by one batch.
        random_weights: give random weights to teachers whose weights are not here.
    """

    device: str
    threads: int
    decode_threads: int
    batch_size: int
    seconds: float
    rows: int
    random_weights: bool = False


def settings_of(
    section: ExtractSection, *, rows: int, batch_size: int | None, seconds: float, random_weights: bool
) -> Settings:
    """Return the settings for the present device: a GPU if there is one.

    Args:
        batch_size: replaces the pipeline's on a GPU and `CPU_BATCH` on a CPU.
    """
    device, cores = "cuda" if torch.cuda.is_available() else "cpu", os.cpu_count() or 1
    return Settings(
        device=device,
        threads=min(section.threads_per_worker, cores),
        decode_threads=min(section.decode_threads, cores),
        batch_size=batch_size or (section.batch_size if device == "cuda" else min(section.batch_size, CPU_BATCH)),
        seconds=seconds,
        rows=rows,
        random_weights=random_weights,
    )


def profile(
    entries: Mapping[str, TeacherEntry], settings: Settings, *, advance: Callable[[int], None] = lambda _: None
) -> Profile:
    """Load teachers one after the other, keep them, and measure each; call ``advance`` after each.

    Raises:
        WeightsNotFoundError: none can be profiled.
        TeacherError: one cannot be loaded.
    """
    torch.set_num_threads(settings.threads)
    before = held_bytes(settings.device)
    resident: dict[str, FrozenTeacher] = {}
    speeds: dict[str, TeacherSpeed] = {}
    absent: dict[str, str] = {}
    for name, entry in entries.items():
        try:
            resident[name], speeds[name] = _measure(name, entry, settings)
        except WeightsNotFoundError as error:
            absent[name] = str(error)
        advance(1)
    if not resident:
        raise WeightsNotFoundError(
            "no teacher could be profiled: " + "; ".join(f"{name}: {reason}" for name, reason in absent.items()),
            hint=f"{FETCH} gets their weights; --random-weights profiles without them",
        )
    decoded_per_s = _decoded_per_s({teacher.geometry for teacher in resident.values()}, settings.seconds)
    rates = Rates(teachers=speeds, source="profile", decoded_per_s=decoded_per_s)
    resources = Resources(device=settings.device, threads=settings.threads, decode_threads=settings.decode_threads)
    alone = replace(rates, teachers={name: speed.alone for name, speed in speeds.items()})
    hours, hours_alone = (
        settings.rows * seconds_per_row(one, speeds, Distinct(), resources) / 3600 for one in (rates, alone)
    )
    decode = settings.rows / decoded_per_s / 3600
    on_gpu = settings.device == "cuda"
    return Profile(
        device=torch.cuda.get_device_name() if on_gpu else f"cpu ({platform.machine()}, {os.cpu_count()} cores)",
        threads=settings.threads,
        batch_size=settings.batch_size,
        rows=settings.rows,
        teachers=speeds,
        not_profiled=absent,
        decoded_per_s=decoded_per_s,
        parameter_bytes=sum(speed.parameter_bytes for speed in speeds.values()),
        resident_bytes=held_bytes(settings.device) - before,
        decode_hours=decode,
        hours=hours,
        hours_alone=None if on_gpu else hours_alone,
    )


def _measure(name: str, entry: TeacherEntry, settings: Settings) -> tuple[FrozenTeacher, TeacherSpeed]:
    before, began = held_bytes(settings.device), time.perf_counter()
    teacher, weights = _load(name, entry, settings)
    give_back()  # Memory left behind by loading is not the teacher's.
    load_s = time.perf_counter() - began
    side, count = teacher.geometry.size_px, settings.batch_size
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    words = captions(4 * count)
    # Each batch has other captions than the one before.
    texts = itertools.cycle(words[start : start + count] for start in range(0, len(words), count))
    begin_peak(settings.device)
    wall, used = time.perf_counter(), time.process_time()
    images_per_s = count * _calls_per_s(lambda: teacher.encode_image(pixels_BHWC), settings.seconds)
    captions_per_s = None
    if "text" in teacher.spec.sides:
        captions_per_s = count * _calls_per_s(lambda: teacher.encode_text(next(texts)), settings.seconds)
    rate = TeacherRate(images_per_s=images_per_s, captions_per_s=captions_per_s)
    share = (time.process_time() - used) / (time.perf_counter() - wall) / settings.threads
    return teacher, TeacherSpeed(
        weights=weights,
        precision=teacher.spec.compute_dtype,
        images_per_s=images_per_s,
        captions_per_s=captions_per_s,
        parameter_bytes=teacher.nbytes,
        peak_bytes=peak_bytes(settings.device) - before,
        load_s=load_s,
        cpu_share=None if settings.device == "cuda" else min(1.0, share),
        hours=settings.rows * rate.seconds(Distinct()) / 3600,
    )


def _load(name: str, entry: TeacherEntry, settings: Settings) -> tuple[FrozenTeacher, str]:
    try:
        return load_teacher(teacher_spec(name, entry), entry, device=settings.device), "own"
    except WeightsNotFoundError:
        if not settings.random_weights:
            raise
    with tempfile.TemporaryDirectory(prefix="mmkd-profile-") as folder:
        return stand_in(name, entry, Path(folder), device=settings.device), "random"


def _calls_per_s(
    call: Callable[[], object], seconds: float, *, clock: Callable[[], float] = time.perf_counter
) -> float:
    call()  # The first call chooses kernels and takes memory.
    calls, began = 0, clock()
    while (elapsed := clock() - began) < seconds or not calls:
        call()
        calls += 1
    return calls / elapsed


def _decoded_per_s(geometries: set[Geometry], seconds: float) -> float:
    data, max_pixels = _jpeg(), IMAGE_PX[0] * IMAGE_PX[1]

    def decode() -> dict[Geometry, npt.NDArray[np.uint8]]:
        return fit_all(decode_image(data, max_pixels=max_pixels), geometries)

    # Decoding keeps one thread busy and never waits, so that processor time is its cost.
    return _calls_per_s(decode, min(seconds, 1.0), clock=time.process_time)


def _jpeg() -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(IMAGE_PX, Image.Resampling.BICUBIC).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()
