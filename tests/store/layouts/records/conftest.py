"""Small tables of any kind with images beside them, and what is indexed from them."""

from __future__ import annotations

import pytest
from PIL import Image

from store.corpus.image_source import ImageSource
from store.corpus.section import Corpus
from store.index.merge import read_corpus


@pytest.fixture
def png(as_bytes):
    """Return the bytes of a PNG of a number's colour."""
    return lambda number: as_bytes(Image.new("RGB", (5, 4), (number, 9, 9)))


@pytest.fixture
def folder(tmp_path, png):
    """A folder with images 0.png to 5.png."""
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


@pytest.fixture
def index(folder):
    """Write files of the folder, index the first, and return its account, its rows and the bytes of their images."""

    def index(files, **settings):
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = read_corpus(Corpus(**{"files": [str(folder / next(iter(files)))], **settings}))
        rows, source = found.table.to_pylist(), ImageSource(found.root, allow=settings.get("allow", ()))
        digests = [row["image_sha256"] for row in rows]
        images = [
            source.fetch(r["uri"], r["member"], sha256=d) if d else None for r, d in zip(rows, digests, strict=True)
        ]
        return found.account, rows, images

    return index
