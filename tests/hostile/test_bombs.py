"""A small file that becomes large ends in a message, or is read without becoming large; the memory is bounded."""

from __future__ import annotations

import functools
import gzip
import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from pydicom import FileDataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, SecondaryCaptureImageStorage

ROOM = 256 << 20
"""Bytes of memory that a program may take beside its modules; each bomb holds more."""

LARGE = 512 << 20

LIMITED = """
import re, resource, sys
import numpy, pyarrow.parquet, zarr, PIL.Image
from store.corpus.section import Corpus
from store.errors import MMKDError
from store.images.decode import decode_image
from store.index.create import index_corpus
from store.config.yaml_tree import parse
taken = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (taken + int(sys.argv[1]),) * 2)
try:
    if sys.argv[2] == "image":
        print("size", *decode_image(open(sys.argv[3], "rb").read()).size)
    else:
        corpus = Corpus(files=[sys.argv[3]])
        info, _ = index_corpus(sys.argv[3] + ".store", corpus, range_rows=8, chunk_rows=4, workers=1)
        print("rows", info.rows)
except MMKDError as error:
    print(type(error).__name__, error)
"""


def said(kind, path, *, room=ROOM):
    """Return the words of a program about an image or a corpus file, which it reads in bounded memory."""
    command = [sys.executable, "-c", LIMITED, str(room), kind, str(path)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "PYTHONPATH": str(Path.cwd()),
    }
    done = subprocess.run(command, capture_output=True, check=False, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@functools.cache
def deflated(nbytes):
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(nbytes >> 20)) + packer.flush()


def png(width, height, *, more=b"", pixels=None):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = pixels or zlib.compress(bytes(height * (1 + (width + 7) // 8)))
    texts = b"".join(chunk(kind, data) for kind, data in more) if more else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + texts + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def file_of(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def dicom():
    """A file of the deflated transfer syntax whose pixels are 512 MiB of zeros, and not those of its header."""
    head = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=bytes(128))
    head.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    head.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = io.BytesIO()
    dcmwrite(buffer, head, enforce_file_format=True)
    element = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, LARGE)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(element) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(LARGE >> 20))
    empty = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS).flush()
    return buffer.getvalue().removesuffix(empty) + body + packer.flush()


def frames():
    many = [Image.new("RGB", (32, 32), (number % 256, number // 256, 0)) for number in range(3000)]
    return file_of(many[0], "GIF", save_all=True, append_images=many[1:])


IMAGES = {
    "a text of 512 MiB": (
        lambda: png(64, 64, more=[(b"zTXt", b"k\0\0" + deflated(LARGE))]),
        "size 64 64|PairDecodeError",
    ),
    "a profile of 512 MiB": (lambda: png(64, 64, more=[(b"iCCP", b"k\0\0" + deflated(LARGE))]), "size 64 64"),
    "an international text": (
        lambda: png(64, 64, more=[(b"iTXt", b"k\0\1\0\0\0" + deflated(LARGE))]),
        "size 64 64|PairDecodeError",
    ),
    "more pixels than it says": (lambda: png(64, 64, pixels=deflated(LARGE)), "size 64 64|PairDecodeError"),
    "3.6 G pixels": (lambda: png(60_000, 60_000, pixels=deflated(1 << 20)), "has 60000 x 60000 pixels, more than"),
    "a line of 60,000": (lambda: png(1, 60_000), "size 1 60000"),
    "a TIFF of 900 M pixels": (
        lambda: file_of(Image.new("1", (30_000, 30_000)), "TIFF", compression="tiff_deflate"),
        "has 30000 x 30000 pixels, more than",
    ),
    "3,000 frames": (frames, "size 32 32"),
    "a DICOM file, deflated": (dicom, "PairDecodeError"),
    "HTML": (lambda: b"<!DOCTYPE html><html>", "not an image of a kind that is read"),
    "SVG": (
        lambda: (
            b"<svg xmlns='http://www.w3.org/2000/svg'><!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>&x;</svg>"
        ),
        "not an image of a kind that is read",
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_becomes_large_is_refused_or_stays_small(tmp_path, name):
    make, expected = IMAGES[name]
    (tmp_path / "image").write_bytes(make())
    found = said("image", tmp_path / "image")
    assert any(one in found for one in expected.split("|")), found


def gz(path, before, after):
    with gzip.open(path, "wb", 9) as file:
        file.write(before)
        for _ in range(LARGE >> 20):
            file.write(b"a" * (1 << 20))
        file.write(after)


def jsonl_gz(folder):
    gz(folder / "p.jsonl.gz", b'{"image": "a.png", "caption": "', b'"}\n')
    return "p.jsonl.gz"


def csv_gz(folder):
    gz(folder / "p.csv.gz", b"image,caption\na.png,", b"\n")
    return "p.csv.gz"


def deep_lines(folder):
    (folder / "p.jsonl").write_text('{"image": "a.png", "caption": ' + "[" * 200_000 + "]" * 200_000 + "}\n")
    return "p.jsonl"


def deep_list(folder):
    (folder / "p.json").write_text("[" * 200_000 + "]" * 200_000)
    return "p.json"


def digits(folder):
    (folder / "p.jsonl").write_text('{"image": "a.png", "caption": ' + "9" * 5000 + "}\n")
    return "p.jsonl"


def deflated_member(folder):
    with zipfile.ZipFile(folder / "p.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        with archive.open("k.json", "w") as file:
            for _ in range(LARGE >> 20):
                file.write(bytes(1 << 20))
        archive.writestr("k.png", png(64, 64))
        archive.writestr("k.txt", "a caption")
    return "p.zip"


def equal_rows(folder, shape):
    """A dictionary's one value of 1 MiB in 100,000 rows, by itself, in a mapping, or in a list."""
    zeros = np.zeros(100_000, np.int8)
    captions = pyarrow.DictionaryArray.from_arrays(zeros, pyarrow.array(["a" * (1 << 20)]))
    if shape == "mapping":
        captions = pyarrow.StructArray.from_arrays([captions], ["text"])
    elif shape == "list":
        captions = pyarrow.ListArray.from_arrays(np.arange(len(zeros) + 1, dtype=np.int32), captions)
    table = pyarrow.table({"image": pyarrow.array(["a.png"]).take(zeros), "caption": captions})
    pyarrow.parquet.write_table(table, folder / "p.parquet", compression="zstd")
    assert (folder / "p.parquet").stat().st_size < 1 << 20
    return "p.parquet"


def equal_images(folder):
    with (
        zipfile.ZipFile(folder / "p.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("train_images.npy", "w", force_zip64=True) as file,
    ):
        shape = (2 * LARGE // 4096, 64, 64)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for _ in range(2 * LARGE >> 20):
            file.write(bytes(1 << 20))
    return "p.npz"


@pytest.mark.parametrize("make", [jsonl_gz, csv_gz, deep_lines, deep_list, digits, deflated_member, equal_images])
def test_a_corpus_file_that_becomes_large_ends_in_a_message_or_stays_small(tmp_path, make):
    (tmp_path / "a.png").write_bytes(png(64, 64))
    found = said("corpus", tmp_path / make(tmp_path), room=2 * ROOM)
    assert found == "rows 1" or found.startswith("CorpusError ")


@pytest.mark.parametrize("shape", ["text", "mapping", "list"])
def test_rows_that_share_one_long_value_are_refused_before_they_are_all_held(tmp_path, shape):
    found = said("corpus", tmp_path / equal_rows(tmp_path, shape), room=16 * ROOM)
    assert found.startswith("CorpusError ")
    assert "column 'caption': " in found
