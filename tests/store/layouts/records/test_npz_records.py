"""Arrays of images by split, as MedMNIST has them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from store.corpus import image_tables
from store.corpus.image_source import ImageSource
from store.errors import CorpusError

NAMES = {"labels": ["adipose", "debris", "mucus"]}
SETTINGS = {"names": NAMES, "fields": {"caption": "a histology image of {labels}"}}


def npz(save=np.savez_compressed, **arrays):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def drawn(rows, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, *shape), dtype=np.uint8)


@pytest.fixture
def arrays():
    return {
        "train_images": drawn(5, 6, 4, 3),
        "train_labels": np.array([[0], [1], [2], [1], [0]], np.uint8),
        "val_images": drawn(2, 6, 4, 3, seed=1),
        "val_labels": np.array([[2], [2]], np.uint8),
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_image_has_its_split_and_the_name_of_its_label_and_is_found_again(index, arrays, save):
    _, rows, images = index({"m.npz": npz(save, **arrays)}, **SETTINGS)
    assert [row["split"] for row in rows] == ["train"] * 5 + ["val"] * 2
    assert rows[1]["caption"] == "a histology image of debris"
    assert rows[6]["member"] == {"offset": None, "nbytes": None, "column": "val_images", "row": 1}
    assert (rows[0]["width"], rows[0]["height"], rows[0]["key"]) == (4, 6, "m-00000000")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])
    assert (pixels == np.concatenate([arrays["train_images"], arrays["val_images"]])).all()


def test_images_are_read_in_any_order_from_blocks(index, folder, arrays, monkeypatch):
    monkeypatch.setattr(image_tables, "BLOCK_BYTES", 2 * 6 * 4 * 3)
    _, _, images = index({"m.npz": npz(**arrays)}, **SETTINGS)
    source = ImageSource(folder)
    for row in (4, 0, 3, 1, 2, 0):
        assert source.fetch("m.npz", {"column": "train_images", "row": row}) == images[row]
    for column, row in (("train_images", 5), ("test_images", 0)):
        with pytest.raises(CorpusError, match=column):
            source.fetch("m.npz", {"column": column, "row": row})


def test_grey_images_and_several_labels_are_read(index):
    content = npz(images=drawn(3, 5, 7), labels=np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]]))
    _, rows, images = index({"m.npz": content}, **SETTINGS)
    assert [row["caption"] for row in rows] == [
        "a histology image of adipose, mucus",
        "a histology image of debris",
        None,
    ]
    assert [Image.open(io.BytesIO(image)).mode for image in images] == ["L"] * 3
    assert {row["split"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz(a_images=drawn(2, 4, 4), a_labels=np.array([{}, {}], dtype=object)), "allow_pickle=False"),
        (npz(a_images=np.array([{}, {}], dtype=object)), "expected"),
        (npz(a_images=drawn(2, 4, 4, 4, 3)), r"has shape \(2, 4, 4, 4, 3\) of uint8; expected"),
        (npz(a_images=np.zeros((2, 4, 4), np.float32)), "of float32; expected"),
        (npz(a_images=drawn(2, 4, 4), a_labels=np.zeros(3)), r"a_images is \(2, 4, 4\), a_labels is \(3,\)"),
        (npz(a_images=drawn(2, 4, 4), a_labels=np.array(3)), r"a_labels is \(\)"),
        (npz(a_images=np.broadcast_to(np.uint8(0), (1, 2**15, 2**14))), "has images of 536,870,912 bytes"),
        (npz(x=drawn(2, 4, 4)), "has no array NAME_images; there are x"),
        (npz(a_images=drawn(9, 64, 64))[:-700], "cannot be read as an npz"),
        (b"no zip", "cannot be read as an npz"),
    ],
)
def test_what_is_no_array_of_images_is_refused(index, content, message):
    with pytest.raises(CorpusError, match=message):
        index({"m.npz": content}, fields={"caption": "{split?}"})


def test_a_damaged_block_is_named(index):
    content = bytearray(npz(np.savez_compressed, a_images=drawn(9, 64, 64)))
    content[3000:3100] = bytes(100)
    with pytest.raises(CorpusError, match="a_images: cannot be read"):
        index({"m.npz": bytes(content)}, fields={"caption": "x {split}"})


def test_another_name_is_refused_because_images_are_found_by_it(index, arrays):
    with pytest.raises(CorpusError, match=r"has to be named \.npz"):
        index({"m.bin": npz(**arrays)}, format="npz", **SETTINGS)


def test_the_error_says_what_is_wrong_and_does_not_blame_the_download(index):
    with pytest.raises(CorpusError, match="of uint8, column by column; expected"):
        index({"a.npz": npz(train_images=np.asfortranarray(drawn(2, 4, 5)))})
    with pytest.raises(CorpusError, match="pickle") as caught:
        index({"a.npz": npz(train_images=drawn(2, 4, 5), train_labels=np.array(["a", None], object))})
    assert caught.value.hint is None
