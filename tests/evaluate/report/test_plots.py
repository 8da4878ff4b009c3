from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from evaluate.metrics.bootstrap import Interval
from evaluate.metrics.model_ranks import Ranking
from evaluate.metrics.paired_tests import Difference
from evaluate.report.comparison import Comparison, DatasetDifference
from evaluate.report.drawing.forest import FOREST_LEFT, FOREST_RIGHT, forest, teachers_forest
from evaluate.report.drawing.radar import RADAR_CENTRE, RADAR_RADIUS, radar
from evaluate.report.drawing.ranks import ranks_plot
from store.report.elements import WIDTH
from tests.evaluate.synthetic import zero_shot


def number(value):
    return Interval(value=value, low=value - 0.05, high=value + 0.05, resamples=100, failed=0)


def gap(value, *, half=0.02):
    return Difference(value=value, low=value - half, high=value + half, p=0.5, resamples=100, failed=0)


def comparison(*gaps, verdict="undecided"):
    metric = zero_shot("mmkd", "lungs")[0].metrics["auroc"]
    rows = [
        DatasetDifference(
            task="zero_shot",
            dataset=f"set{place}",
            title=f"Set {place}",
            modality="xray",
            metric="auroc",
            n=90,
            split_digest="s",
            first=metric,
            second=metric,
            difference=one,
            p_holm=0.5,
            verdict=verdict,
        )
        for place, one in enumerate(gaps)
    ]
    return Comparison(
        first="mmkd",
        second="plip",
        rows=rows,
        means={"zero_shot": gap(0.0)},
        macro=gap(0.0),
        signed_rank_p={},
        left_out=[],
    )


def test_a_student_stands_against_every_teacher():
    far, near = comparison(gap(0.05)), comparison(gap(-0.1), gap(0.2))
    rows = [replace(far, second="plip", macro=gap(0.1)), replace(near, second="quilt", macro=gap(-0.02))]
    svg = teachers_forest("h", [*rows, replace(far, second="none", macro=None)])
    assert re.findall(r'class="bar (\w+)"', svg) == ["better", "undecided"]
    assert '<title id="h-title">mmkd against every teacher</title>' in svg
    assert ">none<" not in svg
    assert "+0.100 [+0.080, +0.120]" in svg
    assert teachers_forest("h", []) is None


def bars(svg, verdict="undecided"):
    found = re.findall(rf'<line x1="([\d.-]+)" y1="[\d.]+" x2="([\d.-]+)" y2="[\d.]+" class="bar {verdict}">', svg)
    return [(float(left), float(right)) for left, right in found]


def test_a_forest_plots_bars_are_in_scale():
    svg = forest("f", comparison(gap(0.05, half=0.05), gap(-0.1, half=0.05)))
    middle, half = (FOREST_LEFT + FOREST_RIGHT) / 2, (FOREST_RIGHT - FOREST_LEFT) / 2
    # The widest end, 0.15, is rounded up to 0.2 at the edge.
    expected = [(middle, middle + half * 0.5), (middle - half * 0.75, middle - half * 0.25)]
    for found, (left, right) in zip(bars(svg), expected, strict=True):
        assert found == pytest.approx((left, right), abs=0.06)
    assert "−0.100 [−0.150, −0.050]" in svg


def test_a_verdict_is_seen_without_colour_too():
    assert 'class="mark better"' in forest("f", comparison(gap(0.05), verdict="better"))
    assert ">better</td>" in forest("f", comparison(gap(0.05), verdict="better"))
    assert ">undecided</td>" in forest("f", comparison(gap(0.05)))


def test_a_difference_without_an_interval_has_no_bar():
    failed = Difference(value=0.1, low=None, high=None, p=None, resamples=100, failed=100)
    svg = forest("f", comparison(failed))
    assert bars(svg) == []
    assert "no interval" in svg


@pytest.mark.parametrize("value", [1e-9, 0.004, 0.3, 1.0, 250.0])
def test_no_bar_leaves_the_drawing(value):
    for left, right in bars(forest("f", comparison(gap(value, half=abs(value))))):
        assert 0 <= left <= right <= WIDTH


def corners(svg, name):
    (text,) = re.findall(rf'<polygon points="([^"]*)" class="{name}">', svg)
    return [tuple(map(float, corner.split(","))) for corner in text.split()]


def test_a_radars_corners_are_as_far_out_as_the_values():
    values = {"ct": number(0.8), "mri": number(0.6), "oct": number(1.0), "xray": number(0.7)}
    svg = radar("r", title="mmkd", values=values, best=dict.fromkeys(values, 1.0), low=0.5)
    distances = [math.dist(corner, RADAR_CENTRE) / RADAR_RADIUS for corner in corners(svg, "shape")]
    assert distances == pytest.approx([0.6, 0.2, 1.0, 0.4], abs=2e-3)
    assert [math.dist(corner, RADAR_CENTRE) for corner in corners(svg, "best-outline")] == pytest.approx(
        [RADAR_RADIUS] * 4, abs=0.1
    )
    first = corners(svg, "shape")[0]
    assert first[0] == pytest.approx(RADAR_CENTRE[0])
    assert first[1] < RADAR_CENTRE[1]


def test_a_radar_says_its_values_in_words_and_as_a_table():
    values = {name: number(0.6) for name in ("ct", "mri", "oct")}
    svg = radar("r", title="mmkd", values=values, best=dict.fromkeys(values, 0.9), low=0.0)
    assert svg.count("0.600 [0.550, 0.650]") == 6
    assert svg.count("<td>0.900</td>") == 3


RANKING = Ranking(
    models=["a", "b", "c"],
    mean_ranks=[1.0, 1.5, 3.0],
    datasets=8,
    statistic=9.0,
    p=0.0111,
    critical_difference=1.17,
    groups=[(0, 1)],
)


def test_a_rank_diagram_places_marks_by_rank_and_joins_what_is_not_told_apart():
    svg = ranks_plot("k", title="Zero shot", ranking=RANKING)
    marks = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert (marks[1] - marks[0]) / (marks[2] - marks[0]) == pytest.approx(0.25, abs=0.01)
    assert svg.count('class="group"') == 2  # one group, and the bar that shows the critical difference
    assert "Not told apart: a, b." in svg
    assert "p = 0.011" in svg


def test_a_rank_diagram_of_equal_models_says_so():
    svg = ranks_plot("k", title="t", ranking=replace(RANKING, groups=[], p=None, critical_difference=None))
    assert "Not told apart: none." in svg
    assert "Friedman" not in svg
