"""The commands that look into a store, on the small store of tests/store/fixtures, whose numbers can be worked out."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.main import get_command

from store.cli.commands_look import _selection
from store.cli.program import app
from store.errors import ConfigError, StoreError
from store.format.records import Status
from store.inspect.agreement import linear_cka
from store.inspect.coverage import kept, tally
from store.inspect.neighbors import neighbors
from store.inspect.provenance import architecture_in_short, in_short, provenance
from store.inspect.summary import intervals, summarize_teachers
from store.io.location import locate
from store.read.reader import FeatureStore
from store.read.selection import TeacherSelection
from tests.store import damage
from tests.store.make_fixture import FIXTURE

ROOT = Path(__file__).parents[3]
STORE = FIXTURE / "store"

ALL_COMMANDS = """
import json, sys
from typer.main import get_command
from store.cli.program import app
for line in json.load(sys.stdin):
    get_command(app)(line, prog_name="store", standalone_mode=False)
print(sorted({"torch", "ray", "torchvision", "open_clip", "transformers"} & {*sys.modules}), file=sys.stderr)
"""


@pytest.fixture
def look(capsys):
    """Run a command in this process; return what it printed, as JSON if it was asked for."""

    def run(*arguments):
        get_command(app)([str(argument) for argument in arguments], prog_name="store", standalone_mode=False)
        printed = capsys.readouterr().out
        return json.loads(printed) if "--json" in arguments else printed

    return run


@pytest.fixture(scope="module")
def store():
    return FeatureStore(STORE)


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("select:\n  alpha: {modalities: [ct]}\n  beta: {min_similarity: 0.8}\n")
    return path


@pytest.mark.end_to_end
def test_no_command_loads_a_learning_library():
    lines = [["ls"], ["coverage"], ["select"], ["provenance"], ["stats"], ["agreement"]]
    lines = [[command, str(STORE), "--json"] for (command,) in lines]
    lines.append(["neighbors", str(STORE), "0", "--teacher", "alpha", "--json"])
    program = [sys.executable, "-c", ALL_COMMANDS]
    done = subprocess.run(program, cwd=ROOT, input=json.dumps(lines), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_ls_gives_teachers_and_holes(look, store):
    alpha, beta = look("ls", STORE, "--json")
    assert alpha == {
        "teacher": "alpha",
        "spec_hash": store.spec("alpha").hash,
        "sides": ["image", "text"],
        "width": 4,
        "dtype": "float16",
        "ranges_done": 3,
        "ranges": 3,
        "rows_missing": 0,
        "holes": [],
    }
    assert (beta["ranges_done"], beta["rows_missing"], beta["dtype"]) == (2, 8, "int8")
    assert beta["holes"] == [{"rows": [8, 16], "ranges": [1, 2]}]
    assert "beta lacks range 1 (rows 8-15)" in look("ls", STORE)


@pytest.mark.parametrize(
    ("marked", "expected"),
    [([], []), ([0, 0], []), ([1], [(0, 1)]), ([1, 1, 0, 0, 1], [(0, 2), (4, 5)]), ([0, 1, 1], [(1, 3)])],
)
def test_runs_of_marked_places_become_intervals(marked, expected):
    assert intervals(np.array(marked, dtype=bool)) == expected


def test_holes_that_touch_are_one_and_an_outgrown_range_is_not_done(units):
    units.register()
    units.commit(2)
    damage.append_pairs(units.location, 3)
    opened = FeatureStore(units.path)
    (found,) = summarize_teachers(opened).values()
    assert [str(hole) for hole in found.holes] == ["ranges 0-1 (rows 0-7)", "ranges 2-3 (rows 10-12)"]
    assert (found.ranges_done, opened.info.ranges, found.rows_missing) == (0, 4, 11)


def test_a_store_without_teachers_is_looked_at_too(units, look):
    assert look("ls", units.path, "--json") == []
    assert look("coverage", units.path, "--json") == {}
    assert look("select", units.path, "--json")["rows_by_teachers"] == [10]
    assert look("stats", units.path, "--json")["teachers"] == []
    assert look("provenance", units.path, "--json") == {"teachers": {}, "runs": []}
    assert look("ls", units.path) == "no teacher was ever registered\nnext: python -m extract run --pipeline NAME\n"
    with pytest.raises(StoreError, match="0 teachers with image features; agreement is of two or more"):
        look("agreement", units.path)


def counts(ok, bad, not_applicable, missing, selected):
    return {"ok": ok, "bad": bad, "not_applicable": not_applicable, "missing": missing, "selected": selected}


def test_coverage_counts_by_teacher_and_modality(look, policy):
    assert look("coverage", STORE, "--json") == {
        "alpha": {"ct": counts(7, 0, 0, 0, 7), "xray": counts(7, 0, 0, 0, 7), "(unknown)": counts(5, 1, 0, 0, 5)},
        "beta": {"ct": counts(5, 0, 0, 2, 5), "xray": counts(3, 0, 1, 3, 3), "(unknown)": counts(1, 1, 1, 3, 1)},
    }
    selected = look("coverage", STORE, "--select", policy, "--json")
    assert {teacher: [entry["selected"] for entry in rows.values()] for teacher, rows in selected.items()} == {
        "alpha": [7, 0, 0],
        "beta": [0, 3, 1],
    }
    tables = look("coverage", STORE).split("\n\n")
    assert [table.strip().splitlines()[0].split(",")[0] for table in tables] == [
        "rows missing",
        "rows bad",
        "rows not applicable",
        "rows ok",
        "rows that may teach",
    ]
    assert [line.split() for line in tables[0].splitlines()[-2:]] == [
        ["alpha", "0", "0", "0", "0"],
        ["beta", "8", "2", "3", "3"],
    ]


def test_select_counts_what_a_policy_keeps(look, policy):
    assert look("select", STORE, "--select", policy, "--json") == {
        "feature_pairs": 11,
        "of_feature_pairs": 28,
        "teachers": {"alpha": {"ct": 7, "xray": 0, "(unknown)": 0}, "beta": {"ct": 0, "xray": 3, "(unknown)": 1}},
        "rows_by_teachers": [9, 11, 0],
    }
    assert look("select", STORE, "--json")["rows_by_teachers"] == [1, 10, 9]
    assert "11 of 28 that are ok (39.3%)" in look("select", STORE, "--select", policy)


@pytest.mark.parametrize(
    "rules",
    ["all", {"beta": {}}, {"alpha": {"top_quantile": 0.5}, "beta": {"modalities": ["xray"], "min_similarity": 0.5}}],
    ids=str,
)
def test_select_counts_what_the_trainer_would_use(store, rules):
    selection = rules if rules == "all" else {name: TeacherSelection(**rule) for name, rule in rules.items()}
    available_NT, modality = store.available(selection), store.modality()
    found = kept(tally(store, selection))
    assert found.feature_pairs == available_NT.sum() > 0
    per_row = available_NT.sum(axis=1).tolist()
    assert list(found.rows_by_teachers) == [per_row.count(teachers) for teachers in range(3)]
    for column, teacher in enumerate(store.teachers):
        of_modality = {name: int(available_NT[modality == name, column].sum()) for name in ("ct", "xray")}
        unknown = int(available_NT[[name is None for name in modality], column].sum())
        assert found.teachers[teacher] == {**of_modality, "(unknown)": unknown}


def test_a_policy_comes_from_a_pipeline_a_file_or_is_all(tmp_path, policy):
    config = tmp_path / "pipelines.yaml"
    config.write_text(
        "p:\n  corpora: {c: {files: [x.tar]}}\n  store: {path: s, corpus: c}\n  select: {alpha: {top_quantile: 0.5}}\n"
    )
    assert _selection(None, config, None) == "all"
    assert _selection("p", config, None) == {"alpha": TeacherSelection(top_quantile=0.5)}
    assert _selection(None, config, policy)["beta"] == TeacherSelection(min_similarity=0.8)
    policy.write_text("select: all\n")
    assert _selection(None, config, policy) == "all"
    with pytest.raises(typer.BadParameter, match="exclude each other"):
        _selection("p", config, policy)


def test_a_wrong_policy_is_named_by_line_and_key(policy):
    policy.write_text("select:\n  alpha: {min_similarty: 0.5}\n")
    with pytest.raises(ConfigError, match=r"policy\.yaml:2: .*alpha\.min_similarty: unknown key"):
        _selection(None, policy, policy)
    policy.write_text("alpha: {}\n")
    with pytest.raises(ConfigError, match="select"):
        _selection(None, policy, policy)


def test_a_policy_that_names_what_the_store_lacks_is_refused(look, policy):
    policy.write_text("select: {gamma: {}, alpha: {modalities: [mri]}}\n")
    with pytest.raises(ConfigError, match=r"select\.gamma: the store has no such teacher(.|\n)*'mri'"):
        look("select", STORE, "--select", policy)


def test_provenance_gives_specs_versions_devices_and_runs(look, store):
    found = look("provenance", STORE, "--json")
    alpha = found["teachers"]["alpha"]
    assert alpha["spec"] == store.spec("alpha").model_dump(mode="json")
    assert alpha["spec_hash"] == store.spec("alpha").hash
    used = {"units": 3, "versions": {"zarr": {"3": 3}}, "devices": {"cpu": 3}, "batch_sizes": {"2": 3}}
    assert {name: alpha[name] for name in used} == used
    (run,) = found["runs"]
    assert (run["run_id"], run["teachers"], run["units"], run["rows"]) == ("fixture", ["alpha", "beta"], 5, 32)
    assert run["first"] == run["last"] == "2026-11-23T12:00:00+00:00"
    printed = look("provenance", STORE)
    assert all(text in printed for text in ("abababab", "CC0-1.0", "not given", "float32", "size=8"))


def test_an_architecture_in_short_names_towers_or_single_values():
    resnet = {
        "embed_dim": 4,
        "vision_cfg": {"layers": [3, 4, 6, 3], "width": 64},
        "text_cfg": {"hf_model_name": "x/bert"},
    }
    assert architecture_in_short(resnet) == "layers 3-4-6-3 width 64 + x/bert"
    vit = {"vision_cfg": {"layers": 12, "width": 768, "patch_size": 16}, "text_cfg": {}}
    assert architecture_in_short(vit) == "layers 12 width 768 patch 16 + open_clip's defaults"
    assert architecture_in_short({"released_as": "BMCA"}) == "released_as=BMCA"
    assert in_short({"a": {"sha": "ab" * 32}, "mean": [1], "none": None}) == "sha=abababab"


def test_stats_of_the_small_store(look):
    found = look("stats", STORE, "--json")
    alpha, beta = found["teachers"]
    # Three features, one per triple, and 19 images and captions of their own.
    numbers = {name: alpha["image"][name] for name in ("duplicates", "shared_by_inputs", "constant_dimensions")}
    assert numbers == {"duplicates": 16, "shared_by_inputs": 16, "constant_dimensions": 0}
    assert (alpha["rows_ok"], alpha["sample"], alpha["width"]) == (19, 19, 4)
    cosines = sorted([24 / 25] * 7 + [120 / 169] * 7 + [240 / 289] * 5)
    assert alpha["similarity_mean"] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert alpha["similarity_quantiles"]["50"] == pytest.approx(cosines[9], abs=1e-6)
    assert [*alpha["similarity_quantiles"]] == ["1", "5", "25", "50", "75", "95", "99"]
    assert alpha["text"]["norm_mean"] == pytest.approx(1, abs=1e-3)
    assert alpha["truncated_captions"] is None
    assert (beta["rows_ok"], beta["image"]["norm_max"]) == (9, pytest.approx(1, abs=1e-6))
    assert "alpha: truncated captions: not recorded" in look("stats", STORE)


def test_stats_count_truncated_captions_of_the_receipts_that_record_them(look, units):
    units.register()
    for range_id, cut in enumerate(([1, 1, 0, 1], None, [0, 1])):
        features = units.features(range_id)
        features.truncated = None if cut is None else np.array(cut, bool)
        if range_id == 0:
            # A row that is not ok has no caption that was read in part.
            features.status[1], features.reasons[1] = Status.BAD_IMAGE, "no image"
        units.commit(range_id, features=features)
    (alpha,) = look("stats", units.path, "--json")["teachers"]
    assert (alpha["truncated_captions"], alpha["truncated_of"], alpha["rows_ok"]) == (3, 5, 9)
    assert "alpha: truncated captions: 3 of 5 (60.0%); not recorded of 4" in look("stats", units.path)
    recorded = [json.loads(path.read_bytes()) for path in sorted(units.path.glob("receipts/alpha/*.json"))]
    assert [receipt.get("truncated_captions", "absent") for receipt in recorded] == [2, "absent", 1]


def test_stats_of_a_sample_and_of_one_teacher(look):
    (beta,) = look("stats", STORE, "--teacher", "beta", "--sample", 4, "--seed", 3, "--json")["teachers"]
    assert (beta["teacher"], beta["rows_ok"], beta["sample"]) == ("beta", 9, 4)
    with pytest.raises(StoreError, match="no teacher 'gamma'"):
        look("stats", STORE, "--teacher", "gamma")


def test_stats_of_a_teacher_without_rows_are_empty(units, look):
    units.register()
    (alpha,) = look("stats", units.path, "--json")["teachers"]
    assert (alpha["rows_ok"], alpha["image"], alpha["similarity_mean"]) == (0, None, None)
    assert "alpha" in look("stats", units.path)


@pytest.mark.parametrize(
    ("teacher", "side", "row"), [("alpha", "image", 0), ("beta", "text", 17), ("beta", "image", 4)]
)
def test_neighbors_are_those_of_a_comparison_with_every_row(look, store, teacher, side, row):
    features = store.read(slice(None), teacher=teacher, side=side).astype(np.float64)
    ok = [other for other in np.flatnonzero(store.status(teacher) == Status.OK).tolist() if other != row]
    cosine = {
        other: features[row] @ features[other] / np.linalg.norm(features[row]) / np.linalg.norm(features[other])
        for other in ok
    }
    expected = sorted(ok, key=lambda other: (-round(cosine[other], 5), other))
    arguments = (STORE, row, "--teacher", teacher, "--side", side, "-k", 8, "--json")
    found = look("neighbors", *arguments)
    assert found["query"]["row"] == row
    assert [entry["row"] for entry in found["neighbors"]] == expected[:8]
    for entry in found["neighbors"]:
        pair = store.pairs.read(entry["row"], entry["row"] + 1).to_pylist()[0]
        assert entry["cosine"] == pytest.approx(cosine[entry["row"]], abs=1e-5)
        assert (entry["key"], entry["caption"], entry["modality"]) == (pair["key"], pair["caption"], pair["modality"])


def test_neighbors_prints_captions_and_says_what_cannot_be_asked(look, store):
    assert "finding 3" in look("neighbors", STORE, 6, "--teacher", "alpha", "-k", 2)
    with pytest.raises(StoreError, match="row 5 has no feature under alpha"):
        look("neighbors", STORE, 5, "--teacher", "alpha")
    with pytest.raises(StoreError, match="row 20 is beyond the last row, 19"):
        look("neighbors", STORE, 20, "--teacher", "alpha")
    everything = neighbors(store, 0, teacher="beta", side="image", count=1000)
    assert len(everything) == 8


def test_agreement_is_the_cka_of_the_rows_that_both_have(look, store, tmp_path):
    found = look("agreement", STORE, "--side", "text", "--csv", tmp_path / "a.csv", "--json")
    both = np.flatnonzero(store.available().all(axis=1))
    expected = linear_cka(*(store.read(both, teacher=teacher, side="text") for teacher in ("alpha", "beta")))
    assert found["cka"][0][1] == found["cka"][1][0] == pytest.approx(expected)
    assert [found["cka"][0][0], found["cka"][1][1]] == [pytest.approx(1), pytest.approx(1)]
    assert (found["rows"], found["sample"], found["of_rows"]) == ([[9, 9], [9, 9]], 9, 9)
    with (tmp_path / "a.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["teacher"], line["other"], line["rows"]) for line in lines[:2]] == [
        ("alpha", "alpha", "9"),
        ("alpha", "beta", "9"),
    ]
    assert float(lines[1]["cka"]) == pytest.approx(expected)
    assert "9 of 9 rows" in look("agreement", STORE)


def test_agreement_of_teachers_without_common_rows_is_none(units, look):
    for teacher, range_id in (("alpha", 0), ("beta", 0), ("gamma", 1)):
        units.register(teacher)
        units.commit(range_id, teacher=teacher)
    found = look("agreement", units.path, "--json")
    assert found["cka"][0][2] is None
    assert found["rows"][0] == [4, 4, 0]
    assert "-" in look("agreement", units.path)


@pytest.fixture(scope="module")
def in_memory():
    """The small store in an object storage."""
    place = locate("memory://look/store")
    for path in STORE.rglob("*"):
        if path.is_file():
            place.write(path.relative_to(STORE).as_posix(), path.read_bytes())
    return place.uri


TEACHERS, RECEIPTS, PARTS, RANGES = 2, 5, 1, 3


@pytest.mark.parametrize(
    ("act", "bound"),
    [
        (summarize_teachers, {"get": 1 + TEACHERS + RECEIPTS + 2 * PARTS, "list": 1 + 2 * TEACHERS, "head": PARTS}),
        (provenance, {"get": 1 + TEACHERS + RECEIPTS + 2 * PARTS, "list": 1 + 2 * TEACHERS, "head": PARTS}),
        (
            lambda store: tally(store, "all"),
            {"get": 1 + TEACHERS + 2 * RECEIPTS + 4 * PARTS + RANGES, "list": 1 + 2 * TEACHERS, "head": 2 * PARTS},
        ),
        (
            lambda store: tally(store, {"alpha": TeacherSelection(top_quantile=0.5)}),
            {"get": 1 + TEACHERS + 3 * RECEIPTS + 4 * PARTS + RANGES, "list": 1 + 2 * TEACHERS, "head": 2 * PARTS},
        ),
    ],
    ids=["ls", "provenance", "coverage", "select"],
)
def test_object_storage_is_asked_no_more_than_documented(in_memory, act, bound):
    store = FeatureStore(locate(in_memory))
    act(store)
    asked = dict(store.location.requests)
    assert asked.keys() == bound.keys()
    assert all(asked[kind] <= most for kind, most in bound.items()), asked
