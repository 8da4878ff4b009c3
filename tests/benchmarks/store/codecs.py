"""Codecs, chunk and shard rows, and stored dtypes of the feature store, measured on features of real images.

    python -m tests.benchmarks.store.codecs --data DATA --teachers runs/demo/teachers --out DIR [--only shapes]

DATA holds ``mmkd_demo`` (the cache that MMKD-CLIP's authors released: eight pairs, eight real teachers) and the tars
of ``medical_mnist_64``, ``vqa_rad`` and ``lc25000_lung``. The released features are too few to time, so sizes and
errors are measured on them, and speeds on what the demo's trained teachers make of the tars' images. Prints Markdown
tables. PCodec takes part if the package ``pcodec`` is installed.

Axes: N rows, D width.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import getitem
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.codecs import numcodecs as extra
from zarr.storage import LocalStore, MemoryStore

from tests.benchmarks.tables import table

from .real_features import Features, bits_by_field, entropy, released_features, tiny_features
from .stored_dtypes import FORMS, errors, to_int8

ROUNDS = 3
CHUNKS_PER_ROUND = 16
READS_PER_ROUND = 3
PAPER_ROWS = 2_900_000
PAPER_WIDTHS = (512,) * 7 + (768,) * 2
RANGE_ROWS, CHUNK_ROWS = 8192, 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """A chain of codecs within the shards.

    Attributes:
        name: for the table.
        known_as: ``core`` if Zarr's specification asks every implementation for all of it; ``registered`` if it needs
            zstd, an extension under a plain name; ``numcodecs.*`` if it needs one under that prefix.
        chain: what `zarr.create_array` takes: filters, serializer, compressors.
        lossy: the values come back changed.
    """

    name: str
    known_as: str
    chain: Mapping[str, Any] = field(default_factory=dict)
    lossy: bool = False


ZSTD = Codec(name="Zstd 3", known_as="registered", chain={"compressors": [ZstdCodec(level=3)]})


def codecs() -> list[Codec]:
    """Return what is compared."""
    by_column = [TransposeCodec(order=(1, 0))]
    blosc_zstd = _blosc("zstd", "bitshuffle", 3)
    found = [Codec(name="none", known_as="core")]
    found += [
        Codec(name=f"Blosc {cname} {level}, {shuffle}", known_as="core", chain=_blosc(cname, shuffle, level))
        for cname, shuffle, level in (
            ("lz4", "shuffle", 5),
            ("lz4", "bitshuffle", 5),
            ("zstd", "shuffle", 3),
            ("zstd", "bitshuffle", 1),
            ("zstd", "bitshuffle", 3),
            ("zstd", "bitshuffle", 9),
        )
    ]
    found += [
        Codec(name="transpose, Blosc zstd 3, shuffle", known_as="core",
              chain={"filters": by_column, **_blosc("zstd", "shuffle", 3)}),
        Codec(name="transpose, Blosc zstd 3, bitshuffle", known_as="core", chain={"filters": by_column, **blosc_zstd}),
        Codec(name="gzip 6", known_as="core", chain={"compressors": [GzipCodec(level=6)]}),
    ]  # fmt: skip
    found += [
        Codec(name=f"Zstd {level}", known_as="registered", chain={"compressors": [ZstdCodec(level=level)]})
        for level in (1, 3, 9)
    ]
    shuffled = [extra.Shuffle(elementsize=2), ZstdCodec(level=3)]
    others = {"Shuffle, Zstd 3": shuffled, "LZ4": [extra.LZ4()], "BZ2 9": [extra.BZ2(level=9)], "LZMA": [extra.LZMA()]}
    found += [Codec(name=name, known_as="numcodecs.*", chain={"compressors": chain}) for name, chain in others.items()]
    if importlib.util.find_spec("pcodec"):
        pcodec = {"serializer": extra.PCodec(level=8), "compressors": None}
        found.append(Codec(name="PCodec 8", known_as="numcodecs.*", chain=pcodec))
        found.append(Codec(name="transpose, PCodec 8", known_as="numcodecs.*", chain={"filters": by_column, **pcodec}))
    found += [
        Codec(name=f"BitRound {bits}, Blosc zstd 3, bitshuffle", known_as="numcodecs.*", lossy=True,
              chain={"filters": [extra.BitRound(keepbits=bits)], **blosc_zstd})
        for bits in (8, 6, 4)
    ]  # fmt: skip
    return found


def _blosc(cname: str, shuffle: str, level: int) -> dict[str, Any]:
    return {"compressors": [BloscCodec(typesize=2, cname=cname, clevel=level, shuffle=shuffle)]}


def write(folder: Path, values_ND: npt.NDArray[Any], *, range_rows: int, chunk_rows: int, codec: Codec) -> int:
    """Write an array as the store does, shards encoded in memory and put in place as files; return its data's bytes.

    Left out are the store's fsync and its reading back.
    """
    objects: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(objects),
        shape=values_ND.shape,
        shards=(range_rows, values_ND.shape[1]),
        chunks=(chunk_rows, values_ND.shape[1]),
        dtype=values_ND.dtype,
        fill_value=0,
        config={"write_empty_chunks": True},
        **{"compressors": None, **codec.chain},
    )
    array[...] = values_ND
    for key, value in objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value.to_bytes())
    return sum(len(value) for key, value in objects.items() if key.startswith("c/"))


def seconds(action: Callable[[], object]) -> float:
    """Return what an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def compare_codecs(released: Mapping[str, Features], tiny_ND: Features, out: Path, rng: np.random.Generator) -> None:
    """Print size and speed of each codec; rounds alternate between them."""
    by_width = [[rows for rows in released.values() if rows.shape[1] == width] for width in (512, 768)]
    small = [np.concatenate(rows).astype(np.float16) for rows in by_width]
    rows, width = len(tiny_ND) // CHUNK_ROWS * CHUNK_ROWS, tiny_ND.shape[1]
    values_ND = tiny_ND[:rows]
    listed, took, ratio = codecs(), defaultdict(list), {}
    for codec in tuple(listed):
        stored = sum(write(out / "small", x, range_rows=len(x), chunk_rows=len(x), codec=codec) for x in small)
        ratio[codec.name] = (sum(x.nbytes for x in small) / stored, 0.0)
        last = zarr.open_array(LocalStore(out / "small", read_only=True), mode="r")
        if not codec.lossy and not np.array_equal(last[...], small[-1]):
            print(f"Left out, because other values come back than were written: {codec.name}.\n")
            listed.remove(codec)
    for _ in range(ROUNDS):
        for codec in (listed[number] for number in rng.permutation(len(listed))):
            stored, timings = _time_codec(out / "big", values_ND, codec, rng)
            ratio[codec.name] = (ratio[codec.name][0], values_ND.nbytes / stored)
            took[codec.name].append(timings)
    print(f"Speeds: {rows} rows of {width} float16, one shard, C {CHUNK_ROWS}; sizes also on the released features.\n")
    lines = []
    for codec in listed:
        writing, whole, chunk = (median(part) for part in zip(*took[codec.name], strict=True))
        speeds = (f"{values_ND.nbytes / part / 1e6:.0f}" for part in (writing, whole))
        name = codec.name + (" (lossy)" if codec.lossy else "")
        lines.append([name, codec.known_as, *(f"{x:.3f}" for x in ratio[codec.name]), *speeds, f"{chunk * 1e3:.2f}"])
    table(("codec", "known as", "ratio, released", "ratio, tiny", "write MB/s", "read MB/s", "one chunk ms"), lines)
    print("Entropy of a value in bits: what coding value by value can save at best.\n")
    bits = {"released": bits_by_field(small), "tiny": bits_by_field([values_ND])}
    known = float(np.mean([entropy(column >> 10) for column in values_ND.view(np.uint16).T]))
    bits["tiny, coded column by column"] = [known, bits["tiny"][1], known + bits["tiny"][1]]
    lines = [[name, *(f"{x:.2f}" for x in found), f"{16 / found[-1]:.3f}"] for name, found in bits.items()]
    table(("features", "sign and exponent", "mantissa", "sum of 16", "ratio at best"), lines)


def _time_codec(
    folder: Path, values_ND: Features, codec: Codec, rng: np.random.Generator
) -> tuple[int, tuple[float, float, float]]:
    shutil.rmtree(folder, ignore_errors=True)
    rows = len(values_ND)
    began = time.perf_counter()
    stored = write(folder, values_ND, range_rows=rows, chunk_rows=CHUNK_ROWS, codec=codec)
    writing = time.perf_counter() - began
    array = zarr.open_array(LocalStore(folder, read_only=True), mode="r")
    starts = rng.integers(0, rows // CHUNK_ROWS, CHUNKS_PER_ROUND) * CHUNK_ROWS
    whole = median(seconds(lambda: array[...]) for _ in range(READS_PER_ROUND))
    chunk = median(seconds(partial(getitem, array, slice(at, at + CHUNK_ROWS))) for at in starts)
    return stored, (writing, whole, chunk)


def compare_shapes(tiny_ND: Features, out: Path, rng: np.random.Generator) -> None:
    """Print the cost of reading at several C and R without a compressor, then the objects at the paper's size."""
    values_ND = tiny_ND[rng.integers(0, len(tiny_ND), 4 * RANGE_ROWS), :512]
    shapes = [(RANGE_ROWS, chunk) for chunk in (64, 128, 256, 512, 1024, 2048)]
    shapes += [(rows, CHUNK_ROWS) for rows in (1024, 2048, 4096, 16384)]
    took = defaultdict(list)
    for _ in range(ROUNDS):
        for shape in (shapes[number] for number in rng.permutation(len(shapes))):
            took[shape].append(_time_shape(out / "shape", values_ND, shape, rng))
    print(f"{len(values_ND)} rows of 512 float16, drawn with replacement from the tiny teachers' features.")
    print(f"Window: a ninth of {RANGE_ROWS} rows in shuffled chunks, as a trainer that draws one of nine teachers.\n")
    lines = []
    for shape in shapes:
        writing, whole, shuffled, row, window = (median(part) for part in zip(*took[shape], strict=True))
        speeds = (f"{values_ND.nbytes / part / 1e6:.0f}" for part in (writing, whole, shuffled))
        lines.append([*shape, shape[1], *speeds, f"{row * 1e3:.2f}", f"{window * 1e3:.0f}"])
    head = ("R", "C", "chunk KiB", "write MB/s", "read MB/s", "shuffled chunks MB/s", "one row ms", "window ms")
    table(head, lines)
    print(f"Objects of {PAPER_ROWS} rows and nine teachers (image, text, similarity and status of each range).\n")
    lines = []
    for rows in (1024, 2048, 4096, 8192, 16384):
        ranges = -(-PAPER_ROWS // rows)
        lines.append([rows, ranges, ranges * 4 * 9, ranges * 9, rows / 1024, rows * 1.5 / 1024])
    table(("R", "ranges", "array objects", "receipts", "feature object MiB at D 512", "at D 768"), lines)


def _time_shape(
    folder: Path, values_ND: Features, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[float, ...]:
    range_rows, chunk_rows = shape
    shutil.rmtree(folder, ignore_errors=True)
    plain = Codec(name="none", known_as="core")
    writing = seconds(lambda: write(folder, values_ND, range_rows=range_rows, chunk_rows=chunk_rows, codec=plain))
    array = zarr.open_array(LocalStore(folder, read_only=True), mode="r")
    whole = median(seconds(lambda: array[...]) for _ in range(READS_PER_ROUND))
    starts = rng.permutation(len(values_ND) // chunk_rows) * chunk_rows
    shuffled = seconds(lambda: [array[at : at + chunk_rows] for at in starts])
    row = median(seconds(partial(getitem, array, int(at))) for at in rng.integers(0, len(values_ND), CHUNKS_PER_ROUND))
    window = np.concatenate([np.arange(at, at + chunk_rows) for at in starts[: RANGE_ROWS // chunk_rows]])
    drawn = np.sort(rng.choice(window, len(window) // 9, replace=False))
    return writing, whole, shuffled, row, seconds(lambda: array.oindex[drawn, :])


def compare_dtypes(released: Mapping[str, Features], tiny_ND: Features, out: Path) -> None:
    """Print what each stored form costs in cosine and in bytes."""
    lines = []
    for name, (form, value_bytes) in FORMS.items():
        row_bytes = value_bytes and sum(width * value_bytes + 4 * (value_bytes == 1) for width in PAPER_WIDTHS)
        lines.append([name, *errors(released, form), f"{PAPER_ROWS * 2 * row_bytes / 1e9:.1f}" if row_bytes else ""])
    print(f"Against {sum(map(len, released.values()))} released float32 features; pairs are within a teacher.\n")
    head = ("form", "1-cos mean", "1-cos max", "pair cosine off by, mean", "max", "GB at the paper's size")
    table(head, lines)
    int8, by_teacher = FORMS["int8, a scale per row"][0], []
    for name, x in {**released, "tiny, from float16": tiny_ND[:1024, :64].astype(np.float32)}.items():
        _, worst, _, worst_pair = errors({name: x}, int8)
        stored = write(out / "int8", to_int8(x)[0], range_rows=len(x), chunk_rows=len(x), codec=ZSTD)
        peak = np.abs(x).max() * x.shape[1] ** 0.5
        by_teacher.append([name, x.shape[1], len(x), f"{peak:.1f}", worst, worst_pair, f"{x.size / stored:.2f}"])
    print("int8 by teacher; peak is the largest magnitude times the root of D (1 if all were equal).\n")
    table(
        ("teacher", "D", "features", "peak", "1-cos max", "pair cosine off by, max", "Zstd 3 on top, ratio"), by_teacher
    )


def main() -> None:
    """Print the tables of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of mmkd_demo and the tars")
    parser.add_argument("--teachers", type=Path, required=True, help="folder of the demo's trained teachers")
    parser.add_argument("--out", type=Path, required=True, help="folder for the store and scratch arrays")
    parser.add_argument("--only", choices=("codecs", "shapes", "dtypes"), help="this part alone")
    parser.add_argument("--seed", type=int, default=0, help="of the order and of the chunks and rows that are read")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
    rng = np.random.default_rng(options.seed)
    released = released_features(options.data)
    tiny_ND = tiny_features(options.data, options.teachers, options.out)
    packages = [name for name in ("zarr", "numcodecs", "numpy", "pcodec") if importlib.util.find_spec(name)]
    print("Versions:", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages), end="\n\n")
    if options.only in (None, "codecs"):
        compare_codecs(released, tiny_ND, options.out, rng)
    if options.only in (None, "shapes"):
        compare_shapes(tiny_ND, options.out, rng)
    if options.only in (None, "dtypes"):
        compare_dtypes(released, tiny_ND, options.out)


if __name__ == "__main__":
    main()
