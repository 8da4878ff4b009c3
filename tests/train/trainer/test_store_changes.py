"""Training on a store that is damaged, appended to, made anew, repaired or replaced while it is read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from store.errors import ConfigError, CorruptChunkError, SpecMismatchError
from store.format import promote
from store.format.arrays import shard_key
from store.format.commit import Circumstances, UnitFeatures, commit_unit, register_teacher
from store.format.pair_writer import PairWriter
from store.format.pairs import PairTable
from store.format.records import RETRY_FOLDER, STORE_KEY, Status, read_store_info, receipt_key, spec_key, write_record
from store.io.location import locate
from tests.train.conftest import spec_of, unit_rows
from tests.train.trainer.test_resume import commit_later, distill, lines, pretrain, receipt, store_of, weights
from tests.train.vit import vit_pipeline
from train.trainer.train_step import Updater

ROOT = Path(__file__).parents[3]


def student(tmp_path, phantom, **settings):
    """An improved student: its batches hold features of the store."""
    pipeline = vit_pipeline(tmp_path, phantom, recipe="improved", **settings)
    pipeline["train"]["students"]["vit"]["improved"] = {"relational_weight": 0, "phi_s": False}
    return pipeline


@pytest.fixture
def at_steps(monkeypatch):
    """Do things before some steps, and note the rows of each."""

    def watch(actions):
        seen, update = {}, Updater.update

        def updating(self, batch):
            seen[batch.step] = batch.rows_B.tolist()
            actions.get(batch.step, lambda: None)()
            return update(self, batch)

        monkeypatch.setattr(Updater, "update", updating)
        return seen

    return watch


def commit(store, spec, number, *, seed, at=""):
    location, info = locate(store), read_store_info(locate(store))
    pairs, (start, stop) = PairTable(location, info), info.bounds(number)
    rng, rows = np.random.default_rng(seed), stop - start
    image, text = (unit_rows(rng, rows, spec.embed_dim) for _ in range(2))
    commit_unit(
        location.below(at) if at else location,
        info=info,
        spec=spec,
        range_id=number,
        pairs=pairs.read(start, stop),
        features=UnitFeatures(image=image, text=text, status=np.full(rows, Status.OK, np.uint8), reasons={}),
        circumstances=Circumstances(device="cpu", batch_size=1, run_id="x", attempt=1, timings_s={}, versions={}),
    )


def append(store, rows=24):
    """Append pairs with the images of the first ones and words of their own, which fill no range, and extract them."""
    location, info = locate(store), read_store_info(locate(store))
    pairs = PairTable(location, info)
    writer = PairWriter(location, range_rows=info.range_rows, after=pairs)
    table = pairs.read(0, rows)
    for name, word in (("key", "more"), ("caption", "unheard words of zebra ")):
        table = table.set_column(table.schema.get_field_index(name), name, [[f"{word}{row}" for row in range(rows)]])
    writer.add(table)
    parts = writer.close()
    corpus = {**info.corpus, "files": {**info.corpus["files"], "more.tar": "1-2"}}
    write_record(location, STORE_KEY, info.model_copy(update={"rows": sum(parts), "parts": parts, "corpus": corpus}))
    register_teacher(location, spec_of("alpha"), info=read_store_info(location))
    for number in range(info.ranges, read_store_info(location).ranges):
        commit(store, spec_of("alpha"), number, seed=number)


def retry(store, number):
    locate(store).write(receipt_key("alpha", number, folder=RETRY_FOLDER), b"{}")
    commit(store, spec_of("alpha"), number, seed=9)


def replace(store):
    spec, location = spec_of("alpha", weights="1" * 64), locate(store)
    at = register_teacher(location, spec, info=read_store_info(location), replace=True)
    for number in range(read_store_info(location).ranges):
        commit(store, spec, number, seed=7, at=at)
    promote.replace_units(location, at, spec_key("alpha"), guard=promote.unguarded)


def test_appends_retries_and_repairs_under_a_run_leave_it_the_rows_it_knew(tmp_path, phantom, at_steps):
    store_of(tmp_path, phantom, ranges=[0, 2])
    store = tmp_path / "store"
    actions = {
        0: lambda: append(store),
        1: lambda: retry(store, 2),
        2: lambda: commit_later(tmp_path, 1),
        # Between epochs and in the middle of one.
        5: lambda: receipt(tmp_path, 0).rename(tmp_path / "r0"),
        7: lambda: retry(store, 1),
    }
    seen = at_steps(actions)
    assert distill(student(tmp_path, phantom, steps=14))
    assert len(lines(tmp_path / "run")) == 14
    assert read_store_info(locate(store)).rows == 88
    ranges = [{row // 16 for row in rows} for _, rows in sorted(seen.items())]
    assert set.union(*ranges) == {0, 1, 2}
    assert set.union(*ranges[-2:]) == {1, 2}


def test_a_teacher_that_is_replaced_under_a_growing_run_ends_it_by_name(tmp_path, phantom, at_steps):
    store_of(tmp_path, phantom, ranges=[0, 1, 2])
    at_steps({1: lambda: replace(tmp_path / "store")})
    with pytest.raises(SpecMismatchError, match="alpha was replaced since the store was opened"):
        distill(student(tmp_path, phantom, steps=12))


def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("ranges", [None, [0, 2]], ids=["complete", "growing"])
def test_an_interrupted_run_goes_on_with_the_rows_it_began_with_though_others_were_appended(
    tmp_path, phantom, at_steps, ranges
):
    store_of(tmp_path, phantom, ranges=ranges)
    assert distill(student(tmp_path, phantom, out="whole"))
    at_steps({2: interrupt})
    with pytest.raises(KeyboardInterrupt):
        distill(student(tmp_path, phantom))
    append(tmp_path / "store")
    assert distill(student(tmp_path, phantom))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert (tmp_path / "run/tokenizer.json").read_text() == (tmp_path / "whole/tokenizer.json").read_text()


def test_pretraining_on_a_store_goes_on_with_the_rows_it_began_with_too(tmp_path, phantom, at_steps):
    store_of(tmp_path, phantom)

    def stage1(out):
        pipeline = vit_pipeline(tmp_path, phantom, out=out)
        del pipeline["train"]["pretrain"]["vit"]["corpus"]
        return pipeline

    assert pretrain(stage1("whole"))
    at_steps({2: interrupt})
    with pytest.raises(KeyboardInterrupt):
        pretrain(stage1("run"))
    append(tmp_path / "store")
    assert pretrain(stage1("run"))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_appended_ranges_do_not_count_for_one_that_an_interrupted_run_had(tmp_path, phantom, at_steps):
    store_of(tmp_path, phantom)
    at_steps({2: interrupt})
    with pytest.raises(KeyboardInterrupt):
        distill(student(tmp_path, phantom))
    append(tmp_path / "store")
    receipt(tmp_path, 1).rename(tmp_path / "r1")
    with pytest.raises(ConfigError, match=r"store\.ranges\.alpha: 4 then, 3 now"):
        distill(student(tmp_path, phantom))
    commit_later(tmp_path, 1)
    assert distill(student(tmp_path, phantom))


def flip_signs(store, number):
    """Flip every eighth sign of a shard's features."""
    path = store / shard_key("alpha", "text", number)
    data = bytearray(path.read_bytes())
    for place in range(1, 16 * 12 * 2, 16):
        data[place] ^= 0x80
    path.write_bytes(bytes(data))


def test_training_ends_where_features_are_damaged(tmp_path, phantom):
    store_of(tmp_path, phantom)
    flip_signs(tmp_path / "store", 2)
    pipeline = student(tmp_path, phantom)
    with pytest.raises(CorruptChunkError, match=r"alpha/text/c/2/0: chunk 0 is damaged.*alpha, range 2") as caught:
        distill(pipeline)
    assert f"python -m store repair {tmp_path / 'store'}" in caught.value.hint
    assert not (tmp_path / "run").exists()
    pipeline["store"]["verify"] = "never"
    assert distill(pipeline)


@pytest.mark.end_to_end
def test_the_command_ends_with_an_error_where_features_are_damaged(tmp_path, phantom):
    store_of(tmp_path, phantom)
    flip_signs(tmp_path / "store", 1)
    config = tmp_path / "pipelines.yaml"
    config.write_text(yaml.safe_dump({"p": student(tmp_path, phantom)}))
    command = [sys.executable, "-m", "train", "distill", "--pipeline", "p", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "alpha/text/c/1/0: chunk 0 is damaged" in done.stderr
    assert "python -m store repair" in done.stderr
