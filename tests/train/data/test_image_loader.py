"""Crops that depend on nothing but seed, epoch and row, and damaged images that end no run."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from store.corpus.image_source import ImageSource
from store.errors import CorpusError
from train.data.image_loader import ASPECT_RANGE, CorpusImages, ImageLoader, View, crop, random_box
from train.data.random_bits import Purpose, below, between, bits


def view(**changes):
    return View(**{"size_px": 32, "crop_scale": 0.4, "seed": 5, "max_pixels": 10**6, **changes})


def load(loader, rows, *, epoch):
    """Return the pixels of the rows that can be read, and which these are."""
    with loader.begin(rows, epoch=epoch) as images:
        pixels, readable = images.result()
        return pixels.copy(), readable


def drawn_image(width=90, height=60, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8))


@pytest.fixture
def loader(tmp_path):
    """Make a loader of six images, those in ``damaged`` being no images."""

    def make(damaged=(), keep_bytes=0, **changes):
        for row in range(6):
            data = io.BytesIO()
            drawn_image(seed=row).save(data, "PNG")
            (tmp_path / f"{row}.png").write_bytes(b"not an image" if row in damaged else data.getvalue())
        columns = {"uri": [f"{row}.png" for row in range(6)], "member": pa.nulls(6), "image_sha256": ["00"] * 6}
        table = pa.table(columns)
        images = CorpusImages(ImageSource(tmp_path), table)
        return ImageLoader(images, view=view(**changes), batch_rows=8, threads=2, keep_bytes=keep_bytes)

    return make


def test_a_crop_is_decided_by_seed_epoch_and_row():
    image = drawn_image()
    first = crop(image, view(), row=3, epoch=1)
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(crop(image, view(), row=3, epoch=1), first)
    for other in (
        crop(image, view(seed=6), row=3, epoch=1),
        crop(image, view(), row=4, epoch=1),
        crop(image, view(), row=3, epoch=2),
    ):
        assert (other != first).any()


def words_of(row, *, seed=5):
    return bits(22, seed=seed, epoch=1, purpose=Purpose.CROPS, row=row).tolist()


class SameDraw:
    """torch's random numbers, made from the random words of ours instead."""

    def __init__(self, words):
        self.words = iter(words)

    def uniform_(self, tensor, low, high):
        return tensor.fill_(between(float(low), float(high), next(self.words)))

    def randint(self, low, high, size):
        return torch.full(size, low + below(high - low, next(self.words)))


@pytest.mark.parametrize("scale", [0.08, 0.4, 0.9])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_crop_has_the_bytes_of_torchvisions_for_the_same_draw(monkeypatch, scale, mode):
    theirs = RandomResizedCrop(32, scale=(scale, 1.0), interpolation=InterpolationMode.BICUBIC)
    sizes = [(90, 60), (61, 64), (64, 64), (200, 20), (20, 200), (97, 67), (1, 30), (171, 256)]
    middles = 0
    for row, size in enumerate(sizes * 6):
        image = drawn_image(*size, seed=row).convert(mode)
        draw = SameDraw(words_of(row))
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "uniform_", lambda *drawn, draw=draw: draw.uniform_(*drawn))
            patched.setattr(torch, "randint", draw.randint)
            expected = theirs(image).convert("RGB")
        middles += len(list(draw.words)) == 2
        # Ours decodes to RGB first, theirs converts after the resize.
        found = crop(image.convert("RGB"), view(crop_scale=scale), row=row, epoch=1)
        np.testing.assert_array_equal(found, np.asarray(expected), err_msg=f"{size}, row {row}")
    assert middles >= 12  # images that none of ten boxes fits into


@pytest.mark.parametrize(
    ("size", "box"),
    [((200, 100), (33, 0, 166, 100)), ((100, 200), (0, 33, 100, 166)), ((2400, 20), (1186, 0, 1213, 20))],
)
def test_an_image_too_narrow_for_any_crop_gives_the_middle_of_the_nearest_aspect(size, box):
    assert random_box(*size, 0.999, words_of(0)) == box


def test_images_that_fit_are_kept_and_give_the_same_crops_when_their_files_are_gone(loader, tmp_path):
    room = 4 * 90 * 60 * 4 + 100  # of six images, four
    with loader() as afresh, loader(keep_bytes=room) as keeping:
        first = [load(afresh, np.arange(6), epoch=epoch)[0] for epoch in (0, 1)]
        load(keeping, np.arange(4), epoch=0)
        load(keeping, np.arange(4, 6), epoch=0)
        np.testing.assert_array_equal(load(keeping, np.arange(6), epoch=0)[0], first[0])
        for file in tmp_path.glob("*.png"):
            file.write_bytes(b"")
        pixels, readable = load(keeping, np.arange(6), epoch=1)
    assert readable.tolist() == [True] * 4 + [False] * 2
    np.testing.assert_array_equal(pixels, first[1][:4])


def test_without_cropping_the_middle_square_is_resized():
    for size, box in (((90, 60), (15, 0, 75, 60)), ((50, 71), (0, 10, 50, 60))):
        image = drawn_image(*size)
        expected = image.crop(box).resize((32, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(crop(image, view(crop_scale=1.0), row=0, epoch=0), np.asarray(expected))


def test_without_cropping_a_square_image_is_only_resized():
    image = drawn_image(70, 70)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(crop(image, view(crop_scale=1.0), row=0, epoch=0), expected)


def test_random_boxes_lie_inside_and_keep_the_share_and_aspect_that_were_asked_for():
    boxes = [random_box(300, 200, 0.4, words_of(row)) for row in range(300)]
    shares, aspects = [], []
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 300
        assert 0 <= top < bottom <= 200
        shares.append((right - left) * (bottom - top) / 60_000)
        aspects.append((right - left) / (bottom - top))
    assert 0.39 < min(shares) < 0.45
    assert 0.8 < max(shares) <= 1
    assert ASPECT_RANGE[0] * 0.98 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < ASPECT_RANGE[1] * 1.02
    assert len({box[:2] for box in boxes}) > 250


def test_a_batch_holds_each_rows_own_crop(loader):
    rows = np.array([4, 0, 5])
    pixels, readable = load(loader(), rows, epoch=2)
    assert readable.tolist() == [True] * 3
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(pixels[place], crop(drawn_image(seed=int(row)), view(), row=int(row), epoch=2))


def test_a_damaged_image_is_left_out_and_said_once(loader, caplog):
    some = loader(damaged=[2])
    for epoch in range(3):
        pixels, readable = load(some, np.array([1, 2, 3]), epoch=epoch)
        assert readable.tolist() == [True, False, True]
        np.testing.assert_array_equal(pixels[1], crop(drawn_image(seed=3), view(), row=3, epoch=epoch))
        assert len(pixels) == 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("row 2 is left out: not an image")


def test_an_image_beyond_the_bound_is_left_out(loader, caplog):
    with pytest.raises(CorpusError, match="3 of 3 images"):
        load(loader(max_pixels=90 * 60 - 1), np.array([0, 1, 2]), epoch=0)
    assert "90 x 60 pixels" in caplog.text


def test_a_mostly_damaged_batch_ends_the_run(loader):
    some = loader(damaged=[1, 2, 3])
    assert load(some, np.array([0, 1, 2, 4]), epoch=0)[1].sum() == 2
    with pytest.raises(CorpusError, match="3 of 4 images of a batch cannot be read") as caught:
        load(some, np.array([0, 1, 2, 3]), epoch=0)
    assert "the corpus that was indexed" in caught.value.hint


def test_a_corpus_that_moved_is_an_error_at_once(loader, tmp_path):
    some = loader()
    (tmp_path / "0.png").unlink()
    with pytest.raises(CorpusError, match="was there when it was indexed"):
        load(some, np.array([0, 1, 2]), epoch=0)


def test_memory_in_use_is_given_to_the_next_batch_when_it_is_closed(loader):
    some = loader()
    first = some.begin(np.array([0, 1]), epoch=0)
    pixels, _ = first.result()
    before = pixels.copy()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(some.begin, np.array([2, 3]), epoch=0)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        np.testing.assert_array_equal(pixels, before)
        first.close()
        found, _ = waiting.result(timeout=60).result()
    assert np.shares_memory(found, pixels)
    np.testing.assert_array_equal(found[0], crop(drawn_image(seed=2), view(), row=2, epoch=0))
