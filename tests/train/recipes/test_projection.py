from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from store.errors import FormatVersionError, SpecMismatchError, StoreError, WeightsNotFoundError
from train.recipes.projection import Projection, apply_projection

HASHES = {"bmca": "a" * 8, "plip": "b" * 8}


def drawn_projection():
    generator = torch.Generator().manual_seed(0)
    widths = {"bmca": 7, "plip": 5}
    return Projection(
        weights={teacher: torch.randn(4, width, generator=generator) for teacher, width in widths.items()},
        biases={teacher: torch.randn(4, generator=generator) for teacher in widths},
        spec_hashes=HASHES,
        settings={"kind": "auto-encoder", "steps": 3, "lr": 1e-3},
    )


def rewrite_metadata(path, change):
    with safetensors.safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["mmkd_projection"])
    change(described)
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, {"mmkd_projection": json.dumps(described)})


def applied(projection, teacher, features):
    return apply_projection(features, projection.weights[teacher], projection.biases[teacher])


def test_apply_is_a_linear_map_and_a_bias():
    projection = drawn_projection()
    features = np.random.default_rng(1).normal(size=(6, 7)).astype(np.float32)
    found = applied(projection, "bmca", torch.from_numpy(features))
    expected = features @ projection.weights["bmca"].numpy().T + projection.biases["bmca"].numpy()
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_apply_computes_in_float32_from_half_precision_and_inside_autocast():
    projection = drawn_projection()
    half = torch.randn(6, 5, generator=torch.Generator().manual_seed(2)).half()
    expected = applied(projection, "plip", half.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = applied(projection, "plip", half)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_saved_projection_is_loaded_unchanged(tmp_path):
    projection = drawn_projection()
    path = tmp_path / "run" / "projection.safetensors"
    projection.save(path)
    loaded = Projection.load(path)
    assert list(path.parent.iterdir()) == [path]
    assert loaded.spec_hashes == HASHES
    assert loaded.settings == projection.settings
    for teacher in HASHES:
        assert torch.equal(loaded.weights[teacher], projection.weights[teacher])
        assert torch.equal(loaded.biases[teacher], projection.biases[teacher])


def test_saving_twice_writes_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        drawn_projection().save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    occupied = tmp_path / "projection.safetensors"
    (occupied / "something").mkdir(parents=True)
    with pytest.raises(OSError, match=r"projection\.safetensors"):
        drawn_projection().save(occupied)
    assert list(tmp_path.iterdir()) == [occupied]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"absent\.safetensors: there is no projection") as caught:
        Projection.load(tmp_path / "absent.safetensors")
    assert "python -m train project" in caught.value.hint


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "other"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "projection.safetensors"
    drawn_projection().save(path)
    whole = path.read_bytes()
    others = safetensors.torch.save({"weight": torch.zeros(2)})
    path.write_bytes({"empty": b"", "cut": whole[:-5], "noise": b"\xff" * 300, "other": others}[damage])
    with pytest.raises(StoreError, match=r"projection\.safetensors: not a projection, or damaged"):
        Projection.load(path)


def test_another_format_version_is_refused(tmp_path):
    path = tmp_path / "projection.safetensors"
    drawn_projection().save(path)
    rewrite_metadata(path, lambda described: described.update(version=2))
    with pytest.raises(FormatVersionError, match="format version 2, expected 1"):
        Projection.load(path)


def test_weights_of_another_shape_than_described_are_refused(tmp_path):
    path = tmp_path / "projection.safetensors"
    drawn_projection().save(path)
    rewrite_metadata(path, lambda described: described["teachers"]["plip"].update(width=6))
    with pytest.raises(StoreError, match=r"weights of plip should have shape \(4, 6\), not \(4, 5\)"):
        Projection.load(path)


def test_a_spec_mismatch_names_every_differing_teacher_and_no_other():
    projection = drawn_projection()
    projection.check_specs(HASHES)
    projection.check_specs({"plip": HASHES["plip"]})
    with pytest.raises(SpecMismatchError) as caught:
        projection.check_specs({"bmca": HASHES["bmca"], "plip": "c" * 8, "medclip": "d" * 8})
    lines = str(caught.value).splitlines()[1:]
    assert lines == [
        "  plip: fitted on bbbbbbbb, the store holds cccccccc",
        "  medclip: fitted on nothing, the store holds dddddddd",
    ]
