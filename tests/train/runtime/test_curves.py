"""The curves of runs, as a drawing that needs no other file."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from store.errors import ConfigError
from train.cli.program import app
from train.runtime.curves import COLOURS, MOST_POINTS, drawn, runs_by_label
from train.runtime.metrics_log import METRICS

SVG = "{http://www.w3.org/2000/svg}"


def write(folder, *, steps=20, factor=1.0, name=None):
    folder.mkdir(parents=True)
    lines = [{"step": step, "loss": factor * (steps - step), "lr": 1e-3, "seconds": 9.0} for step in range(steps)]
    lines.append({"step": steps - 1, "image_to_text_recall@1": 0.25 * factor})
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def panels(svg):
    """Return the polylines of each panel by its title."""
    root = ET.fromstring(svg)  # noqa: S314 - our own
    return {group.find(f"{SVG}text").text: group.findall(f"{SVG}polyline") for group in root.iter(f"{SVG}g")}


def heights(polyline):
    return [float(place.split(",")[1]) for place in polyline.get("points").split()]


def test_each_number_has_a_panel_and_each_run_a_line_in_it(tmp_path):
    runs = runs_by_label([write(tmp_path / "one"), write(tmp_path / "two", factor=0.5)])
    found = panels(drawn(runs))
    assert list(found) == ["loss", "lr", "image_to_text_recall@1"]
    assert {name: len(lines) for name, lines in found.items()} == {"loss": 2, "lr": 2, "image_to_text_recall@1": 2}
    one, two = (heights(line) for line in found["loss"])
    assert [line.get("stroke") for line in found["loss"]] == list(COLOURS[:2])
    assert len(one) == 20
    assert one == sorted(one)  # a loss that falls goes down, and y grows downwards
    assert (two[0] - one[0]) / (one[-1] - one[0]) == pytest.approx(10 / 19, abs=0.01)
    assert "one 1 at step 19, two 0.5 at step 19" in drawn(runs)


def test_a_number_that_never_changes_and_one_that_is_there_once_are_drawn(tmp_path):
    svg = drawn(runs_by_label([write(tmp_path / "one", steps=1)]))
    root = ET.fromstring(svg)  # noqa: S314 - our own
    assert len(list(root.iter(f"{SVG}circle"))) == 3
    assert "nan" not in svg


def test_a_long_run_is_thinned_and_keeps_its_ends(tmp_path):
    whole = panels(drawn(runs_by_label([write(tmp_path / "one", steps=5000)])))["loss"][0]
    places = whole.get("points").split()
    assert len(places) == MOST_POINTS
    assert (places[0].split(",")[0], places[-1].split(",")[0]) == ("56.0", "316.0")


def test_runs_of_one_name_have_their_paths_and_no_name_is_markup(tmp_path):
    folders = [write(tmp_path / "a" / "<b>vit"), write(tmp_path / "c" / "<b>vit")]
    runs = runs_by_label(folders)
    assert list(runs) == [str(folder) for folder in folders]
    assert "<b>" not in drawn(runs)
    assert "&lt;b&gt;vit" in drawn(runs)


def test_more_runs_than_colours_are_told_apart(tmp_path):
    runs = runs_by_label([write(tmp_path / f"run{number}", factor=number + 1) for number in range(9)])
    looks = {(line.get("stroke"), line.get("stroke-dasharray")) for line in panels(drawn(runs))["loss"]}
    assert len(looks) == 9


@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_the_command_draws_finished_and_unfinished_runs_into_one_file(tmp_path, suffix):
    done, _ = write(tmp_path / "done"), write(tmp_path / ".running.partial")
    out = tmp_path / f"curves.{suffix}"
    shown = CliRunner().invoke(app, ["curves", str(done), str(tmp_path / "running"), "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    text = out.read_text()
    svg = re.search(r"<svg .*</svg>", text, re.DOTALL)[0]
    assert len(panels(svg)["loss"]) == 2
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert text.startswith("<!doctype html>" if suffix == "html" else "<svg ")


def test_a_folder_without_metrics_and_another_kind_of_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing: there are no metrics: neither .* \.nothing\.partial") as caught:
        runs_by_label([tmp_path / "nothing"])
    assert "train.students.NAME" in caught.value.hint
    shown = CliRunner().invoke(app, ["curves", str(write(tmp_path / "a")), "--out", str(tmp_path / "a.png")])
    assert isinstance(shown.exception, ConfigError)
    assert shown.exception.hint == f"--out {tmp_path / 'a.html'}"
